"""Losses of distances, of pairs in order and of sets of labels that ask for a margin."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.nn.losses.examples import Reduction, aligned, floats, over_examples
from chainrule.ops.arrays import max, one_hot, take_along
from chainrule.ops.known import refuse_outside
from chainrule.ops.math import where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


@operation
def hinge_embedding(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    margin: float = 1.0,
    reduction: Reduction = "mean",
) -> Any:
    """``y`` where the target is 1, ``max(0, margin - y)`` where it is 0, for distances y of pairs; the mean over outputs.

    Targets 1 mark pairs that belong together (PyTorch marks the others by -1). Hadsell, Chopra & LeCun, CVPR 2006, without
    the squares. Raises :class:`DataError` for other targets where they are known.
    """
    distance = floats(outputs)
    refuse_outside(targets, 0, 1, "hinge_embedding needs targets 0 and 1")
    goal = aligned(targets, distance)
    return over_examples(where(goal > 0, distance, positive_part(margin - distance)), weights, reduction)


@operation
def margin_ranking(
    outputs: Any,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Any:
    """``max(0, margin - s (u - v))`` for outputs (u, v), two arrays of one shape, with s = 1 for the target 1 and -1 for 0.

    The target is 1 where u should be the larger, 0 where v should (PyTorch has -1 for that); the mean over outputs. Raises
    :class:`ShapeError` for outputs that are not two arrays of one shape, :class:`DataError` for other targets where known.
    """
    if not isinstance(outputs, tuple | list) or len(outputs) != 2:
        raise ShapeError(f"margin_ranking needs a pair of arrays as outputs, not {type(outputs).__name__}")
    left, right = map(floats, outputs)
    if left.shape != right.shape:
        raise ShapeError(
            f"margin_ranking needs two arrays of one shape, not {show_shape(left.shape)} and {show_shape(right.shape)}"
        )
    refuse_outside(targets, 0, 1, "margin_ranking needs targets 0 and 1")
    difference = left - right
    goal = aligned(targets, difference)
    return over_examples(positive_part(margin - where(goal > 0, difference, -difference)), weights, reduction)


@operation
def multilabel_margin(
    outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, reduction: Reduction = "mean"
) -> Any:
    """``Σ max(0, 1 - (y_l - yᵢ)) / C`` over the labels l of an example and the C classes i that are none of them.

    Outputs are numbers (..., C), targets integer labels (..., most labels); what follows the first negative number does not
    count, as in PyTorch. Raises :class:`DataError` for a label that is no class where it is known (a traced step gives
    NaN), :class:`ShapeError` and :class:`DTypeError` for targets that are no such labels.
    """
    y, given = floats(outputs), as_array(targets)
    if not y.ndim or given.ndim != y.ndim or given.shape[:-1] != y.shape[:-1] or not given.shape[-1]:
        raise ShapeError(
            f"multilabel_margin of outputs of shape {show_shape(y.shape)} needs a row of labels for each row of them, not "
            f"targets of shape {show_shape(given.shape)}"
        )
    if given.value.dtype in FLOATS:
        raise DTypeError(f"multilabel_margin needs integer labels, not {given.dtype}; convert them with .astype(int)")
    classes, most = int(y.shape[-1]), int(given.shape[-1])
    refuse_outside(targets, -np.inf, classes - 1, f"labels of {classes} classes are 0 to {classes - 1}")
    # A label counts where no label before it is negative.
    before = np.triu(np.ones((most, most), np.int64))
    counts = ((given < 0).astype("int64") @ before) == 0
    labels = where(counts, given, -1).astype("int64")
    own = max(one_hot(labels, classes, "int32"), -2) > 0
    total: Array | None = None
    for place in range(most):
        label = labels[..., place]
        chosen = take_along(y, where(label < 0, 0, label))[..., None]
        surplus = where(own | (label < 0)[..., None], 0, positive_part(1 - (chosen - y))).sum(-1)
        surplus = where(label < classes, surplus, np.nan)
        total = surplus if total is None else total + surplus
    assert total is not None, "there is a column of labels"
    return over_examples(total * (1 / classes), weights, reduction)


def positive_part(x: Array) -> Array:
    """``max(x, 0)``; at 0 the derivative is 1, as PyTorch's losses have it."""
    part: Array = where(x >= 0, x, 0)
    return part
