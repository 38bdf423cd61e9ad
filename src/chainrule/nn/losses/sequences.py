"""Connectionist temporal classification: sequences of labels without an alignment."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.nn.losses.examples import Reduction, floats, over_examples
from chainrule.ops.activations import log_softmax
from chainrule.ops.arrays import arange, concatenate, full, stack, take_along
from chainrule.ops.known import refuse
from chainrule.ops.loops import scan
from chainrule.ops.math import exp, log, maximum, stop_gradient, where
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

# The logarithm of a probability of 0. A finite number, so that no difference of two of them is NaN.
_NEVER = -1e30


@operation
def ctc(
    outputs: ArrayLike,
    targets: Any,
    weights: ArrayLike | None = None,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    per_label: bool = False,
    reduction: Reduction = "mean",
) -> Any:
    """``-log Σ p(path)`` over the paths that read as the labels once repeats are merged and blanks dropped; mean over examples.

    Outputs are logits (batch, time, classes), one class of which is the ``blank``. Targets are integer labels (batch,
    most labels), padded with negative numbers behind the last; or a pair of those and the lengths (batch,) of the
    outputs, where not all steps count. An example whose labels do not fit into its steps has the loss infinity, with
    ``zero_infinity`` 0, and no gradient. The sum runs over time by the forward recursion in logarithms. Graves et al.,
    ICML 2006. This is PyTorch's ``reduction="none"``, averaged; ``per_label`` divides every loss by the number of its
    labels (1 where there are none) first, as PyTorch's "mean" does. Raises :class:`ShapeError` for other shapes, and
    :class:`DataError` for a label that is the blank or no class, where known.
    """
    logits = floats(outputs)
    given, lengths = targets if isinstance(targets, tuple | list) else (targets, None)
    labels = as_array(given)
    _check(logits, labels, lengths, given, blank)
    steps = int(logits.shape[1])
    count = (labels >= 0).astype("int64").sum(1)
    labels = where(labels >= 0, labels, blank).astype("int64")
    # States: a blank before, between and after the labels.
    blanks = full(labels.shape, blank, "int64")
    pairs = stack([blanks, labels], -1).reshape((labels.shape[0], 2 * int(labels.shape[1])))
    states = concatenate([pairs, blanks[:, :1]], 1)
    skips = pad((states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2]), [(0, 0), (2, 0)])
    by_class = log_softmax(logits).transpose(0, 2, 1)
    emitted = Array(by_class.home.gather(by_class.value, states.value, 1), by_class.home).transpose(2, 0, 1)
    last = steps if lengths is None else as_array(lengths).astype("int64")

    def step(reached: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[()]]:
        emission, time = inputs
        one = pad(reached[:, :-1], [(0, 0), (1, 0)], _NEVER)
        two = where(skips, pad(reached[:, :-2], [(0, 0), (2, 0)], _NEVER), _NEVER)
        highest = stop_gradient(maximum(maximum(reached, one), two))
        total = log(exp(reached - highest) + exp(one - highest) + exp(two - highest)) + highest + emission
        inside = as_array(time < last)
        return where(inside.reshape((*inside.shape, 1)), maximum(total, _NEVER), reached), ()

    # Before the first step everything is in the first blank, from where the first label is one step away.
    place = arange(states.shape[1])
    start = where((place == 0) & (states == states), 0.0, _NEVER).astype(logits.dtype)
    reached, _ = scan(step, start, (emitted, np.arange(steps)))
    ends = take_along(reached, 2 * count)
    before = where(count > 0, take_along(reached, maximum(2 * count - 1, 0)), _NEVER)
    highest = stop_gradient(maximum(ends, before))
    total = log(exp(ends - highest) + exp(before - highest)) + highest
    possible = total > 0.1 * _NEVER
    losses = where(possible, -total, 0.0 if zero_infinity else np.inf)
    return over_examples(losses / maximum(count, 1).astype(losses.dtype) if per_label else losses, weights, reduction)


def _check(logits: Array, labels: Array, lengths: Any, given: Any, blank: int) -> None:
    if logits.ndim != 3 or labels.ndim != 2 or labels.shape[0] != logits.shape[0] or not labels.shape[1]:
        raise ShapeError(
            "ctc needs logits (batch, time, classes) and labels (batch, most labels), not arrays of shapes "
            f"{show_shape(logits.shape)} and {show_shape(labels.shape)}"
        )
    if lengths is not None and as_array(lengths).shape != logits.shape[:1]:
        raise ShapeError(
            f"ctc needs one length for each of the {logits.shape[0]} examples, not {show_shape(as_array(lengths).shape)}"
        )
    if labels.value.dtype in FLOATS:
        raise DTypeError(f"ctc needs integer labels, not {labels.dtype}; convert them with .astype(int)")
    if isinstance(given, Array):
        return
    classes = int(logits.shape[2])
    known = np.asarray(given)
    behind = np.maximum.accumulate(known < 0, axis=1) & (known >= 0)
    refuse(
        known,
        (known >= classes) | (known == blank),
        f"ctc: labels of {classes} classes are 0 to {classes - 1} without the blank {blank}",
    )
    refuse(known, behind, "ctc: labels are padded with negative numbers behind the last one")
