"""Activations against PyTorch: values, first and second derivatives, and the ends of the number line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import ops
from chainrule.core.errors import ConfigError, ShapeError

NDArray = np.ndarray[Any, Any]
functional = torch.nn.functional

ELEMENTWISE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "tanh": (ops.tanh, torch.tanh),
    "relu": (ops.relu, functional.relu),
    "leaky_relu": (ops.leaky_relu, functional.leaky_relu),
    "leaky_relu 0.3": (partial(ops.leaky_relu, negative_slope=0.3), partial(functional.leaky_relu, negative_slope=0.3)),
    "gelu": (ops.gelu, functional.gelu),
    "gelu tanh": (partial(ops.gelu, approximate="tanh"), partial(functional.gelu, approximate="tanh")),
    "silu": (ops.silu, functional.silu),
    "elu": (ops.elu, functional.elu),
    "elu 0.5": (partial(ops.elu, alpha=0.5), partial(functional.elu, alpha=0.5)),
    "selu": (ops.selu, functional.selu),
    "softsign": (ops.softsign, functional.softsign),
    "mish": (ops.mish, functional.mish),
    "hardswish": (ops.hardswish, functional.hardswish),
    "hardtanh": (ops.hardtanh, functional.hardtanh),
    "hardtanh -0.3 0.7": (partial(ops.hardtanh, low=-0.3, high=0.7), lambda x: functional.hardtanh(x, -0.3, 0.7)),
    "relu6": (ops.relu6, functional.relu6),
    # PyTorch's own hardsigmoid and celu multiply by 1/6 and 1/alpha in float32, and the former has one derivative only.
    "hardsigmoid": (ops.hardsigmoid, lambda x: functional.hardtanh(x / 6 + 0.5, 0, 1)),
    "log_sigmoid": (ops.log_sigmoid, functional.logsigmoid),
    "celu": (ops.celu, functional.celu),
    "celu 0.7": (partial(ops.celu, alpha=0.7), lambda x: 0.7 * functional.elu(x / 0.7)),
    "tanhshrink": (ops.tanhshrink, functional.tanhshrink),
    "softshrink": (ops.softshrink, functional.softshrink),
    "hardshrink 0.2": (partial(ops.hardshrink, threshold=0.2), partial(functional.hardshrink, lambd=0.2)),
    "softplus": (ops.softplus, lambda x: torch.logaddexp(x, torch.zeros_like(x))),
}
ALONG_AXIS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "softmax": (partial(ops.softmax, axis=1), partial(torch.softmax, dim=1)),
    "softmax last": (ops.softmax, partial(torch.softmax, dim=-1)),
    "log_softmax": (partial(ops.log_softmax, axis=0), partial(torch.log_softmax, dim=0)),
    "logsumexp": (partial(ops.logsumexp, axis=1), partial(torch.logsumexp, dim=1)),
    "logsumexp kept": (
        partial(ops.logsumexp, axis=(0, 2), keepdims=True),
        partial(torch.logsumexp, dim=(0, 2), keepdim=True),
    ),
}
BOTH = ELEMENTWISE | ALONG_AXIS


def probe(shape: tuple[int, ...]) -> NDArray:
    return np.random.default_rng(1).normal(size=shape)


def torch_derivatives(function: Callable[..., Any], x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Value, gradient g of a weighted sum, and gradient of Σ g²."""
    leaf = torch.tensor(x, requires_grad=True)
    out = function(leaf)
    (first,) = torch.autograd.grad((out * torch.tensor(probe(tuple(out.shape)))).sum(), leaf, create_graph=True)
    squares = (first * first).sum()
    second = torch.autograd.grad(squares, leaf)[0] if squares.requires_grad else torch.zeros_like(leaf)
    return out.detach().numpy(), first.detach().numpy(), second.numpy()


def our_derivatives(function: Callable[..., Any], x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    def weighted(x: Any) -> Any:
        out = function(x)
        return (out * probe(out.shape)).sum()

    first = cr.grad(weighted)
    return function(x), first(x), cr.grad(lambda x: cr.square(first(x)).sum())(x)


@pytest.mark.parametrize("name", BOTH)
def test_values_and_derivatives_equal_pytorch(name: str) -> None:
    ours, theirs = BOTH[name]
    x = np.random.default_rng(0).normal(size=(3, 4, 5)) * 3
    for found, expected in zip(our_derivatives(ours, x), torch_derivatives(theirs, x), strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["elu", "selu", "softsign", "mish", "hardswish", "softplus"])
def test_float32_is_right_far_from_zero_and_at_the_bends(name: str) -> None:
    ours, theirs = ELEMENTWISE[name]
    x = np.array([-np.inf, -1e4, -200, -90, -3, 3, 90, 200, 1e4, np.inf], np.float32)
    leaf = torch.tensor(x, requires_grad=True)
    out = theirs(leaf)
    out.sum().backward()
    finite = np.isfinite(x)
    np.testing.assert_allclose(ours(x)[finite], out.detach().numpy()[finite], rtol=1e-5, atol=1e-30)
    slope = cr.grad(lambda x: ours(x).sum())(x)
    np.testing.assert_allclose(slope[finite], leaf.grad.numpy()[finite], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_glu_equals_pytorch(axis: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 6)) * 3
    ours, theirs = partial(ops.glu, axis=axis), partial(functional.glu, dim=axis)
    for found, expected in zip(our_derivatives(ours, x), torch_derivatives(theirs, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.isfinite(ours(1e4 * np.sign(x).astype(np.float32))).all()


def test_glu_needs_an_even_axis() -> None:
    with pytest.raises(ShapeError, match=r"glu halves axis -1, which has size 3 in an input of shape \(2, 3\)"):
        ops.glu(np.zeros((2, 3)))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_at_zero_equal_pytorch(name: str) -> None:
    ours, theirs = ELEMENTWISE[name]
    x = np.zeros((2,))
    # The second derivative of elu jumps at 0: PyTorch takes the first from the left and the second from the right.
    known = 2 if name in ("elu", "elu 0.5", "selu", "celu", "celu 0.7") else 3
    pairs = list(zip(our_derivatives(ours, x), torch_derivatives(theirs, x), strict=True))
    for found, expected in pairs[:known]:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_derivatives_of_softplus_at_zero() -> None:
    slope = cr.grad(lambda x: cr.softplus(x).sum())
    assert slope(np.zeros(1)) == 0.5
    assert cr.grad(lambda x: slope(x).sum())(np.zeros(1)) == 0.25


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BOTH)
def test_logits_of_ten_thousand_stay_finite(name: str, dtype: str) -> None:
    ours, theirs = BOTH[name]
    x = np.array([-1e4, -800, -90, 0, 90, 800, 1e4, 5], dtype).reshape(2, 2, 2)
    found = ours(x)
    assert found.dtype == dtype
    assert np.isfinite(found).all()
    assert np.isfinite(cr.grad(lambda x: ours(x).sum())(x)).all()
    expected = theirs(torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-37)


@pytest.mark.parametrize("name", [name for name in BOTH if name not in ("gelu", "gelu tanh", "silu", "hardswish")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_propagates_as_in_pytorch(name: str, value: float) -> None:
    # For x·Φ(x) and x·(x + 3)/6 at -inf, 0·inf is NaN by the formula, and PyTorch's answer depends on its version.
    ours, theirs = BOTH[name]
    x = np.zeros((2, 2, 2))
    x[0, 1, 0] = value
    np.testing.assert_array_equal(np.isnan(ours(x)), torch.isnan(theirs(torch.tensor(x))).numpy())
    np.testing.assert_allclose(ours(x), theirs(torch.tensor(x)).numpy(), rtol=1e-12)


def test_relu_keeps_nan_and_has_no_gradient_at_zero() -> None:
    x = np.array([np.nan, 0.0, -0.0, -1.0, 2.0])
    np.testing.assert_array_equal(cr.relu(x), [np.nan, 0, 0, 0, 2])
    np.testing.assert_array_equal(cr.grad(lambda x: cr.relu(x).sum())(x)[1:], [0, 0, 0, 1])


def test_logsumexp_of_nothing_but_minus_infinity() -> None:
    assert cr.logsumexp(np.full(3, -np.inf)) == -np.inf


def test_softmax_sums_to_one_and_ignores_a_shift() -> None:
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    np.testing.assert_allclose(cr.softmax(x).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(cr.softmax(x + 64), cr.softmax(x), rtol=1e-5)


def test_integers_become_float32() -> None:
    for function in (ops.sigmoid, ops.gelu, ops.silu, ops.softplus, ops.softmax):
        assert function(np.arange(3)).dtype == np.float32
    assert ops.relu(np.arange(-1, 2)).dtype == np.int64


def test_unknown_approximation_and_axis_are_refused() -> None:
    with pytest.raises(ConfigError, match="'none' or 'tanh', not 'fast'"):
        cr.gelu(np.zeros(2), "fast")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="axis 2"):
        cr.softmax(np.zeros((2, 2)), axis=2)
