"""Losses of numbers: squared and absolute errors, what lies between them, and counts."""

from __future__ import annotations

import math
from typing import Any

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.losses.examples import Reduction, aligned, difference, floats, over_examples
from chainrule.ops.known import refuse_outside
from chainrule.ops.math import abs, exp, log, maximum, stop_gradient, where
from chainrule.trace.array import Array, ArrayLike, operation
from chainrule.trace.values import show_shape


@operation
def squared_error(
    outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, reduction: Reduction = "mean"
) -> Any:
    """``(y - t)²``, the mean over outputs."""
    distance = difference(outputs, targets)
    return over_examples(distance * distance, weights, reduction)


@operation
def half_squared_error(
    outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, reduction: Reduction = "mean"
) -> Any:
    """``½ Σ (y - t)²``, the sum over outputs: the loss of textbooks, whose gradient is y - t."""
    distance = difference(outputs, targets)
    losses = 0.5 * (distance * distance)
    return over_examples(losses.sum(tuple(range(1, losses.ndim))) if losses.ndim else losses, weights, reduction)


@operation
def absolute_error(
    outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, reduction: Reduction = "mean"
) -> Any:
    """``|y - t|``, the mean over outputs; its derivative at 0 is 0."""
    return over_examples(abs(difference(outputs, targets)), weights, reduction)


@operation
def huber(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    delta: float = 1.0,
    reduction: Reduction = "mean",
) -> Any:
    """``½ (y - t)²`` where ``|y - t| ≤ delta``, else ``delta (|y - t| - ½ delta)``; the mean over outputs. Huber 1964."""
    if not delta > 0:
        raise ConfigError(f"huber needs delta above 0, not {delta!r}")
    return over_examples(_huber(difference(outputs, targets), delta), weights, reduction)


@operation
def smooth_l1(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    beta: float = 1.0,
    reduction: Reduction = "mean",
) -> Any:
    """``huber / beta``: ``½ (y - t)² / beta`` where ``|y - t| < beta``, else ``|y - t| - ½ beta``. Girshick, ICCV 2015.

    With a beta of 0 it is :func:`absolute_error`.
    """
    if not beta >= 0:
        raise ConfigError(f"smooth_l1 needs beta of 0 or more, not {beta!r}")
    if not beta:
        return over_examples(abs(difference(outputs, targets)), weights, reduction)
    return over_examples(_huber(difference(outputs, targets), beta) * (1 / beta), weights, reduction)


@operation
def poisson_nll(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: Reduction = "mean",
) -> Any:
    """``e**y - t y``, the negative log-likelihood of counts t whose expected number is ``e**y``; the mean over outputs.

    ``log_input=False`` takes y as the expected number itself: ``y - t log(y + eps)``. ``full`` adds what does not
    depend on y, by Stirling: ``t log t - t + ½ log 2πt`` for t above 1. Targets are counts from 0 on; others raise
    :class:`DataError` where they are known.
    """
    y = floats(outputs)
    goal = aligned(targets, y)
    refuse_outside(targets, 0, math.inf, "poisson_nll needs counts from 0 on as targets")
    losses = exp(y) - goal * y if log_input else y - goal * log(y + eps)
    if full:
        many = goal > 1
        count = where(many, goal, 1).astype(y.dtype)
        losses = losses + where(many, count * log(count) - count + 0.5 * log(2 * math.pi * count), 0)
    return over_examples(losses, weights, reduction)


@operation
def gaussian_nll(
    outputs: Any,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    full: bool = False,
    eps: float = 1e-6,
    reduction: Reduction = "mean",
) -> Any:
    """``½ (log v + (y - t)² / v)`` for outputs (y, v), a mean and a variance: the negative log-likelihood of a normal distribution.

    A variance below ``eps`` counts as ``eps``, with the gradient of ``eps``, as in PyTorch. ``full`` adds ``½ log 2π``. One
    variance may serve all outputs of an example, of shape (..., 1) or without that axis, and a number serves everything.
    Nix & Weigend 1994. Raises :class:`ShapeError` for outputs that are not such a pair.
    """
    if not isinstance(outputs, tuple | list) or len(outputs) != 2:
        raise ShapeError(f"gaussian_nll needs a pair (mean, variance) as outputs, not {type(outputs).__name__}")
    if not eps > 0:
        raise ConfigError(f"gaussian_nll needs eps above 0, not {eps!r}")
    y, given = map(floats, outputs)
    if y.ndim and y.shape != given.shape == y.shape[:-1]:
        given = given[..., None]
    if given.shape not in (y.shape, (*y.shape[:-1], 1), ()):
        raise ShapeError(
            f"gaussian_nll needs a mean and a variance of one shape, not {show_shape(y.shape)} and {show_shape(given.shape)}"
        )
    # The limit acts on the number alone: a variance that is too small is still pushed upwards.
    variance = given + stop_gradient(maximum(eps - given, 0.0))
    distance = difference(y, targets)
    losses = 0.5 * (log(variance) + distance * distance / variance)
    return over_examples(losses + 0.5 * math.log(2 * math.pi) if full else losses, weights, reduction)


def _huber(distance: Array, delta: float) -> Array:
    size = abs(distance)
    losses: Array = where(size <= delta, 0.5 * distance * distance, delta * (size - 0.5 * delta))
    return losses
