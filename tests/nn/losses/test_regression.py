"""Huber, smooth L1 and Poisson losses against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, DataError, ShapeError
from chainrule.nn import losses

F = torch.nn.functional
RNG = np.random.default_rng(0)
Y, T = 2 * RNG.normal(size=(6, 3)), 2 * RNG.normal(size=(6, 3))
COUNTS = RNG.poisson(3.0, size=(6, 3))

Equals = Callable[..., None]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_huber_and_smooth_l1_equal_pytorch(equals_examples: Equals, scale: float) -> None:
    goal = torch.tensor(T)
    equals_examples(
        partial(losses.huber, delta=scale), Y, T, lambda y: F.huber_loss(y, goal, delta=scale, reduction="none")
    )
    equals_examples(
        partial(losses.smooth_l1, beta=scale), Y, T, lambda y: F.smooth_l1_loss(y, goal, beta=scale, reduction="none")
    )


@pytest.mark.parametrize("log_input", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_poisson_nll_equals_pytorch(equals_examples: Equals, log_input: bool, full: bool) -> None:
    goal = torch.tensor(COUNTS, dtype=torch.float64)
    options = {"log_input": log_input, "full": full}
    outputs = Y if log_input else np.exp(Y)
    equals_examples(
        partial(losses.poisson_nll, **options),
        outputs,
        COUNTS,
        lambda y: F.poisson_nll_loss(y, goal, reduction="none", **options),
    )


@pytest.mark.parametrize("full", [True, False])
def test_gaussian_nll_equals_pytorch(equals_examples: Equals, full: bool) -> None:
    variance = np.exp(RNG.normal(size=(6, 3)))
    variance[0] = 0.01, 0.049, 0.051
    goal = torch.tensor(T)
    equals_examples(
        partial(losses.gaussian_nll, full=full, eps=0.05),
        (Y, variance),
        T,
        lambda y, v: F.gaussian_nll_loss(y, goal, v, full=full, eps=0.05, reduction="none"),
    )


@pytest.mark.parametrize("loss", [losses.huber, losses.smooth_l1])
def test_outliers_of_ten_thousand_stay_finite(loss: Any) -> None:
    y = np.array([1e4, -1e4, 0, 1e-4], np.float32)
    value, slope = cr.value_and_grad(lambda y: loss(y, np.zeros(4, np.float32)))(y)
    np.testing.assert_allclose(value, (2e4 - 1 + 0.5e-8) / 4, rtol=1e-6)
    np.testing.assert_allclose(slope, [0.25, -0.25, 0, 0.25e-4], rtol=1e-6)


def test_a_rate_of_almost_zero_stays_finite() -> None:
    value, slope = cr.value_and_grad(lambda y: losses.poisson_nll(y, np.array([0, 3])))(np.float32([-1e4, -1e4]))
    assert value == np.float32(1.5e4)
    np.testing.assert_array_equal(slope, [0, -1.5])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"counts from 0 on as targets, but position \(0, 0\) holds -1"):
        losses.poisson_nll(Y, -np.ones((6, 3)))
    with pytest.raises(ShapeError, match=r"outputs have shape \(6, 3\), but the targets have shape \(6,\)"):
        losses.huber(Y, T[:, 0])
    with pytest.raises(ConfigError, match="huber needs delta above 0"):
        losses.huber(Y, T, delta=0)
    with pytest.raises(ShapeError, match=r"needs a pair \(mean, variance\) as outputs, not ndarray"):
        losses.gaussian_nll(Y, T)
    with pytest.raises(ShapeError, match=r"of one shape, not \(6, 3\) and \(6, 2\)"):
        losses.gaussian_nll((Y, Y[:, :2]), T)
    with pytest.raises(ConfigError, match="smooth_l1 needs beta of 0 or more"):
        losses.smooth_l1(Y, T, beta=-1)
