"""check_gradients and compare: what a student calls to check a gradient derived by hand."""

from __future__ import annotations

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ShapeError
from chainrule.grad.standard import single
from chainrule.transforms.checking import numerical_gradient

RNG = np.random.default_rng(0)
W, X = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 3))


def loss(w, x):
    return cr.square(cr.tanh(x @ w)).sum()


def derived(w, x):
    y = np.tanh(x @ w)
    return x.T @ (2 * y * (1 - y**2))


def test_right_gradients_agree():
    report = cr.check_gradients(loss, W, X)
    assert report
    assert report.error < 1e-9
    assert "agree" in str(report)
    assert cr.compare(derived, loss, W, X)
    assert cr.compare(derived(W, X), loss, W, X)


def test_a_wrong_gradient_is_found_and_its_place_named():
    wrong = derived(W, X)
    wrong[1, 0] += 0.25
    report = cr.compare(wrong, loss, W, X)
    assert not report
    assert report.where == "the argument[1, 0]"
    assert report.found - report.expected == pytest.approx(0.25)
    assert str(report).startswith("the gradients differ: the largest relative difference is")


def test_a_wrong_rule_is_found():
    def squashed(b, node, g):
        return (b.mul(g, node.output),)

    rules = cr.STANDARD.extend("wrong", {"tanh": single(squashed)})
    report = cr.check_gradients(loss, W, X, rules=rules)
    assert not report
    assert report.where.startswith("argument 0[") or report.where.startswith("argument 1[")


def test_a_nan_is_never_right():
    assert not cr.compare(np.full((3, 2), np.nan), loss, W, X)
    assert not cr.check_gradients(lambda x: cr.sqrt(x).sum(), np.array([-1.0]))


def test_trees_are_checked_leaf_by_leaf():
    def tree_loss(model):
        return cr.square(X @ model["layers"][0] + model["bias"]).sum()

    model = {"layers": [W], "bias": RNG.normal(size=2), "name": 3}
    assert cr.check_gradients(tree_loss, model)
    y = X @ W + model["bias"]
    right = {"layers": [2 * X.T @ y], "bias": 2 * y.sum(0), "name": 0}
    assert cr.compare(right, tree_loss, model)
    right["bias"] = right["bias"] * [1, 1.01]
    assert cr.compare(right, tree_loss, model).where == "bias[1]"


def test_arguments_are_chosen_and_widened():
    report = cr.check_gradients(loss, W.astype(np.float32), X.astype(np.float32))
    assert report, "checked in float64 whatever was passed"
    assert cr.check_gradients(loss, W, X, argnums=1).where.startswith("argument 1")
    assert cr.check_gradients(lambda a, n: (a**n).sum(), W**2, 3)
    assert cr.compare(lambda w, x: cr.grad(loss, 1)(w, x), loss, W, X, argnum=1)


def test_gradients_of_another_shape_or_count_are_refused():
    with pytest.raises(ShapeError, match=r"has shape \(2, 3\), but \(3, 2\) is expected"):
        cr.compare(derived(W, X).T, loss, W, X)
    with pytest.raises(ShapeError, match="has 2 arrays, but 1 are expected"):
        cr.compare([W, W], loss, W, X)
    with pytest.raises(ShapeError, match="no argument to check"):
        cr.check_gradients(loss, W, X, argnums=())


def test_differences_are_of_sixth_order():
    """Exact for polynomials up to degree six, whatever the step."""
    x = np.array([0.7, -1.3])
    found = numerical_gradient(lambda x: (x * x * x * x * x * x).sum(), [x], step=0.1)
    np.testing.assert_allclose(found, 6 * x**5, rtol=1e-12)
    found = numerical_gradient(lambda x: cr.exp(x).sum(), [x])
    np.testing.assert_allclose(found, np.exp(x), rtol=1e-10)
