"""Scaled dot-product attention: as it is defined, and in blocks of queries that never hold all the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ops.arrays import arange, broadcast_to
from chainrule.ops.loops import operation_with_rule, scan
from chainrule.ops.math import exp, log, matmul, stop_gradient, where
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import broadcast_shapes, common_dtype, show_shape


@operation
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    block: int | None = None,
) -> Any:
    """``softmax(scale · Q Kᵀ) V`` for Q (..., T, d), K (..., S, d) and V (..., S, e); the result is (..., T, e).

    ``scale`` is 1/√d by default. ``mask``, of a shape that broadcasts to (..., T, S), is true where a query may attend to a key;
    one of floats is added to the scaled scores. ``causal`` lets query i attend to keys 0 to i only. A query that may attend to
    nothing gets 0. Vaswani et al., NeurIPS 2017.

    With ``block=b`` the queries are taken b at a time, and backpropagation computes the weights of a block again from the logarithms
    of their sums, so that memory is linear in T: the named operation ``attention``, with a backward rule of its own. Its masks are
    boolean. Rabe & Staats 2021; Dao et al., NeurIPS 2022. Raises :class:`ShapeError` where the shapes do not fit.
    """
    q, k, v = _checked(query, key, value)
    factor = 1 / math.sqrt(int(q.shape[-1])) if scale is None else float(scale)
    if block is None:
        return matmul(attention_weights(q, k, mask, causal=causal, scale=factor), v)
    return _in_blocks(q, k, v, mask, causal, factor, block)


@operation
def attention_weights(
    query: ArrayLike, key: ArrayLike, mask: ArrayLike | None = None, *, causal: bool = False, scale: float | None = None
) -> Any:
    """``softmax(scale · Q Kᵀ)`` of shape (..., T, S), the weights of :func:`scaled_dot_product_attention`."""
    q, k, _ = _checked(query, key, key)
    factor = 1 / math.sqrt(int(q.shape[-1])) if scale is None else float(scale)
    scores = matmul(q * factor, k.swapaxes(-1, -2))
    scores, allowed = _masked(scores, mask, causal)
    weights, total, _ = _exponentials(scores, allowed)
    return weights / total


def _checked(query: ArrayLike, key: ArrayLike, value: ArrayLike) -> list[Array]:
    arrays = [as_array(x) for x in (query, key, value)]
    q, k, v = arrays
    if min(x.ndim for x in arrays) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        shapes = ", ".join(show_shape(x.shape) for x in arrays)
        raise ShapeError(
            f"attention takes queries (..., T, d), keys (..., S, d) and values (..., S, e), but their shapes are {shapes}"
        )
    dtype = common_dtype([(x.value.dtype, x.weak) for x in arrays])
    return [x.astype(dtype) for x in arrays]


def _masked(scores: Array, mask: ArrayLike | None, causal: bool, first: Any = 0) -> tuple[Array, Array | None]:
    """Scores with an additive mask added, and where attention is allowed; the rows begin at query ``first``."""
    allowed = None
    if mask is not None:
        chosen = as_array(mask)
        try:
            fits = broadcast_shapes([chosen.shape, scores.shape]) == scores.shape
        except ShapeError:
            fits = False
        if not fits:
            raise ShapeError(
                f"a mask of shape {show_shape(chosen.shape)} does not fit attention scores of shape {show_shape(scores.shape)}"
            )
        if is_float(chosen.dtype):
            scores = scores + chosen
        else:
            allowed = chosen if chosen.dtype == np.bool_ else chosen != 0
    if causal:
        queries, keys = scores.shape[-2:]
        past = arange(keys) <= arange(queries)[:, None] + first
        allowed = past if allowed is None else allowed & past
    return scores, allowed


def _exponentials(scores: Array, allowed: Array | None) -> tuple[Array, Array, Array]:
    """``e**(s - m)`` where allowed, their sums over keys (1 where nothing is allowed), and the shift m that avoids overflow."""
    if allowed is not None:
        scores = where(allowed, scores, float(np.finfo(scores.dtype).min) / 2)
    # The shift cancels in the quotient, so no gradient needs to pass through the maximum.
    shift = stop_gradient(scores.max(-1, keepdims=True))
    weights: Array = exp(scores - shift)
    if allowed is None:
        return weights, weights.sum(-1, keepdims=True), shift
    weights = where(allowed, weights, 0)
    total = weights.sum(-1, keepdims=True)
    return weights, where(total > 0, total, 1), shift


# --- in blocks of queries --------------------------------------------------------------------------------------------


def _in_blocks(q: Array, k: Array, v: Array, mask: ArrayLike | None, causal: bool, scale: float, block: int) -> Array:
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ConfigError(f"block is a number of queries of at least 1, not {block!r}")
    lead = broadcast_shapes([x.shape[:-2] for x in (q, k, v)])
    q, k, v = (broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k, v))
    given = [q, k, v]
    if mask is not None:
        chosen = as_array(mask)
        if is_float(chosen.dtype):
            raise ConfigError(
                "attention in blocks takes boolean masks; add a mask of floats in the plain form, block=None"
            )
        if chosen.ndim < 2:
            chosen = chosen.reshape((1,) * (2 - chosen.ndim) + chosen.shape)
        given.append(chosen)
    count, size = _blocks(q.shape[-2], block)

    def forward(q: Array, k: Array, v: Array, *masks: Array) -> tuple[Array, Array]:
        rows = (arange(count), _cut(q * scale, count, size), [_cut_mask(m, count, size) for m in masks])

        def step(_: None, row: Any) -> tuple[None, tuple[Array, Array]]:
            number, part, cut = row
            scores, allowed = _scores(part, k, masks, cut, causal, number * size)
            weights, total, shift = _exponentials(scores, allowed)
            return None, (matmul(weights, v) / total, shift + log(total))

        _, (out, logs) = scan(step, None, rows)
        return _join(out, q.shape[-2]), _join(logs, q.shape[-2])

    def backward(inputs: Sequence[Array], outputs: Sequence[Array], cotangents: Sequence[Array]) -> list[Array | None]:
        q, k, v, *masks = inputs
        # Σ over keys of P · dP is the product of the output with its cotangent; that of the logarithm adds P · dL.
        shared = (outputs[0] * cotangents[0]).sum(-1, keepdims=True) - cotangents[1]
        rows = (
            arange(count),
            [_cut(x, count, size) for x in (q * scale, outputs[1], cotangents[0], shared)],
            [_cut_mask(m, count, size) for m in masks],
        )

        def step(sums: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Array]:
            number, (part, logs, to_out, common), cut = row
            weights = again(number, part, logs, k, *masks_of(masks, cut))
            to_scores = weights * (matmul(to_out, v.swapaxes(-1, -2)) - common)
            to_k, to_v = sums
            to_k = to_k + matmul(to_scores.swapaxes(-1, -2), part)
            return (to_k, to_v + matmul(weights.swapaxes(-1, -2), to_out)), matmul(to_scores, k) * scale

        (to_k, to_v), to_q = scan(step, (0 * k, 0 * v), rows)
        return [_join(to_q, q.shape[-2]), to_k, to_v, *(None for _ in masks)]

    def masks_of(masks: Sequence[Array], cut: Sequence[Array | None]) -> list[Array]:
        return [whole if part is None else part for whole, part in zip(masks, cut, strict=True)]

    @operation_with_rule
    def again(number: Array, part: Array, logs: Array, k: Array, *masks: Array) -> Array:
        """The weights of a block, for its backward pass: a named operation, so that they stay within their step."""
        scores, allowed = _scores(part, k, masks, [None] * len(masks), causal, number * size)
        if allowed is None:
            return exp(scores - logs)  # type: ignore[no-any-return]
        return where(allowed, exp(where(allowed, scores - logs, 0)), 0)  # type: ignore[no-any-return]

    out, _ = operation_with_rule(forward, backward, label="attention")(*given)
    return out  # type: ignore[no-any-return]


def _scores(
    part: Array, k: Array, masks: Sequence[Array], cut: Sequence[Array | None], causal: bool, first: Any
) -> tuple[Array, Array | None]:
    scores = matmul(part, k.swapaxes(-1, -2))
    mask = None
    if masks:
        mask = masks[0] if cut[0] is None else cut[0]
    return _masked(scores, mask, causal, first)


def _blocks(rows: Any, block: int) -> tuple[int, int]:
    if not isinstance(rows, int):
        raise ShapeError("attention in blocks needs a fixed number of queries, not the symbolic batch size")
    size = max(1, min(block, rows))
    return -(-rows // size), size


def _cut(x: Array, count: int, size: int) -> Array:
    """(..., T, d) as blocks (count, ..., size, d), with zeros after the last row."""
    missing = count * size - int(x.shape[-2])
    if missing:
        x = pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)])
    lead = x.ndim - 2
    cut = x.reshape((*x.shape[:-2], count, size, x.shape[-1]))
    return cut.transpose(lead, *range(lead), lead + 1, lead + 2)


def _cut_mask(mask: Array, count: int, size: int) -> Array | None:
    """The rows of a mask in blocks; None where one row serves all queries."""
    return None if mask.shape[-2] == 1 else _cut(mask, count, size)


def _join(x: Array, rows: Any) -> Array:
    """The inverse of :func:`_cut`."""
    lead = x.ndim - 3
    joined = x.transpose(*range(1, lead + 1), 0, lead + 1, lead + 2)
    joined = joined.reshape((*joined.shape[:lead], joined.shape[lead] * joined.shape[lead + 1], x.shape[-1]))
    return joined[..., :rows, :]
