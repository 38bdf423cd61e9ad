"""Observed runs see every value, and the first NaN or infinity is traced to its layer."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ShapeError
from chainrule.engines.reference import ReferenceProgram
from chainrule.insight import first_nonfinite, observe
from chainrule.ir.graph import Node
from chainrule.trace import scope

RNG = np.random.default_rng(0)


def network(w: Any, v: Any, x: Any) -> Any:
    with scope("hidden"):
        h = cr.tanh(x @ w)
    with scope("output"):
        return cr.exp(h @ v).sum()


def recurrent(w: Any, xs: Any) -> Any:
    def body(state: Any, x: Any) -> tuple[Any, Any]:
        with scope("cell"):
            state = cr.exp(state @ w + x)
        return state, state

    with scope("encoder"):
        state, ys = cr.scan(body, np.zeros(3), xs)
    return (ys * ys).sum() + state.sum()


def test_every_value_is_what_the_function_computes() -> None:
    w, v, x = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2)), RNG.normal(size=(5, 3))
    graph = cr.trace(network, w, v, x)
    seen = observe(graph, [w, v, x])
    assert set(seen) == {*graph.inputs, *(value for node in graph.nodes for value in node.outputs)}
    tanh = next(node for node in graph.nodes if node.primitive.name == "tanh")
    np.testing.assert_allclose(seen[tanh.output], np.tanh(x @ w), rtol=1e-15)
    np.testing.assert_allclose(seen[graph.outputs[0]], np.exp(np.tanh(x @ w) @ v).sum(), rtol=1e-15)


def test_observed_arrays_are_not_overwritten_by_later_nodes() -> None:
    # Every node of this chain could write over the array of the one before.
    x = RNG.normal(size=100)
    graph = cr.trace(lambda x: cr.exp(cr.sin(cr.cos(x * 2.0))), x)
    seen = observe(graph, [x])
    held = {node.primitive.name: seen[node.output] for node in graph.nodes}
    np.testing.assert_allclose(held["cos"], np.cos(2 * x), rtol=1e-15)
    np.testing.assert_allclose(held["sin"], np.sin(np.cos(2 * x)), rtol=1e-15)


def test_an_observed_run_computes_the_same_bits() -> None:
    w, xs = RNG.normal(size=(3, 3)) * 0.1, RNG.normal(size=(4, 3))
    graph = cr.trace(recurrent, w, xs)
    [expected] = ReferenceProgram(graph)([w, xs])
    np.testing.assert_array_equal(observe(graph, [w, xs])[graph.outputs[0]], expected)


def test_bodies_of_loops_are_reported_at_every_step_before_their_loop() -> None:
    w, xs = np.zeros((3, 3)), RNG.normal(size=(4, 3))
    graph = cr.trace(recurrent, w, xs)
    order: list[str] = []

    def note(node: Node, operands: Any, results: Any) -> None:
        assert len(operands) == len(node.inputs) and len(results) == len(node.outputs)
        order.append(node.primitive.name)

    ReferenceProgram(graph).observe([w, xs], note)
    assert order.count("exp") == 4
    assert order.index("scan") > max(place for place, name in enumerate(order) if name == "exp")


def test_arrays_that_do_not_fit_are_refused_by_name() -> None:
    graph = cr.trace(network, np.ones((3, 4)), np.ones((4, 2)), np.ones((5, 3)))
    with pytest.raises(ShapeError, match=r"input 'v' should be f64\[4, 2\]"):
        observe(graph, [np.ones((3, 4)), np.ones((4, 3)), np.ones((5, 3))])


def test_nothing_is_found_where_all_outputs_are_finite() -> None:
    w, v, x = np.ones((3, 4)), np.ones((4, 2)), np.ones((5, 3))
    assert first_nonfinite(cr.trace(network, w, v, x), [w, v, x]) is None


def test_the_layer_and_operation_are_named() -> None:
    w, v, x = np.ones((3, 4)), np.full((4, 2), 1000.0), np.ones((5, 3))
    found = first_nonfinite(cr.trace(network, w, v, x), [w, v, x])
    assert found is not None and found.node is not None
    assert (found.node.primitive.name, found.origin.path) == ("exp", "output")
    assert str(found).startswith("exp in layer 'output' at test_observe.py:")


def test_the_earliest_of_several_is_named() -> None:
    def f(x: Any) -> Any:
        with scope("first"):
            a = cr.log(x)
        with scope("second"):
            return (cr.log(a - a) + a).sum()

    x = np.zeros(2)
    found = first_nonfinite(cr.trace(f, x), [x])
    assert found is not None
    assert found.origin.path == "first"


def test_an_input_that_was_not_finite_is_named() -> None:
    w, v, x = np.ones((3, 4)), np.ones((4, 2)), np.ones((5, 3))
    v[2, 1] = np.nan
    found = first_nonfinite(cr.trace(network, w, v, x), [w, v, x])
    assert found is not None
    assert found.node is None
    assert found.origin.path == "v"
    assert str(found) == "the input 'v'"


def test_a_harmless_infinity_is_not_blamed() -> None:
    def masked(x: Any) -> Any:
        with scope("mask"):
            scores = cr.where(np.array([True, False]), x, -np.inf)
        with scope("weights"):
            weights = cr.exp(scores)
        with scope("head"):
            return cr.log(weights.sum() - 1.0)

    x = np.zeros(2)
    found = first_nonfinite(cr.trace(masked, x), [x])
    assert found is not None
    assert found.origin.path == "head"


def looked_up(places: Any, w: Any) -> Any:
    """What an embedding computes: NaN stands in the program for places outside the table."""
    with scope("table"):
        rows = cr.where((places >= 0) & (places < 3), cr.take(w, places), cr.broadcast_to(cr.zeros(()) + np.nan, (2,)))
    with scope("head"):
        return cr.exp(rows * 1000.0).sum()


def test_a_nan_that_stands_in_the_program_is_blamed_only_where_it_gets_through() -> None:
    graph = cr.trace(looked_up, np.array([0, 2]), np.ones(3))
    assert first_nonfinite(graph, [np.array([0, 2]), np.zeros(3)]) is None
    overflown = first_nonfinite(graph, [np.array([0, 2]), np.ones(3)])
    assert overflown is not None and overflown.node is not None
    assert (overflown.node.primitive.name, overflown.origin.path) == ("exp", "head")
    outside = first_nonfinite(graph, [np.array([0, 3]), np.zeros(3)])
    assert outside is not None and outside.node is not None
    assert (outside.node.primitive.name, outside.origin.path) == ("select", "table")


def test_what_constants_alone_make_of_finite_numbers_is_blamed() -> None:
    def f(x: Any) -> Any:
        with scope("constants"):
            worst = cr.log(cr.zeros(()) - 1.0)
        return worst, (x * worst).sum()

    for pick in (lambda x: f(x)[1], lambda x: f(x)[0]):
        found = first_nonfinite(cr.trace(pick, np.ones(2)), [np.ones(2)])
        assert found is not None and found.node is not None
        assert (found.node.primitive.name, found.origin.path) == ("log", "constants")
    found = first_nonfinite(cr.trace(lambda x: cr.zeros(()) + np.nan, np.ones(2)), [np.ones(2)])
    assert found is not None


def test_a_nan_that_stands_in_the_body_of_a_loop_is_no_cause() -> None:
    def body(carry: Any, place: Any) -> Any:
        with scope("table"):
            row = cr.where(place < 3, carry, np.nan)
        with scope("cell"):
            return cr.exp(row * 1000.0), row

    def f(places: Any, x: Any) -> Any:
        return cr.scan(body, x, places)[0]

    graph = cr.trace(f, np.array([0, 1]), np.ones(()))
    for places, expected in (([0, 1], ("exp", "cell")), ([3, 1], ("select", "table"))):
        found = first_nonfinite(graph, [np.array(places), np.ones(())])
        assert found is not None and found.node is not None
        assert (found.node.primitive.name, found.origin.path) == expected


def test_the_run_ends_at_the_first_output_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    plain = ReferenceProgram.observe

    def noted(program: ReferenceProgram, arrays: Any, observer: Any) -> Any:
        return plain(program, arrays, lambda node, *given: (names.append(node.primitive.name), observer(node, *given)))

    def f(x: Any) -> Any:
        with scope("loss"):
            loss = cr.log(x)
        with scope("update"):
            return loss, cr.exp(cr.tanh(x / 0.0))

    monkeypatch.setattr(ReferenceProgram, "observe", noted)
    found = first_nonfinite(cr.trace(f, np.zeros(2)), [np.zeros(2)])
    assert found is not None and found.origin.path == "loss"
    assert names[-1] == "log" and "tanh" not in names


def test_arrays_that_are_not_kept_are_freed() -> None:
    """A step of a large network has gigabytes of them."""
    alive: list[weakref.ref[Any]] = []
    most = 0

    def watch(node: Node, operands: Any, results: Any) -> None:
        nonlocal most
        alive.extend(weakref.ref(array) for array in results)
        most = max(most, sum(one() is not None for one in alive))

    def chain(x: Any) -> Any:
        for _ in range(20):
            x = cr.sin(x)
        return x

    x = RNG.normal(size=100)
    ReferenceProgram(cr.trace(chain, x)).observe([x], watch)
    assert len(alive) == 20
    assert most <= 3


def test_inside_a_loop_the_node_of_the_body_is_named() -> None:
    w, xs = np.ones((3, 3)), np.ones((9, 3))
    found = first_nonfinite(cr.trace(recurrent, w, xs), [w, xs])
    assert found is not None and found.node is not None
    assert (found.node.primitive.name, found.origin.path) == ("exp", "encoder.cell")


def test_inside_nested_operations_the_innermost_node_is_named() -> None:
    def ratio(a: Any, b: Any) -> Any:
        with scope("ratio"):
            return a / b

    divide = cr.ops.operation_with_rule(ratio)

    def f(x: Any) -> Any:
        _, ys = cr.scan(lambda c, x: (c, divide(x, x - 2.0)), np.zeros(()), x)
        return ys.sum()

    x = np.arange(4.0)
    found = first_nonfinite(cr.trace(f, x), [x])
    assert found is not None and found.node is not None
    assert (found.node.primitive.name, found.origin.path) == ("div", "ratio")


def test_a_symbolic_batch_size_is_bound() -> None:
    w, v = np.ones((3, 4)), np.full((4, 2), 1000.0)
    graph = cr.trace(network, w, v, np.ones((5, 3)), batch=("x",))
    assert first_nonfinite(graph, [w, v * 0, np.ones((7, 3))]) is None
    found = first_nonfinite(graph, [w, v, np.ones((2, 3))])
    assert found is not None
    assert found.origin.path == "output"
