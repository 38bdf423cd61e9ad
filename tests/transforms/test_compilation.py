"""compile: what is traced and what is static, one program for every batch size, donation, and looking inside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ConfigError, ShapeError, TraceError
from chainrule.engines.reference import ENGINE
from chainrule.ir.verify import verify
from chainrule.transforms import compilation

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Counting:
    """The reference engine, counting the graphs that it is given."""

    name = "counting"

    def __init__(self):
        self.loaded = []

    def load(self, graph, *args, **kwargs):
        self.loaded.append(verify(graph))
        return ENGINE.load(graph, *args, **kwargs)


@pytest.fixture
def engine(monkeypatch):
    counting = Counting()
    monkeypatch.setattr(compilation, "engine_named", lambda name: counting)
    return counting


def test_another_batch_size_compiles_nothing(engine):
    compiled = cr.compile(lambda w, x, y: cr.value_and_grad(lambda w: cr.square(x @ w - y).mean())(w), batch=("x", "y"))
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 2))
    for count in (32, 32, 7, 1, 1000, 2):
        x, y = rng.normal(size=(count, 3)), rng.normal(size=(count, 2))
        loss, gradient = compiled(w, x, y)
        assert float(loss) == pytest.approx(np.mean((x @ w - y) ** 2), rel=1e-12)
        np.testing.assert_allclose(gradient, 2 * x.T @ (x @ w - y) / (2 * count), rtol=1e-11, atol=1e-13)
    assert len(engine.loaded) == 1


def test_other_shapes_types_and_structures_compile_again(engine):
    compiled = cr.compile(lambda x: cr.exp(x["a"]))
    for tree in ({"a": X}, {"a": X.copy()}, {"a": X[:1]}, {"a": X.astype(np.float64)}, {"a": X, "b": X}):
        compiled(tree)
        compiled(tree)
    assert len(engine.loaded) == 4


def test_python_floats_are_traced_and_everything_else_is_static(engine):
    def powers(x, factor, power, flip=False, name="x", function=None):
        for _ in range(power):
            x = x * factor
        return (-x if flip else x), name

    compiled = cr.compile(powers)
    assert compiled(1.0, 2.0, 3)[0] == 8
    assert compiled(1.0, 3.0, 3)[0] == 27
    assert compiled(7.0, 0.5, 3)[0] == 7 / 8
    assert len(engine.loaded) == 1
    assert compiled(1.0, 2.0, 4)[0] == 16
    assert compiled(1.0, 2.0, power=4, flip=True) == (-16, "x")
    assert compiled(1.0, 2.0, 4, name="y")[1] == "y"
    assert len(engine.loaded) == 4
    assert compiled(1.0, 2.0, 1)[0] == 2
    assert compiled(1.0, 2.0, True)[0] == 2
    assert len(engine.loaded) == 6, "1 and True compare equal and are not the same argument"


def test_results_of_every_kind_come_back():
    class Pair(NamedTuple):
        left: object
        right: object

    def function(x):
        return Pair({"a": x, "b": [1, 2.5, "text", None, True]}, (X, x.shape))

    found = cr.compile(function)(X)
    np.testing.assert_array_equal(found.left["a"], X)
    assert [found.left["b"][0], found.left["b"][1], *found.left["b"][2:]] == [1, 2.5, "text", None, True]
    np.testing.assert_array_equal(found.right[0], X)
    assert found.right[0] is not X


def test_arguments_bind_like_pythons():
    def function(a, /, b, *rest, scale=2.0, **more):
        return (a - b) * scale + sum(rest) + more.get("extra", 0.0)

    compiled = cr.compile(function)
    for args, kwargs in (
        ((5.0, 1.0), {}),
        ((5.0,), {"b": 2.0, "scale": 3.0}),
        ((5.0, 1.0, 10.0, 20.0), {"extra": 0.5}),
    ):
        assert compiled(*args, **kwargs) == function(*args, **kwargs)
    with pytest.raises(TypeError, match="function: missing a required argument: 'b'"):
        compiled(5.0)


def test_a_compiled_function_can_be_called_while_tracing():
    inner = cr.compile(lambda x: x * 2)
    np.testing.assert_array_equal(cr.compile(lambda x: inner(x) + 1)(X), X * 2 + 1)
    np.testing.assert_array_equal(cr.grad(lambda x: inner(x).sum())(X), np.full_like(X, 2))


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: cr.compile(lambda x: x, batch="y"), ConfigError, "batch names 'y', but the function has parameters x"),
        (lambda: cr.compile(lambda x: x, donate=("z",)), ConfigError, "donate names 'z'"),
        (lambda: cr.compile(3), ConfigError, "a function is compiled or traced, not 3"),
        (lambda: cr.trace(None, 1.0), ConfigError, "a function is compiled or traced, not None"),
        (lambda: cr.compile(lambda x: x, engine="fast"), ConfigError, "no engine 'fast'; choose auto or reference"),
        (
            lambda: cr.compile(lambda x: x, batch="x")(np.array(1.0)),
            ShapeError,
            "argument 'x' has the batch size as its first axis",
        ),
        (
            lambda: cr.compile(lambda x, y: x + y, batch=("x", "y"))(X, X[:1]),
            ShapeError,
            r"input 'y' should be f32\[B, 3\], not float32 of shape \(1, 3\)",
        ),
        (
            lambda: cr.compile(lambda x: x)([{1, 2}]),
            TraceError,
            "argument 'x' contains a set, which is neither an array nor hashable",
        ),
        (lambda: cr.compile(lambda x: x).graph, ConfigError, "has not been called yet"),
    ],
)
def test_mistakes(use, error, message):
    with pytest.raises(error, match=message):
        use()


# --- donation -------------------------------------------------------------------------------------------------------------


def step(state, x):
    return {"w": state["w"] + x.sum(0), "n": state["n"] + 1.0}


def test_a_donated_array_cannot_be_used_again():
    compiled = cr.compile(step, donate=("state",), batch="x")
    state = {"w": np.zeros(3, np.float32), "n": np.zeros((), np.float32)}
    given = state["w"]
    for count in range(1, 5):
        state = compiled(state, X)
        np.testing.assert_array_equal(state["w"], count * X.sum(0))
    with pytest.raises(
        ConfigError, match=r"argument 'state' was donated to an earlier call.*use what that call returned"
    ):
        compiled({"w": given, "n": np.zeros((), np.float32)}, X)
    with pytest.raises(ConfigError, match="argument 'x' was donated"):
        cr.compile(lambda x: x + 1)(given)
    assert state["n"] == 4


def test_only_donated_arguments_are_written_over():
    """Numbers among the arguments, aliases, views and read-only arrays: nothing else may change."""

    def mixed(rate, x, scale, state, y):
        return [s * rate + x * scale for s in state], x - y

    compiled = cr.compile(mixed, donate=("state",))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    base = rng.normal(size=(3, 50))
    read_only = rng.normal(size=50)
    read_only.flags.writeable = False
    shared = rng.normal(size=50)
    state = [base[0], read_only, shared, shared, rng.normal(size=50)]
    expected = [s * 0.5 + x * 2.0 for s in state], x - y
    before = [a.copy() for a in (x, y, base, read_only)]
    found = compiled(0.5, x, 2.0, state, y)
    for ours, theirs in zip([*found[0], found[1]], [*expected[0], expected[1]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)
    for array, copy in zip((x, y, base, read_only), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_array_that_is_donated_and_passed_beside_is_not_destroyed():
    compiled = cr.compile(lambda state, x: (state * 2, state + x, x * 3), donate=("state",))
    x = np.arange(4.0)
    doubled, added, tripled = compiled(x, x)
    assert doubled.tolist() == [0, 2, 4, 6]
    assert added.tolist() == [0, 2, 4, 6]
    assert tripled.tolist() == [0, 3, 6, 9]


def test_donating_changes_no_result():
    rng = np.random.default_rng(1)

    def train(state, x):
        loss, gradient = cr.value_and_grad(lambda w: cr.square(cr.tanh(x @ w) - 0.3).mean())(state["w"])
        m = 0.9 * state["m"] + gradient
        return {"w": state["w"] - 0.1 * m, "m": m}, loss

    plain, giving = cr.compile(train, batch="x"), cr.compile(train, donate="state", batch="x")
    start = {"w": rng.normal(size=(3, 2)), "m": np.zeros((3, 2))}
    one, two = start, {name: value.copy() for name, value in start.items()}
    for count in (5, 5, 2, 5):
        x = rng.normal(size=(count, 3))
        one, loss = plain(one, x)
        two, other = giving(two, x)
        assert loss == other
        for name in start:
            np.testing.assert_array_equal(one[name], two[name])


# --- looking inside -------------------------------------------------------------------------------------------------------


def test_the_graph_of_the_latest_call():
    compiled = cr.compile(lambda x: cr.exp(x).sum())
    compiled(X)
    assert [value.name for value in compiled.graph.inputs] == ["x"]
    assert str(compiled.graph.input_types[0]) == "f32[2, 3]"
    compiled(X[:1])
    assert str(compiled.graph.input_types[0]) == "f32[1, 3]"
    compiled(X)
    assert str(compiled.graph.input_types[0]) == "f32[2, 3]"


def test_the_backward_graph_reads_forward_values_and_writes_gradients():
    compiled = cr.compile(lambda w, x: cr.value_and_grad(lambda w: cr.square(cr.tanh(x @ w)).sum())(w), batch="x")
    w = np.ones((3, 2), np.float32)
    compiled(w, X)
    back = verify(compiled.backward_graph)
    assert {node.origin.phase for node in back.nodes} == {"backward"}
    assert back.outputs
    assert [str(value.type) for value in back.outputs] == ["f32[3, 2]"]
    assert len(back.nodes) < len(compiled.graph.nodes)


def test_names_of_inputs_and_outputs_are_paths():
    graph = cr.trace(lambda model, x: {"y": x * model["layers"][0], "z": (x,)}, {"layers": [X]}, X)
    assert [value.name for value in graph.inputs] == ["model.layers.0", "x"]
    assert graph.output_names == ("y", "z.0")


def test_a_graph_taken_out_is_run_by_any_engine():
    compiled = cr.compile(lambda x: x + cr.random.uniform((2, 3)))
    graph, arrays = compiled.graph_and_arrays(X)
    (found,) = ENGINE.load(cr.parse_graph(cr.print_graph(graph)))(arrays)
    assert ((found >= X) & (found < X + 1)).all()


def test_the_reference_engine_has_no_c_to_show():
    for engine, start in (("reference", "the reference engine, which"), ("auto", 'engine="auto" chose the reference')):
        step = cr.compile(lambda x: x + 1, engine=engine)
        step(np.zeros(2))
        for show in (lambda step: step.c_source, lambda step: step.lowering):
            with pytest.raises(ConfigError, match=f'^{start}.*so there is no .*; choose engine="cpu" for C'):
                show(step)
