"""What losses share: targets in the shape of the outputs, labels that make sense, and the mean over examples."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from chainrule.core.dtypes import FLOAT32, FLOATS, INT64, INTEGERS
from chainrule.core.errors import DataError, DTypeError, ShapeError
from chainrule.ops.math import where
from chainrule.trace.array import Array, ArrayLike, as_array
from chainrule.trace.values import show_shape


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


def labels_of(targets: Any, goal: Array, classes: Any, loss: str) -> Array:
    """The targets as integer labels of one of ``classes`` classes."""
    if goal.value.dtype in FLOATS:
        raise DTypeError(
            f"{loss} needs integer labels from 0 to {classes - 1}, not {goal.dtype}; convert them with "
            ".astype(int), or pass probabilities with one column per class"
        )
    refuse_outside(targets, classes - 1, f"labels of {classes} classes are 0 to {classes - 1}")
    return goal if goal.value.dtype in INTEGERS else goal.astype(INT64)


def refuse_outside(targets: Any, highest: float, what: str) -> None:
    """Raise :class:`DataError` for a target outside [0, highest], where the numbers are known."""
    if isinstance(targets, Array):
        return
    known = np.asarray(targets)
    wrong = np.argwhere((known < 0) | (known > highest))
    if len(wrong):
        place = tuple(map(int, wrong[0]))
        where_it_is = f"row {place[0]}" if len(place) == 1 else f"position {place}"
        raise DataError(f"{what}, but {where_it_is} holds {known[place]}")


def mean_over_examples(losses: Array, weights: ArrayLike | None) -> Array:
    """The weighted mean of losses of shape (B, ...); see the package."""
    if weights is None:
        return losses.mean()
    factors = as_array(weights)
    if factors.shape == (*losses.shape, 1) or (*factors.shape, 1) == losses.shape:
        factors = factors.reshape(losses.shape)
    elif losses.ndim > 1 and factors.shape == losses.shape[:1]:
        losses = losses.mean(tuple(range(1, losses.ndim)))
    if factors.shape != losses.shape:
        raise ShapeError(
            f"weights of shape {show_shape(factors.shape)} were given for losses of shape {show_shape(losses.shape)}"
        )
    # The weights adopt the type of the losses, so that float64 weights do not widen a float32 step.
    factors = factors.astype(losses.dtype)
    total = factors.sum()
    mean: Array = (factors * losses).sum() / where(total == 0, 1, total)
    return mean
