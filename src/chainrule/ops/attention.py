"""Scaled dot-product attention: as it is defined, and in blocks of queries that never hold all the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ir.sizes import Shape
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
    masks = [] if mask is None else [as_array(mask)]
    for one in masks:
        _check_mask(one, scores.shape)
    scores, allowed = _masked(scores, masks, causal)
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


def _check_mask(mask: Array, scores: Shape) -> None:
    try:
        fits = broadcast_shapes([mask.shape, scores]) == scores
    except ShapeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"a mask of shape {show_shape(mask.shape)} does not fit attention scores of shape {show_shape(scores)}"
        )


def _masked(scores: Array, masks: Sequence[Array], causal: bool, first: Any = 0) -> tuple[Array, Array | None]:
    """Scores with additive masks added, and where attention is allowed; the rows begin at query ``first``."""
    allowed: Array | None = None
    for mask in masks:
        if is_float(mask.dtype):
            scores = scores + mask
        else:
            wanted = mask if mask.dtype == np.bool_ else mask != 0
            allowed = wanted if allowed is None else allowed & wanted
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
    """A loop over the heads, which do not depend on each other, around one over blocks of queries."""
    lead = broadcast_shapes([x.shape[:-2] for x in (q, k, v)])
    heads = [_by_head(broadcast_to(x, (*lead, *x.shape[-2:])), lead) for x in (q, k, v)]
    common: list[Array] = []
    if mask is not None:
        chosen = _checked_mask(mask, (*lead, q.shape[-2], k.shape[-2]))
        if any(n != 1 and isinstance(size, int) for n, size in zip(chosen.shape, lead)):
            heads.append(_by_head(chosen, lead))
        else:
            common.append(_of_any_head(chosen, lead))
    count, size = _blocks(q.shape[-2], block)
    own_masks = len(heads) - 3

    def forward(*operands: Array) -> tuple[Array, Array]:
        def head(_: None, one: list[Array]) -> tuple[None, tuple[Array, Array]]:
            q, k, v, *masks = [*one, *operands[len(heads) :]]
            keys = k.swapaxes(-1, -2)

            def step(_: None, row: Any) -> tuple[None, tuple[Array, Array]]:
                number, part, cut = row
                scores, allowed = _masked(matmul(part, keys), _whole(masks, cut), causal, number * size)
                weights, total, shift = _exponentials(scores, allowed)
                return None, (matmul(weights, v) / total, shift + log(total))

            rows = (arange(count), _cut(q * scale, count, size), [_cut_mask(m, count, size) for m in masks])
            _, (out, logs) = scan(step, None, rows)
            return None, (_join(out, q.shape[-2]), _join(logs, q.shape[-2]))

        return scan(head, None, list(operands[: len(heads)]))[1]  # type: ignore[no-any-return]

    def backward(inputs: Sequence[Array], outputs: Sequence[Array], cotangents: Sequence[Array]) -> list[Array | None]:
        def head(_: None, one: list[Array]) -> tuple[None, tuple[Array, Array, Array]]:
            out, logs, to_out, to_logs, q, k, v, *masks = [*one, *inputs[len(heads) :]]
            keys, values = k.swapaxes(-1, -2), v.swapaxes(-1, -2)
            # Σ over keys of P · dP is the product of the output with its cotangent; that of the logarithm adds P · dL.
            shared = (out * to_out).sum(-1, keepdims=True) - to_logs

            def step(sums: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Array]:
                number, (part, logs, to_out, shared), cut = row
                weights = again(number, part, logs, keys, *_whole(masks, cut))
                to_scores = weights * (matmul(to_out, values) - shared)
                to_k, to_v = sums
                to_k = to_k + matmul(to_scores.swapaxes(-1, -2), part)
                return (to_k, to_v + matmul(weights.swapaxes(-1, -2), to_out)), matmul(to_scores, k) * scale

            rows = (
                arange(count),
                [_cut(x, count, size) for x in (q * scale, logs, to_out, shared)],
                [_cut_mask(m, count, size) for m in masks],
            )
            (to_k, to_v), to_q = scan(step, (0 * k, 0 * v), rows)
            return None, (_join(to_q, q.shape[-2]), to_k, to_v)

        _, found = scan(head, None, [*outputs, *cotangents, *inputs[: len(heads)]])
        return [*found, *[None] * (own_masks + len(common))]

    @operation_with_rule
    def again(number: Array, part: Array, logs: Array, keys: Array, *masks: Array) -> Array:
        """The weights of a block, for its backward pass: a named operation, so that they stay within their step."""
        scores, allowed = _masked(matmul(part, keys), masks, causal, number * size)
        if allowed is None:
            return exp(scores - logs)  # type: ignore[no-any-return]
        return where(allowed, exp(where(allowed, scores - logs, 0)), 0)  # type: ignore[no-any-return]

    out, _ = operation_with_rule(forward, backward, label="attention")(*heads, *common)
    return _from_heads(out, lead)


def _checked_mask(mask: ArrayLike, scores: Shape) -> Array:
    """A boolean mask with as many axes as the scores."""
    chosen = as_array(mask)
    if is_float(chosen.dtype):
        raise ConfigError("attention in blocks takes boolean masks; add a mask of floats in the plain form, block=None")
    _check_mask(chosen, scores)
    return chosen.reshape((1,) * (len(scores) - chosen.ndim) + chosen.shape)


def _blocks(rows: Any, block: int) -> tuple[int, int]:
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ConfigError(f"block is a number of queries of at least 1, not {block!r}")
    if not isinstance(rows, int):
        raise ShapeError("attention in blocks needs a fixed number of queries, not the symbolic batch size")
    size = max(1, min(block, rows))
    return -(-rows // size), size


def _by_head(x: Array, lead: Shape) -> Array:
    """(..., T, d) as (heads, B, T, d), without B where the batch size is a number."""
    fixed = [axis for axis, size in enumerate(lead) if isinstance(size, int)]
    whole = [size if axis in fixed else x.shape[axis] for axis, size in enumerate(lead)]
    x = broadcast_to(x, (*whole, *x.shape[-2:]))
    x = x.transpose(*fixed, *(axis for axis in range(x.ndim) if axis not in fixed))
    return x.reshape((math.prod(lead[axis] for axis in fixed), *x.shape[len(fixed) :]))


def _of_any_head(mask: Array, lead: Shape) -> Array:
    """A mask that serves all heads, as each of them sees it."""
    kept = [axis for axis in range(mask.ndim) if axis >= len(lead) or not isinstance(lead[axis], int)]
    return mask.reshape([mask.shape[axis] for axis in kept])


def _from_heads(x: Array, lead: Shape) -> Array:
    """The inverse of :func:`_by_head`."""
    fixed = [axis for axis, size in enumerate(lead) if isinstance(size, int)]
    x = x.reshape((*(lead[axis] for axis in fixed), *x.shape[1:]))
    order = [*fixed, *(axis for axis in range(x.ndim) if axis not in fixed)]
    return x.transpose(*np.argsort(order))


def _whole(given: Sequence[Array], parts: Sequence[Array | None]) -> list[Array]:
    """Parts of arrays, or the whole where there is none."""
    return [x if part is None else part for x, part in zip(given, parts, strict=True)]


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
