"""The cotangents of intermediate values are the derivatives by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import GraphError
from chainrule.insight import first_nonfinite, observe, with_cotangents
from chainrule.trace import scope

RNG = np.random.default_rng(1)
W, X = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 3))


def parts(w: Any, x: Any) -> dict[str, Any]:
    with scope("layer"):
        z = x @ w
        a = cr.tanh(z)
    return {"loss": (a * a).sum(), "z": z, "a": a, "unused": cr.exp(x)}


def test_cotangents_of_intermediate_values() -> None:
    graph = cr.trace(parts, W, X)
    whole, cotangents = with_cotangents(graph, "loss")
    seen = observe(whole, [W, X])
    named = dict(zip(graph.output_names, graph.outputs, strict=True))
    a = np.tanh(X @ W)
    np.testing.assert_allclose(seen[cotangents[named["a"]]], 2 * a, rtol=1e-14)
    np.testing.assert_allclose(seen[cotangents[named["z"]]], 2 * a * (1 - a * a), rtol=1e-14)
    np.testing.assert_allclose(seen[cotangents[graph.inputs[0]]], X.T @ (2 * a * (1 - a * a)), rtol=1e-14)
    assert named["unused"] not in cotangents


def test_the_forward_values_stay_themselves() -> None:
    graph = cr.trace(parts, W, X)
    whole, _ = with_cotangents(graph, "loss")
    assert whole.nodes[: len(graph.nodes)] == graph.nodes
    assert whole.outputs == graph.outputs
    assert {node.origin.phase for node in whole.nodes[len(graph.nodes) :]} == {"backward"}


def test_scans_are_extended_and_still_agree_with_grad() -> None:
    def recurrent(w: Any, xs: Any) -> Any:
        state, ys = cr.scan(lambda s, x: (cr.tanh(s @ w + x),) * 2, np.zeros(2), xs)
        return (ys * ys).sum() + state.sum()

    w, xs = RNG.normal(size=(2, 2)), RNG.normal(size=(5, 2))
    whole, cotangents = with_cotangents(cr.trace(recurrent, w, xs))
    found = observe(whole, [w, xs])[cotangents[whole.inputs[0]]]
    # Compiled, the products of all steps leave the loop as one sum, which may round otherwise (decision 17).
    np.testing.assert_allclose(found, cr.grad(recurrent)(w, xs), rtol=1e-14, atol=1e-15)


def test_another_rule_set_gives_other_cotangents() -> None:
    graph = cr.trace(parts, W, X)
    other = cr.STANDARD.extend("stopped", {"tanh": lambda backward, node, g: (None,)})
    _, cotangents = with_cotangents(graph, "loss", rules=other)
    named = dict(zip(graph.output_names, graph.outputs, strict=True))
    assert named["a"] in cotangents
    assert named["z"] not in cotangents


def test_what_is_no_loss_is_refused() -> None:
    graph = cr.trace(parts, W, X)
    with pytest.raises(GraphError, match=r"has no output 'cost'; it has loss, z, a, unused"):
        with_cotangents(graph, "cost")
    with pytest.raises(GraphError, match=r"only a floating-point scalar is backpropagated"):
        with_cotangents(graph, "z")
    with pytest.raises(GraphError, match=r"4 outputs and none numbered 7"):
        with_cotangents(graph, 7)


def test_a_nan_that_arises_in_the_backward_pass_says_so() -> None:
    def root(x: Any) -> Any:
        with scope("norm"):
            return cr.sqrt((x * x).sum())

    x = np.zeros(3)
    graph = cr.trace(cr.value_and_grad(root), x)
    found = first_nonfinite(graph, [x])
    assert str(found).startswith("div in the backward pass of layer 'norm'")
