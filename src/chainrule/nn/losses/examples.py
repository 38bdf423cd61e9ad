"""What losses share: targets in the shape of the outputs, labels that make sense, and the mean over examples."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

import numpy as np

from chainrule.core.dtypes import FLOAT32, FLOATS, INT64, INTEGERS
from chainrule.core.errors import ConfigError, DTypeError, ShapeError
from chainrule.ops.arrays import broadcast_to
from chainrule.ops.known import refuse_outside
from chainrule.ops.math import where
from chainrule.trace.array import Array, ArrayLike, as_array
from chainrule.trace.values import show_shape

Reduction = Literal["mean", "sum", "none"]


class Loss(Protocol):
    def __call__(self, outputs: Any, targets: Any, weights: Any = None) -> Any: ...


def floats(outputs: ArrayLike) -> Array:
    """The outputs as floating-point numbers."""
    array = as_array(outputs)
    return array if array.value.dtype in FLOATS else array.astype(FLOAT32)


def difference(outputs: ArrayLike, targets: ArrayLike) -> Array:
    """Outputs minus targets."""
    array = floats(outputs)
    return array - aligned(targets, array)


def aligned(targets: ArrayLike, outputs: Array) -> Array:
    """The targets in the shape of the outputs, which may differ in a last axis of size 1 alone."""
    goal = as_array(targets)
    if goal.shape == outputs.shape:
        return goal
    if goal.shape == (*outputs.shape, 1) or (*goal.shape, 1) == outputs.shape:
        return goal.reshape(outputs.shape)
    raise ShapeError(
        f"the outputs have shape {show_shape(outputs.shape)}, but the targets have shape {show_shape(goal.shape)}"
    )


def labels_of(targets: Any, goal: Array, classes: Any, loss: str, ignored: int | None = None) -> Array:
    """The targets as integer labels of one of ``classes`` classes, or the label that is ``ignored``."""
    if goal.value.dtype in FLOATS:
        raise DTypeError(
            f"{loss} needs integer labels from 0 to {classes - 1}, not {goal.dtype}; convert them with "
            ".astype(int), or pass probabilities with one column per class"
        )
    if ignored is not None and not isinstance(targets, Array):
        targets = np.where(np.asarray(targets) == ignored, 0, targets)
    refuse_outside(targets, 0, classes - 1, f"labels of {classes} classes are 0 to {classes - 1}")
    return goal if goal.value.dtype in INTEGERS else goal.astype(INT64)


def over_examples(
    losses: Array, weights: ArrayLike | None, reduction: Reduction = "mean", shares: Array | None = None
) -> Array:
    """The weighted mean of losses of shape (B, ...), or their sum, or themselves; see the package.

    ``shares``, of the shape of the losses, are what each counts for in the divisor of the mean, 1 by default.
    """
    if reduction not in get_args(Reduction):
        raise ConfigError(f"the reduction of a loss is 'mean', 'sum' or 'none', not {reduction!r}")
    if weights is not None:
        # The weights adopt the type of the losses, so that float64 weights do not widen a float32 step.
        factors = as_array(weights).astype(losses.dtype)
        if factors.shape == (*losses.shape, 1) or (*factors.shape, 1) == losses.shape:
            factors = factors.reshape(losses.shape)
        elif losses.ndim > 1 and factors.shape == losses.shape[:1]:
            if reduction == "mean" and shares is None:
                losses = losses.mean(tuple(range(1, losses.ndim)))
            else:
                factors = broadcast_to(factors.reshape((*factors.shape, *[1] * (losses.ndim - 1))), losses.shape)
        if factors.shape != losses.shape:
            raise ShapeError(
                f"weights of shape {show_shape(as_array(weights).shape)} were given for losses of shape {show_shape(losses.shape)}"
            )
        shares = factors if shares is None else factors * shares
        losses = factors * losses
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if shares is None:
        return losses.mean()
    total = shares.sum()
    mean: Array = losses.sum() / where(total == 0, 1, total)
    return mean
