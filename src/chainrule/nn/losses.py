"""Losses: scalar functions ``loss(outputs, targets, weights=None)``.

The loss of an example is the mean over its outputs (or as stated), and the result is the mean over examples. With ``weights``
w of shape (B,) it is the weighted mean ``Σ wᵢ lᵢ / Σ wᵢ``, and 0 where all the weights are 0; weights may also have the shape
of the targets, to weigh every position of a sequence. Targets may lack or have a last axis of size 1 that the outputs have
or lack; any other difference of shapes is an error, never broadcast.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np

from chainrule.core.dtypes import FLOAT32, FLOATS, INT64, INTEGERS
from chainrule.core.errors import DataError, DTypeError, ShapeError
from chainrule.ops.activations import log_softmax, logsumexp
from chainrule.ops.arrays import take, take_along
from chainrule.ops.math import abs, exp, log1p, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class Loss(Protocol):
    def __call__(self, outputs: Any, targets: Any, weights: Any = None) -> Any: ...


@operation
def squared_error(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``(y - t)²``, the mean over outputs."""
    difference = _difference(outputs, targets)
    return mean_over_examples(difference * difference, weights)


@operation
def half_squared_error(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``½ Σ (y - t)²``, the sum over outputs: the loss of textbooks, whose gradient is y - t."""
    difference = _difference(outputs, targets)
    losses = 0.5 * (difference * difference)
    return mean_over_examples(losses.sum(tuple(range(1, losses.ndim))) if losses.ndim else losses, weights)


@operation
def absolute_error(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``|y - t|``, the mean over outputs; its derivative at 0 is 0."""
    return mean_over_examples(abs(_difference(outputs, targets)), weights)


@operation
def binary_cross_entropy(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``-t log p - (1 - t) log(1 - p)`` for ``p = sigmoid(outputs)``: outputs are logits, targets from 0 to 1.

    Computed as ``max(x, 0) - x t + log(1 + e**-|x|)``, which neither overflows nor cancels.
    """
    logits = _floats(outputs)
    goal = _aligned(targets, logits)
    _refuse_outside(targets, 1, "binary_cross_entropy needs targets from 0 to 1")
    positive = logits > 0
    smooth = log1p(exp(where(positive, -logits, logits)))
    return mean_over_examples(where(positive, logits, 0) - logits * goal + smooth, weights)


@operation
def cross_entropy(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``-Σ t log softmax(outputs)`` over the classes, the last axis; the mean over any axes between.

    Outputs are logits. Targets are integer labels without the last axis, or probabilities of the shape of the outputs. A
    label outside 0 to C - 1 raises :class:`DataError` where its number is known, and makes the loss NaN in a traced step.
    """
    logits = _floats(outputs)
    goal = as_array(targets)
    if logits.ndim and logits.shape[-1] == 1:
        raise ShapeError(
            "cross_entropy of a single class is always 0; use binary_cross_entropy with one output, or give the model one "
            "output per class"
        )
    if logits.ndim and goal.shape == (*logits.shape[:-1], 1):
        goal = goal.reshape(logits.shape[:-1])
    if logits.ndim < 1 or (goal.shape != logits.shape and goal.shape != logits.shape[:-1]):
        raise ShapeError(
            f"cross_entropy of logits of shape {show_shape(logits.shape)} needs labels of shape "
            f"{show_shape(logits.shape[:-1])} or probabilities of shape {show_shape(logits.shape)}, not "
            f"{show_shape(goal.shape)}"
        )
    if goal.shape == logits.shape:
        return mean_over_examples(-(goal * log_softmax(logits)).sum(-1), weights)
    labels = _labels(targets, goal, logits.shape[-1])
    chosen = take_along(logits, labels)
    valid = (labels >= 0) & (labels < logits.shape[-1])
    return mean_over_examples(where(valid, logsumexp(logits, -1) - chosen, np.nan), weights)


def with_class_weights(loss: Loss, weights: Any) -> Loss:
    """The loss with every example weighted by ``weights[class]``, beside any weight of its own.

    For logits of C classes there are C weights, and for a binary target two: of the classes 0 and 1. An example whose target
    is a distribution p over classes has the weight ``Σ p w``. The result is the weighted mean, as in scikit-learn and PyTorch.
    """
    by_class = np.asarray(weights)
    if by_class.ndim != 1 or by_class.size < 2 or by_class.dtype.kind not in "fiu":
        raise ShapeError(f"class weights are a list of one number per class, not an array of shape {by_class.shape}")

    @operation
    def weighted(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
        of_targets = _class_weights(_floats(outputs), targets, by_class)
        if weights is not None:
            own = as_array(weights)
            missing = of_targets.ndim - own.ndim
            of_targets = of_targets * own.reshape((*own.shape, *[1] * missing))
        return loss(outputs, targets, of_targets)

    return functools.wraps(loss)(weighted)


def _class_weights(logits: Array, targets: Any, by_class: np.ndarray[Any, Any]) -> Any:
    """The weight of each target."""
    goal = as_array(targets)
    classes = as_array(by_class, logits.value.dtype)
    if goal.shape == logits.shape[:-1] and logits.shape[-1] == by_class.size:
        return take(classes, _labels(targets, goal, by_class.size))
    if goal.shape == logits.shape and logits.ndim > 1 and logits.shape[-1] == by_class.size:
        return (goal * classes).sum(-1)
    if by_class.size == 2:
        return classes[0] + (classes[1] - classes[0]) * _aligned(targets, logits)
    raise ShapeError(
        f"there are {by_class.size} class weights, which do not fit logits of shape {show_shape(logits.shape)} and targets "
        f"of shape {show_shape(goal.shape)}"
    )


def _floats(outputs: ArrayLike) -> Array:
    array = as_array(outputs)
    return array if array.value.dtype in FLOATS else array.astype(FLOAT32)


def _difference(outputs: ArrayLike, targets: ArrayLike) -> Array:
    array = _floats(outputs)
    return array - _aligned(targets, array)


def _aligned(targets: ArrayLike, outputs: Array) -> Array:
    """The targets in the shape of the outputs, which may differ in a last axis of size 1 alone."""
    goal = as_array(targets)
    if goal.shape == outputs.shape:
        return goal
    if goal.shape == (*outputs.shape, 1) or (*goal.shape, 1) == outputs.shape:
        return goal.reshape(outputs.shape)
    raise ShapeError(
        f"the outputs have shape {show_shape(outputs.shape)}, but the targets have shape {show_shape(goal.shape)}"
    )


def _labels(targets: Any, goal: Array, classes: Any) -> Array:
    if goal.value.dtype in FLOATS:
        raise DTypeError(
            f"cross_entropy needs integer labels from 0 to {classes - 1}, not {goal.dtype}; convert them with "
            ".astype(int), or pass probabilities with one column per class"
        )
    _refuse_outside(targets, classes - 1, f"labels of {classes} classes are 0 to {classes - 1}")
    labels: Array = goal if goal.value.dtype in INTEGERS else goal.astype(INT64)
    return labels


def _refuse_outside(targets: Any, highest: int, what: str) -> None:
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
