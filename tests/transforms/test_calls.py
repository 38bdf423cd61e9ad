"""Calls after the first ones: they take a short cut, and nothing but their time may tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.core import trees
from chainrule.core.alignment import FEWEST_BYTES, LINE_BYTES
from chainrule.core.errors import ConfigError, ShapeError, TraceError
from chainrule.core.tree_code import Code
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.transforms import Compiled, calls, donation

X = np.arange(6, dtype=np.float32).reshape(2, 3)
ENGINES = ["reference", pytest.param("cpu", marks=pytest.mark.skipif(CPU.problem() is not None, reason="no compiler"))]
Log = list[str]
WRITE = Code.function


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> Log:
    """The names of the functions that were called in general, without the short cut."""
    names: Log = []
    call: Callable[..., Any] = Compiled._call

    def noted(self: Compiled[..., Any], args: Any, kwargs: Any) -> Any:
        names.append(self.function.__name__)
        return call(self, args, kwargs)

    monkeypatch.setattr(Compiled, "_call", noted)
    return names


class Pair(NamedTuple):
    left: Any
    right: Any


class Layer(nn.Module):
    def __init__(self, weight: Any, power: Any) -> None:
        self.weight, self.power = weight, power


leaf = st.sampled_from([np.float32(2), np.float64(3), 4.5, 7, True, "text", None, b"x"]) | st.builds(
    lambda shape, dtype: np.ones(shape, dtype),
    st.lists(st.integers(0, 3), max_size=2),
    st.sampled_from(["f4", "f8", "i8", "i4", "i2", "u1", "bool", "f2"]),
)
tree = st.recursive(
    leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b", 3, (1, 2), "def f(): pass"]), inner, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(nn.State, inner)
        | st.builds(Layer, st.just(X), st.sampled_from([2, 2.0, "name", (1, 2)]))
    ),
    max_leaves=8,
)


def same(x: Any, y: Any) -> bool:
    first, second = trees.flatten(x), trees.flatten(y)
    return first[1] == second[1] and all(
        type(a) is type(b) and (np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b)
        for a, b in zip(first[0], second[0], strict=True)
    )


@given(st.lists(tree, max_size=3), tree, tree)
def test_trees_of_every_kind_come_through(rest: list[Any], first: Any, more: Any) -> None:
    def function(x: Any, *rest: Any, scale: Any = 2.0, more: Any = (1, X)) -> Any:
        return [more, {"rest": rest, 5: x}, scale]

    compiled = cr.compile(function, engine="reference")
    results = [compiled(first, *rest, more=more) for _ in range(4)]
    assert all(same(result, results[0]) for result in results[1:])
    assert same(compiled(first), compiled(first))
    assert all(same(compiled(first, *rest, more=more), results[0]) for _ in range(2))


def test_from_the_third_call_on_the_short_cut_is_taken(engine: str, general: Log) -> None:
    def function(model: Any, x: Any, *, rate: float = 0.5, name: str = "n") -> Any:
        return {"y": x @ model.weight.T * rate}, name

    compiled = cr.compile(function, engine=engine, batch="x")
    model = Layer(X, 3)
    for count in (4, 4, 4, 7, 7, 4):
        x = np.ones((count, 3), np.float32)
        result, name = compiled(model, x, rate=0.25)
        np.testing.assert_allclose(result["y"], x @ X.T * 0.25)
        assert name == "n"
    # Another batch size once; the reference engine keeps only the latest prepared.
    assert len(general) == (3 if engine == "cpu" else 4)


OTHERS: list[tuple[str, Any, Any]] = [
    ("another value", {"a": X}, {"a": X + 1}),
    ("a column-major array", {"a": X}, {"a": np.asfortranarray(X + 1)}),
    ("a view with gaps", {"a": X}, {"a": np.repeat(X, 2, axis=1)[:, ::2]}),
    ("a read-only array", {"a": X}, {"a": np.broadcast_to(X[:1], (2, 3))}),
    ("another shape", {"a": X}, {"a": X[:1]}),
    ("another rank", {"a": X}, {"a": X[0]}),
    ("another type", {"a": X}, {"a": X.astype(np.float64)}),
    ("another byte order", {"a": X}, {"a": X.astype(">f4")}),
    ("a number", {"a": X}, {"a": 3.0}),
    ("a tree in place of an array", {"a": X}, {"a": [X, X]}),
    ("another key", {"a": X}, {"b": X}),
    ("one more", {"a": X}, {"a": X, "b": X}),
    ("one less", {"a": X, "b": X}, {"a": X}),
    ("another order", {"a": X, "b": X + 1}, {"b": X + 1, "a": X}),
    ("a tuple", [X, X], (X, X)),
    ("a longer list", [X, X], [X, X, X]),
    ("an equal number of another type", [1, X], [True, X]),
    ("another number", [1, X], [2, X]),
    ("another float", [1.5, X], [2.5, X]),
    ("a NumPy float", [1.5, X], [np.float64(2.5), X]),
    ("a float that is not double", [1.5, X], [np.float32(2.5), X]),
    ("None", [X, X], [X, None]),
    ("another setting", Layer(X, 2), Layer(X, 3)),
    ("a setting of another type", Layer(X, 2), Layer(X, 2.0)),
    ("a subclass of dict", {"a": X}, type("Other", (dict,), {})(a=X)),
    ("another named tuple", Pair(X, X), (X, X)),
]


@pytest.mark.parametrize(("first", "other"), [case[1:] for case in OTHERS], ids=[case[0] for case in OTHERS])
def test_what_is_different_is_noticed(first: Any, other: Any, engine: str) -> None:
    def function(tree: Any) -> Any:
        leaves, definition = trees.flatten(tree)
        return repr(definition), [x * 2 if isinstance(x, cr.Array) else x for x in leaves]

    warm, fresh = cr.compile(function, engine=engine), cr.compile(function, engine=engine)
    for _ in range(3):
        warm(first)
    try:
        expected = fresh(other)
    except TraceError as error:
        with pytest.raises(TraceError, match=str(error)[:40]):
            warm(other)
    else:
        assert same(warm(other), expected)
    assert same(warm(first), fresh(first))


def test_mistakes_are_still_explained(engine: str) -> None:
    compiled = cr.compile(lambda x, y, scale=1.0: x * scale + y, engine=engine, batch=("x", "y"))
    for _ in range(3):
        compiled(X, X)
    with pytest.raises(ShapeError, match=r"input 'y' should be f32\[B, 3\], not float32 of shape \(1, 3\)"):
        compiled(X, X[:1])
    with pytest.raises(ShapeError, match="argument 'x' has the batch size as its first axis"):
        compiled(np.array(1.0), X)
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        compiled(X)
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        compiled(X, X, size=2)
    with pytest.raises(TraceError, match="argument 'scale' contains a set"):
        compiled(X, X, {1})
    np.testing.assert_array_equal(compiled(X, X), X + X)


def test_keyword_arguments_in_any_order(engine: str) -> None:
    compiled = cr.compile(lambda x, y: x - y, engine=engine)
    for _ in range(3):
        np.testing.assert_array_equal(compiled(x=X, y=2 * X), -X)
        np.testing.assert_array_equal(compiled(y=X, x=2 * X), X)
        np.testing.assert_array_equal(compiled(2 * X, y=X), X)


def test_draws_without_a_key_differ_from_call_to_call() -> None:
    compiled = cr.compile(lambda: cr.random.uniform((3,)), engine="reference")
    cr.seed(1)
    drawn = [compiled() for _ in range(5)]
    cr.seed(1)
    again = [compiled() for _ in range(5)]
    assert len({array.tobytes() for array in drawn}) == 5
    assert all(np.array_equal(x, y) for x, y in zip(drawn, again, strict=True))


def test_several_threads_call_at_once(engine: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    compiled = cr.compile(lambda x: cr.tanh(x @ x.T).sum(1), engine=engine)
    arrays = [np.random.default_rng(n).normal(size=(40, 40)) for n in range(8)]
    expected = [np.tanh(x @ x.T).sum(1) for x in arrays]
    for _ in range(3):
        compiled(arrays[0])
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            for found, wanted in zip(pool.map(compiled, arrays), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-9)


# --- donation ---------------------------------------------------------------------------------------------------------


def accumulate(state: Any, x: Any) -> Any:
    return {"w": state["w"] + x.sum(0), "n": state["n"] + 1.0}, x.sum()


def started() -> dict[str, Any]:
    return {"w": np.zeros(3, np.float32), "n": np.zeros((), np.float32)}


def warmed(engine: str) -> tuple[Any, Any]:
    compiled = cr.compile(accumulate, donate="state", batch="x", engine=engine)
    state = started()
    for _ in range(4):
        state, _ = compiled(state, X)
    return compiled, state


def test_donated_arrays_are_refused_at_every_later_call(engine: str, general: Log) -> None:
    compiled, state = warmed(engine)
    assert len(general) == 2
    for count in range(5, 9):
        before = state
        state, total = compiled(state, X)
        assert total == X.sum()
        np.testing.assert_array_equal(state["w"], count * X.sum(0))
        for given_away in (before, {"w": before["w"], "n": state["n"]}, {"w": state["w"], "n": before["n"]}):
            with pytest.raises(ConfigError, match="argument 'state' was donated to an earlier call"):
                compiled(given_away, X)
        with pytest.raises(ConfigError, match="argument 'x' was donated"):
            cr.compile(lambda x: x + 1, engine=engine)(before["w"])
    assert state["n"] == 8


def test_an_array_donated_elsewhere_is_refused(engine: str) -> None:
    compiled, state = warmed(engine)
    cr.compile(lambda w: w * 2, donate="w", engine=engine)(state["w"])
    with pytest.raises(ConfigError, match="argument 'state' was donated"):
        compiled(state, X)


def test_nothing_else_is_written_over(engine: str) -> None:
    compiled, state = warmed(engine)
    base = np.ones((2, 3), np.float32)
    read_only = np.ones(3, np.float32)
    read_only.flags.writeable = False
    for w in (base[0], read_only, np.ones(6, np.float32)[::2]):
        kept = w.copy()
        compiled({"w": w, "n": np.zeros((), np.float32)}, X)
        np.testing.assert_array_equal(w, kept)
    np.testing.assert_array_equal(base, 1)
    state["w"].flags.writeable = False
    kept = state["w"].copy()
    compiled(state, X)
    np.testing.assert_array_equal(state["w"], kept)


@pytest.mark.parametrize("size", [3, FEWEST_BYTES])
def test_the_state_may_be_passed_beside_itself(engine: str, size: int) -> None:
    compiled = cr.compile(lambda state, x: ([s * 2 for s in state], x + state[0]), donate="state", engine=engine)
    state = [np.ones(size), np.ones(size)]
    for _ in range(4):
        state, _ = compiled(state, np.ones(size))
    for look in (lambda array: array, lambda array: array[:], lambda array: array.view()):
        kept = state[0].copy()
        found, added = compiled(state, look(state[0]))
        np.testing.assert_array_equal(added, 2 * kept)
        np.testing.assert_array_equal(found[0], 2 * kept)
        state = found
    shared = np.ones(size)
    (first, second), _ = compiled([shared, shared], np.ones(size))
    assert (first == 2).all() and (second == 2).all()


def test_a_large_state_moves_to_a_line_of_a_cache_and_stays_there(engine: str) -> None:
    compiled = cr.compile(lambda state: state * 0.5, donate="state", engine=engine)
    for _ in range(8):
        state = np.ones(FEWEST_BYTES, np.float32)
        places = set()
        for _ in range(5):
            state = compiled(state)
            places.add(state.ctypes.data)
        np.testing.assert_array_equal(state, np.float32(0.5**5))
        if engine == "cpu":
            (place,) = places
            assert place % LINE_BYTES == 0


def test_what_was_donated_is_forgotten_when_it_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(donation, "_MOST", 10)
    for known in (donation.given_away, donation.issued):
        monkeypatch.setattr(known, "most", 10)
    compiled = cr.compile(lambda state: [s + 1 for s in state], donate="state", engine="reference")
    kept = []
    elsewhere = [len(donation.given_away), len(donation.issued)]  # of tests before this one
    state = [np.zeros(2) for _ in range(6)]
    for _ in range(200):
        before = state[0]
        state = compiled(state)
        kept.append(np.empty(1))  # so that numbers of objects are not all used again
        assert before in donation.given_away
    assert len(donation.given_away) < elsewhere[0] + 100
    assert len(donation.issued) < elsewhere[1] + 100


def test_the_short_cut_is_short_where_hundreds_of_arrays_are_donated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes a millisecond to compile thirty lines, and the second call of every start waits for it."""
    texts: list[str] = []
    monkeypatch.setattr(
        calls,
        "Code",
        type("Code", (calls.Code,), {"function": lambda self, p: texts.extend(self.lines) or WRITE(self, p)}),
    )
    compiled = cr.compile(
        lambda state, x: ({k: v + x for k, v in state.items()}, x), donate="state", engine="reference"
    )
    state = {f"w{k}": np.zeros(3, np.float32) for k in range(300)}
    for count in range(1, 6):
        state, _ = compiled(state, np.ones(3, np.float32))
        assert all((array == count).all() for array in state.values())
    assert 10 < len(texts) < 30
