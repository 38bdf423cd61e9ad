"""The weights of attention, and the steps on the way to them that are the same for all queries and for blocks of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import is_float
from chainrule.core.errors import ShapeError
from chainrule.ir.sizes import Shape
from chainrule.ops.arrays import arange
from chainrule.ops.math import exp, matmul, stop_gradient, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import broadcast_shapes, common_dtype, show_shape


@operation
def attention_weights(
    query: ArrayLike, key: ArrayLike, mask: ArrayLike | None = None, *, causal: bool = False, scale: float | None = None
) -> Any:
    """``softmax(scale · Q Kᵀ)`` of shape (..., T, S), the weights of :func:`scaled_dot_product_attention`."""
    q, k, _ = checked(query, key, key)
    factor = 1 / math.sqrt(int(q.shape[-1])) if scale is None else float(scale)
    scores = matmul(q * factor, k.swapaxes(-1, -2))
    masks = [] if mask is None else [as_array(mask)]
    for one in masks:
        check_mask(one, scores.shape)
    scores, allowed = masked(scores, masks, arange(scores.shape[-2], np.int32)[:, None] if causal else None)
    weights, total, _ = exponentials(scores, allowed)
    return weights / guarded(total, allowed)


def checked(query: ArrayLike, key: ArrayLike, value: ArrayLike) -> list[Array]:
    """Queries, keys and values that fit each other, of one element type."""
    arrays = [as_array(x) for x in (query, key, value)]
    q, k, v = arrays
    if min(x.ndim for x in arrays) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        shapes = ", ".join(show_shape(x.shape) for x in arrays)
        raise ShapeError(
            f"attention takes queries (..., T, d), keys (..., S, d) and values (..., S, e), but their shapes are {shapes}"
        )
    dtype = common_dtype([(x.value.dtype, x.weak) for x in arrays])
    return [x.astype(dtype) for x in arrays]


def check_mask(mask: Array, scores: Shape) -> None:
    try:
        fits = broadcast_shapes([mask.shape, scores]) == scores
    except ShapeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"a mask of shape {show_shape(mask.shape)} does not fit attention scores of shape {show_shape(scores)}"
        )


def masked(scores: Array, masks: Sequence[Array], last: Array | None = None) -> tuple[Array, Array | None]:
    """Scores with additive masks added, and where attention is allowed: up to the key ``last`` of each query, if that is given."""
    allowed: Array | None = None
    for mask in masks:
        if is_float(mask.dtype):
            scores = scores + mask
        else:
            wanted = mask if mask.dtype == np.bool_ else mask != 0
            allowed = wanted if allowed is None else allowed & wanted
    if last is not None:
        past = arange(scores.shape[-1], np.int32) <= last
        allowed = past if allowed is None else allowed & past
    return scores, allowed


def exponentials(scores: Array, allowed: Array | None) -> tuple[Array, Array, Array]:
    """``e**(s - m)`` where allowed, their sums over keys (0 where nothing is allowed), and the shift m that avoids overflow."""
    low = lowest(scores)
    if allowed is not None:
        scores = where(allowed, scores, low)
    # The shift cancels in the quotient, so no gradient needs to pass through the maximum.
    shift = stop_gradient(scores.max(-1, keepdims=True))
    if allowed is not None:
        shift = where(shift > low, shift, 0)
    weights: Array = exp(scores - shift)
    return weights, weights.sum(-1, keepdims=True), shift


def lowest(scores: Array) -> float:
    """The score of a key that is not attended to: its exponential is 0."""
    return float(np.finfo(scores.dtype).min) / 2


def guarded(total: Array, allowed: Array | None) -> Array:
    """Sums to divide by: 1 where nothing is allowed."""
    if allowed is None:
        return total
    safe: Array = where(total > 0, total, 1)
    return safe


def dropped(x: Array, kept: Array, rate: float) -> Array:
    """Zeros except where kept, and there divided by the probability of that."""
    return where(kept, x * (1 / (1 - rate)), 0)  # type: ignore[no-any-return]
