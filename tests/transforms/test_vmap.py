from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn, ops
from chainrule.core.errors import DTypeError, ShapeError, TraceError

RNG = np.random.default_rng(0)


def network() -> nn.Module:
    cr.seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2))


def test_the_gradients_of_single_examples() -> None:
    model, x = network(), RNG.normal(size=(6, 3)).astype(np.float32)
    y = RNG.integers(0, 2, 6)

    def loss(model: Any, x: Any, y: Any) -> Any:
        return nn.losses.cross_entropy(model(x[None]), y[None])

    each = cr.vmap(cr.grad(loss), (None, 0, 0))(model, x, y)
    for k in range(6):
        alone = cr.grad(loss)(model, x[k], y[k])
        np.testing.assert_allclose(each.layers[0].weight[k], alone.layers[0].weight, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(each.layers[3].bias[k], alone.layers[3].bias, rtol=2e-4, atol=1e-6)


def test_axes_in_and_out() -> None:
    x, y = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 5))
    found = cr.vmap(lambda a, b: {"product": a @ b, "other": a}, in_axes=(1, 0), out_axes=-1)(x, np.stack([y[:3]] * 4))
    np.testing.assert_allclose(found["product"], (x.T @ y[:3]).T, rtol=1e-13)
    np.testing.assert_array_equal(found["other"], x)
    matrix = cr.vmap(cr.vmap(lambda a, b: a * b, (None, 0)), (0, None))(x[:, 0], y[:, 0])
    np.testing.assert_array_equal(matrix, np.outer(x[:, 0], y[:, 0]))


def test_as_vmap_of_torch_on_a_loop_and_indices() -> None:
    table, places, start = RNG.normal(size=(7, 2)), RNG.integers(0, 7, (4, 5)), RNG.normal(size=(4, 2))

    def ours(places: Any, start: Any) -> Any:
        def body(carry: Any, row: Any) -> Any:
            carry = ops.tanh(carry + row)
            return carry, carry.sum()

        return ops.scan(body, start, ops.take(table, places))

    last, sums = cr.vmap(ours)(places, start)
    for k in range(4):
        expected_last, expected_sums = cr.compile(ours)(places[k], start[k])
        np.testing.assert_allclose(last[k], expected_last, rtol=1e-13)
        np.testing.assert_allclose(sums[k], expected_sums, rtol=1e-13)


def test_keys_draw_for_each_element_and_fixed_points_stop_by_themselves() -> None:
    keys = np.arange(6, dtype=np.uint32).reshape(3, 2)
    drawn = cr.vmap(lambda key: ops.random.normal((4,), key=key))(keys)
    for k in range(3):
        np.testing.assert_array_equal(drawn[k], ops.random.normal((4,), key=keys[k]))
    a = np.array([0.1, 0.5, 0.9])
    solved, steps = cr.vmap(lambda a: ops.fixed_point(lambda z: a * ops.cos(z), 0.0 * a))(a)
    np.testing.assert_allclose(solved, a * np.cos(solved), rtol=1e-5)
    assert len(set(steps.tolist())) == 3


def test_inside_compiled_functions_with_a_batch_of_any_size() -> None:
    w = RNG.normal(size=(3, 3))

    def f(x: Any) -> Any:
        return cr.vmap(lambda row: ops.tanh(w @ row) + row)(x)

    compiled = cr.compile(f, batch=("x",))
    for count in (1, 5):
        x = RNG.normal(size=(count, 3))
        np.testing.assert_allclose(compiled(x), np.tanh(x @ w.T) + x, rtol=1e-13)


def test_jacobians_and_hessians_are_those_of_torch() -> None:
    a, b = RNG.normal(size=(2, 3)), RNG.normal(size=(3,))

    def ours(b: Any) -> Any:
        return ops.exp(ops.sin(a @ b))[:, None] * b

    def theirs(b: torch.Tensor) -> torch.Tensor:
        return torch.exp(torch.sin(torch.tensor(a) @ b))[:, None] * b

    expected = torch.autograd.functional.jacobian(theirs, torch.tensor(b)).numpy()
    assert expected.shape == (2, 3, 3)
    for mode in ("reverse", "forward"):
        np.testing.assert_allclose(cr.jacobian(ours, mode=mode)(b), expected, rtol=1e-12)
    curvature = torch.autograd.functional.hessian(lambda b: theirs(b).sum(), torch.tensor(b)).numpy()
    np.testing.assert_allclose(cr.hessian(lambda b: ours(b).sum())(b), curvature, rtol=1e-11)


def test_a_jacobian_of_trees() -> None:
    point = {"u": RNG.normal(size=2), "v": RNG.normal(size=3)}

    def f(first: Any, p: Any) -> Any:
        return p["u"].sum() * p["v"] * first, p["u"] ** 2

    for mode in ("reverse", "forward"):
        of_product, of_square = cr.jacobian(f, 1, mode)(2.0, point)
        np.testing.assert_allclose(of_product["u"], 2 * np.outer(point["v"], [1, 1]), rtol=1e-13)
        np.testing.assert_allclose(of_product["v"], 2 * point["u"].sum() * np.eye(3), rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(of_square["u"], np.diag(2 * point["u"]), rtol=1e-13)
        np.testing.assert_array_equal(of_square["v"], np.zeros((2, 3)))


def test_arguments_may_be_counted_from_the_end() -> None:
    def f(*given: Any) -> Any:
        return sum((k + 1) * (x**3).sum() for k, x in enumerate(given))

    x, y = RNG.normal(size=3), RNG.normal(size=2)
    np.testing.assert_allclose(cr.grad(f, -1)(x, y), 6 * y**2, rtol=1e-13)
    np.testing.assert_allclose(cr.jacobian(f, -1)(x, y), 6 * y**2, rtol=1e-13)
    np.testing.assert_allclose(cr.hessian(f, -1)(x, y), np.diag(12 * y), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cr.vmap(lambda x, y: x)(np.ones(2), np.ones(3)), ShapeError, "2 in argument 0, 3 in argument 1"),
        (lambda: cr.vmap(lambda x: x, None)(np.ones(2)), ShapeError, "there is no axis to map over"),
        (lambda: cr.vmap(lambda x: x, (0, 1))(np.ones(2)), ShapeError, "in_axes has 2 entries for 1 arguments"),
        (
            lambda: cr.vmap(lambda x: x, 1)(np.ones(2)),
            ShapeError,
            r"over axis 1 of argument 0, which has an array of shape \(2,\)",
        ),
        (lambda: cr.vmap(lambda x: x, out_axes=2)(np.ones((2, 3))), ShapeError, "along axis 2 of a result"),
        (lambda: cr.jacobian(lambda x: x)(np.arange(3)), DTypeError, "a jacobian needs floating-point arrays"),
        (
            lambda: cr.jacobian(lambda x: x, 1)(np.ones(2)),
            TraceError,
            "argument 1 is to be differentiated but only 1 were",
        ),
        (lambda: cr.jacobian(lambda x: x, mode="sideways"), ShapeError, "reverse or forward, not 'sideways'"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
