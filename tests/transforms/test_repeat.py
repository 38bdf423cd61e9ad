"""Compiled functions that run many times in one go."""

import numpy as np
import pytest

import chainrule as cr
from chainrule.core import trees
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.ops import random

ENGINES = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(CPU.problem() is not None, reason="no C compiler")),
]


def descend(state, x, y):
    def loss(w):
        error = x @ w["w"] + w["b"] - y
        return (error * error).mean()

    value, slopes = cr.value_and_grad(loss)(state["w"])
    new = trees.tree_map(lambda w, g: w - 0.1 * g, state["w"], slopes)
    return {"w": new, "n": state["n"] + 1, "kind": state["kind"]}, {"loss": value, "kind": "linear"}


def beginning():
    return {"w": {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float32)}, "n": np.asarray(0), "kind": "a"}


def data(count=20):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 3)).astype(np.float32), rng.normal(size=(count, 2)).astype(np.float32)


def one_by_one(step, rows, batch):
    state, losses = beginning(), []
    x, y = data()
    for start in range(0, len(rows), batch):
        state, report = step(state, x[rows[start : start + batch]], y[rows[start : start + batch]])
        losses.append(report["loss"])
    return state, np.stack(losses)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("donate", [(), ("state",)])
@pytest.mark.parametrize("batch", [1, 5])
def test_it_is_a_loop_over_calls(engine, donate, batch):
    step = cr.compile(descend, donate=donate, engine=engine, batch=("x", "y"))
    rows = np.random.default_rng(1).permutation(20)
    state, report = step.repeat((beginning(), *data()), carry="state", steps=20 // batch, batch=batch, rows=rows)
    expected, losses = one_by_one(step, rows, batch)
    assert report["kind"] == "linear"
    assert state["kind"] == "a"
    assert state["n"] == 20 // batch
    np.testing.assert_array_equal(report["loss"], losses)
    for x, y in zip(trees.leaves(state["w"]), trees.leaves(expected["w"]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_is_donated_cannot_be_used_again_and_the_rest_stays():
    x, y = data()
    state = beginning()
    donating = cr.compile(descend, donate=("state",), batch=("x", "y"))
    following, _ = donating.repeat((state, x, y), carry="state", steps=4, batch=5)
    with pytest.raises(ConfigError, match="donated"):
        donating.repeat((state, x, y), carry="state", steps=4, batch=5)
    donating.repeat((following, x, y), carry="state", steps=4, batch=5)
    kept = beginning()
    plain = cr.compile(descend, batch=("x", "y"))
    first, _ = plain.repeat((kept, x, y), carry="state", steps=4, batch=5)
    second, _ = plain.repeat((kept, x, y), carry="state", steps=4, batch=5)
    for a, b in zip(trees.leaves(first["w"]), trees.leaves(second["w"]), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(trees.leaves(kept["w"]), trees.leaves(beginning()["w"]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_of_a_state_may_exchange_their_places(engine):
    """The result for each of two arrays is written over the other: after an even number of steps each is where it was."""

    def crossed(state, x):
        first, second = state
        return (0.5 * second + x.mean(0), first - x.sum(0)), x.sum()

    x = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    step = cr.compile(crossed, donate=("state",), engine=engine, batch=("x",))
    plain = cr.compile(crossed, engine="reference", batch=("x",))
    state, expected = ((np.zeros(16, np.float32), np.ones(16, np.float32)) for _ in range(2))
    for steps in (2, 3, 4, 1, 2, 3):
        given = state
        state, _ = step.repeat((given, x), carry="state", steps=steps, batch=5)
        assert not {*map(id, given)} & {*map(id, state)}
        with pytest.raises(ConfigError, match="donated"):
            step.repeat((given, x), carry="state", steps=1, batch=5)
        expected, _ = plain.repeat((expected, x), carry="state", steps=steps, batch=5)
        for found, wanted in zip(state, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "given",
    [np.asfortranarray, lambda x: x[:, ::-1], lambda x: x.astype(">f4"), lambda x: (x * 50).astype(np.int8)],
    ids=["columns first", "reversed", "other byte order", "narrow"],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_examples_that_no_program_can_read_in_place(engine, given, shuffled):
    step = cr.compile(descend, engine=engine, batch=("x", "y"))
    x, y = data()
    rows = np.arange(20)[::-1].copy() if shuffled else None
    found, _ = step.repeat((beginning(), given(x), y), carry="state", steps=4, batch=5, rows=rows)
    whole = np.ascontiguousarray(given(x)).astype(np.int32 if given(x).dtype.kind == "i" else np.float32)
    expected, _ = step.repeat((beginning(), whole, y), carry="state", steps=4, batch=5, rows=rows)
    np.testing.assert_array_equal(found["w"]["w"], expected["w"]["w"])


def test_what_cannot_be_repeated_is_said():
    x, y = data()
    with pytest.raises(ConfigError, match="no argument 'weights' to carry"):
        cr.compile(descend, batch=("x", "y")).repeat((beginning(), x, y), carry="weights", steps=1, batch=5)
    with pytest.raises(ConfigError, match="first part has the form of 'state'"):
        cr.compile(lambda state, x: (x.sum(), state), batch=("x",)).repeat(
            ({"a": np.zeros(3)}, x), carry="state", steps=1, batch=5
        )
    with pytest.raises(ConfigError, match="only 'state' can be donated"):
        cr.compile(descend, donate=("state", "x"), batch=("x", "y")).repeat(
            (beginning(), x, y), carry="state", steps=1, batch=5
        )
    with pytest.raises(ConfigError, match="draws random numbers without a key"):
        cr.compile(lambda state, x: (state + random.normal(()) + x.sum(), 0.0), batch=("x",)).repeat(
            (np.asarray(1, np.float32), x), carry="state", steps=2, batch=5
        )
    with pytest.raises(ShapeError, match="need 25 examples, but there are 20"):
        cr.compile(descend, batch=("x", "y")).repeat((beginning(), x, y), carry="state", steps=5, batch=5)
    with pytest.raises(ShapeError, match=r"state is f32\[2\] before a step but f32\[\] after"):
        cr.compile(lambda state, x: (state.sum() + x.sum(), 0.0), batch=("x",)).repeat(
            (np.zeros(2, np.float32), x), carry="state", steps=2, batch=5
        )
