"""Keys, scopes and recorded state: what surrounds a function while it is traced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, TraceError
from chainrule.core.trees import State
from chainrule.trace import collect_state, is_training, phase, read_state, record_state, scope, using_key
from chainrule.trace.seeds import default_key, seeded


def draws(function, *args):
    cr.seed(3)
    return cr.compile(function)(*args)


def test_the_seed_decides_every_draw():
    cr.seed(1)
    first = cr.random.normal((4,)), cr.random.uniform((4,))
    cr.seed(1)
    second = cr.random.normal((4,)), cr.random.uniform((4,))
    cr.seed(2)
    third = cr.random.normal((4,))
    np.testing.assert_array_equal(first, second)
    assert (first[0] != third).any()


def test_draws_in_one_function_differ_and_every_call_draws_again():
    cr.seed(0)
    compiled = cr.compile(lambda: (cr.random.bits((8,)), cr.random.bits((8,))))
    one, two = compiled()
    three, four = compiled()
    assert len({tuple(x.tolist()) for x in (one, two, three, four)}) == 4
    cr.seed(0)
    np.testing.assert_array_equal(compiled(), (one, two))


def test_draws_inside_operations_and_loops_differ_from_those_around_them():
    def nested():
        inside = cr.operation_with_rule(lambda x: x + cr.random.normal((2,)), label="noisy")
        before = cr.random.normal((2,))
        called = inside(np.zeros(2, np.float32))
        again = inside(np.zeros(2, np.float32))
        _, steps = cr.scan(lambda c, _: (c, cr.random.normal((2,))), 0.0, length=3)
        solved, _ = cr.fixed_point(lambda z: 0 * z + cr.random.normal((2,)), np.zeros(2, np.float32), max_iterations=5)
        return before, called, again, steps, solved, cr.random.normal((2,))

    found = draws(nested)
    rows = [row for x in found for row in np.atleast_2d(x).tolist()]
    assert len(rows) == 8
    assert len(set(map(tuple, rows))) == 8
    for a, b in zip(found, draws(nested), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_step_of_a_loop_draws_its_own_numbers_reproducibly():
    def walk(start):
        return cr.scan(lambda c, _: (c + cr.random.normal(()), c), start, length=50)[1]

    path = draws(walk, np.zeros((), np.float32))
    steps = np.diff(path)
    assert len(set(steps.tolist())) == 49
    assert abs(steps.mean()) < 0.5
    np.testing.assert_array_equal(path, draws(walk, np.zeros((), np.float32)))


def test_a_key_given_inside_decides_the_draws_below_it():
    def keyed(key):
        with using_key(key):
            inside = cr.random.bits((3,)), cr.random.bits((3,))
        return *inside, cr.random.bits((3,))

    cr.seed(5)
    first = cr.compile(keyed)(cr.random.key(7))
    cr.seed(6)
    second = cr.compile(keyed)(cr.random.key(7))
    np.testing.assert_array_equal(first[:2], second[:2])
    assert (first[0] != first[1]).any()
    assert (first[2] != second[2]).any()
    with pytest.raises(ConfigError, match=r"call chainrule\.seed"), using_key(cr.random.key(7)):
        pass


def test_a_function_that_draws_nothing_takes_no_key():
    assert [value.name for value in cr.trace(lambda x: x * 2, np.ones(2)).inputs] == ["x"]
    graph = cr.trace(lambda x: x * cr.random.uniform((2,)), np.ones(2, np.float32))
    assert [value.name for value in graph.inputs] == ["x", "key"]


@pytest.mark.parametrize("number", [-1, 2**64])
def test_seeds_out_of_range_are_refused(number):
    with pytest.raises(ConfigError, match=r"from 0 to 2\*\*64 - 1"):
        cr.seed(number)


def test_large_seeds_are_distinct():
    found = set()
    for number in (0, 1, 2**32, 2**32 + 1, 2**64 - 1):
        cr.seed(number)
        found.add(tuple(cr.random.bits((2,)).tolist()))
    assert len(found) == 5


# --- scopes ---------------------------------------------------------------------------------------------------------------


def test_nodes_know_their_module_path_line_and_phase():
    def step(x):
        with scope("encoder"), scope("layers.2"), scope("linear"):
            y = cr.exp(x)
        with phase("update"):
            return y * 2

    first, *_, last = cr.trace(step, np.ones(2)).nodes
    assert (first.origin.path, first.origin.file, first.origin.phase) == (
        "encoder.layers.2.linear",
        "test_keys_and_state.py",
        "forward",
    )
    assert str(first.origin) == f"layer 'encoder.layers.2.linear' at test_keys_and_state.py:{first.origin.line}"
    assert (last.origin.path, last.origin.phase) == ("", "update")
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "cr.exp(x)" in source[first.origin.line - 1]


def test_the_mode_is_inherited_until_it_is_set():
    assert not is_training()
    with scope("model", training=True):
        with scope("inner"):
            assert is_training()
        with scope("frozen", training=False):
            assert not is_training()
    assert not is_training()


def test_scopes_belong_to_a_thread():
    seen = []
    with scope("model", training=True):
        thread = threading.Thread(target=lambda: seen.append(is_training()))
        thread.start()
        thread.join()
    assert seen == [False]


# --- state ----------------------------------------------------------------------------------------------------------------


def counting(model, x):
    """Counts its calls in a state leaf."""
    count = read_state(model["count"].value)
    record_state(model["count"].value, count + 1)
    return (model["w"] * x).sum() * (count + 1)


MODEL = {"w": np.array([1.0, 2.0]), "count": State(np.array(0.0))}


def test_calls_chain_in_order():
    def twice(model, x):
        return counting(model, x) + counting(model, x)

    (loss, new), gradients = cr.value_and_grad(twice, state=True)(MODEL, np.ones(2))
    assert loss == 3 + 6
    assert new["count"].value == 2
    np.testing.assert_array_equal(new["w"], MODEL["w"])
    np.testing.assert_array_equal(gradients["w"], [3, 3])
    assert gradients["count"].value == 0, "state gets no gradient"
    assert MODEL["count"].value == 0


def test_state_that_nobody_collects_is_an_error_that_names_the_layer():
    def model(model, x):
        with scope("norm", training=True):
            return counting(model, x)

    with pytest.raises(
        TraceError, match=r"layer 'norm'.*new state that nobody collects; use value_and_grad\(f, state=True\)"
    ):
        cr.grad(model)(MODEL, np.ones(2))


def test_state_is_collected_by_hand():
    def step(model, x):
        with collect_state() as collected:
            y = counting(model, x)
        return y, collected.apply(model)

    value, new = cr.compile(step)(MODEL, np.ones(2))
    assert value == 3
    assert new["count"].value == 1


def test_a_seeded_block_has_keys_of_its_own() -> None:
    cr.seed(1)
    first = default_key()
    with seeded(7):
        inner = [default_key(), default_key()]
        with seeded(7):
            assert np.array_equal(default_key(), inner[0])
        third = default_key()
    second = default_key()
    cr.seed(7)
    assert [default_key().tolist() for _ in range(3)] == [key.tolist() for key in (*inner, third)]
    cr.seed(1)
    assert [default_key().tolist() for _ in range(2)] == [first.tolist(), second.tolist()]


def test_the_seed_inside_a_block_is_that_of_the_block() -> None:
    cr.seed(1)
    first = default_key()
    with seeded(7):
        default_key()
        cr.seed(8)
        inner = default_key()
    second = default_key()
    with seeded(8):
        assert np.array_equal(default_key(), inner)
    cr.seed(1)
    assert [default_key().tolist() for _ in range(2)] == [first.tolist(), second.tolist()]


def trained(number: int, turn: Callable[[], None]) -> np.ndarray:
    """Weights that depend on every default key: those they start from, and those of dropout in every step."""

    def loss(weight, x):
        return (nn.Dropout(0.5)(x @ weight, training=True) ** 2).mean()

    with cr.seeded(number):
        turn()
        weight = nn.Linear(4, 3).weight
        step = cr.compile(lambda weight, x: weight - 0.1 * cr.grad(loss)(weight, x), engine="reference")
        for _ in range(5):
            turn()
            weight = step(weight, np.ones((8, 4), np.float32))
    return weight


def test_threads_that_train_at_once_do_not_disturb_each_other() -> None:
    alone = [trained(number, lambda: None) for number in range(4)]
    assert len({weight.tobytes() for weight in alone}) == 4
    # All threads take each step together.
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: trained(number, barrier.wait), range(4)))
    np.testing.assert_array_equal(together, alone)


def test_asynchronous_tasks_that_train_at_once_do_not_disturb_each_other() -> None:
    async def draw(number: int) -> list[list[int]]:
        with cr.seeded(number):
            keys = []
            for _ in range(3):
                keys.append(default_key().tolist())
                await asyncio.sleep(0)
        return keys

    async def both() -> list[list[list[int]]]:
        return await asyncio.gather(draw(1), draw(2))

    assert asyncio.run(both()) == [asyncio.run(draw(1)), asyncio.run(draw(2))]


def test_threads_without_a_block_never_get_the_same_key() -> None:
    cr.seed(0)
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda _: tuple(default_key().tolist()), range(400)))
    cr.seed(0)
    assert sorted(keys) == sorted(tuple(default_key().tolist()) for _ in range(400))


@pytest.mark.parametrize("number", [-1, 2**64, 1.0, True, "1", None])
def test_a_seed_is_a_number_of_64_bits(number: Any) -> None:
    with pytest.raises(ConfigError, match="a seed is an integer from 0 to 2"):
        cr.seed(number)
