"""Scaled dot-product attention: as it is defined, and in blocks of queries that never hold all the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ir.sizes import Shape
from chainrule.ops import random
from chainrule.ops.arrays import arange, broadcast_to, concatenate
from chainrule.ops.loops import operation_with_rule, scan
from chainrule.ops.math import exp, log, matmul, stop_gradient, where
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.keys import next_key
from chainrule.trace.values import broadcast_shapes, common_dtype, show_shape

# With fewer queries or keys than this, "auto" holds all the weights.
SHORTEST = 192
# Weights of a block: so many stay in a second cache together with what is computed from them, ...
_BLOCK_WEIGHTS = 1 << 15
# ... and so many queries at least and at most make products of a good shape.
_FEWEST, _MOST = 32, 64
# Blocks of causal attention are in so many parts, each with the keys that its last query may look at. More of them would save less
# and less (with two a quarter of the work, with four three eighths) but every part is compiled by itself.
_CAUSAL_PARTS = 2


@operation
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    dropout_key: ArrayLike | None = None,
    block: int | str | None = "auto",
) -> Any:
    """``softmax(scale · Q Kᵀ) V`` for Q (..., T, d), K (..., S, d) and V (..., S, e); the result is (..., T, e).

    ``scale`` is 1/√d by default. ``mask``, of a shape that broadcasts to (..., T, S), is true where a query may attend to a key;
    one of floats is added to the scaled scores. ``causal`` lets query i attend to keys 0 to i only. A query that may attend to
    nothing gets 0. Vaswani et al., NeurIPS 2017. With ``dropout=p`` each weight becomes 0 with probability p, and others are divided
    by 1 - p, whether or not this is training; random bits come from ``dropout_key`` or the usual sequence of keys.

    With ``block=b`` the queries are taken b at a time, and backpropagation computes the weights of a block again from the logarithms
    of their sums, so that memory is linear in T: the named operation ``attention``, with a backward rule of its own. Its masks are
    boolean. Rabe & Staats 2021; Dao et al., NeurIPS 2022. ``block=None`` holds all T · S weights, and so does ``"auto"`` where T or S
    is below 192 or symbolic, or where the mask is of floats; else it takes blocks of 32 to 64 queries. Each form drops other weights.

    Raises:
        ShapeError: where the shapes do not fit.
        ConfigError: for a block or a rate of dropout that makes no sense, and a mask of floats in blocks.
    """
    q, k, v = _checked(query, key, value)
    factor = 1 / math.sqrt(int(q.shape[-1])) if scale is None else float(scale)
    if not 0 <= dropout < 1:
        raise ConfigError(f"the rate of dropout is a probability from 0 to below 1, not {dropout!r}")
    drawn = None
    if dropout:
        drawn = next_key() if dropout_key is None else as_array(dropout_key)
    size = _block_size(block, q, k, mask)
    if size is not None:
        return _in_blocks(q, k, v, mask, causal, factor, size, dropout, drawn)
    weights = attention_weights(q, k, mask, causal=causal, scale=factor)
    if drawn is not None:
        weights = _dropped(weights, random.bernoulli(1 - dropout, weights.shape, key=drawn), dropout)
    return matmul(weights, v)


def takes_blocks(query: Array, key: Array, mask: ArrayLike | None, block: int | str | None) -> bool:
    """Whether attention of these queries and keys is computed in blocks."""
    return _block_size(block, query, key, mask) is not None


def _block_size(block: int | str | None, q: Array, k: Array, mask: ArrayLike | None) -> int | None:
    """The number of queries of a block; None for the plain form. Sizes alone decide."""
    if block is None or (not isinstance(block, bool | str) and isinstance(block, int) and block >= 1):
        return block
    if block != "auto":
        raise ConfigError(f'block is a number of queries of at least 1, "auto" or None, not {block!r}')
    queries, keys = q.shape[-2], k.shape[-2]
    if not isinstance(queries, int) or not isinstance(keys, int) or min(queries, keys) < SHORTEST:
        return None
    if mask is not None and is_float(as_array(mask).dtype):
        return None
    return max(_FEWEST, min(_MOST, _BLOCK_WEIGHTS // keys))


def _dropped(x: Array, kept: Array, rate: float) -> Array:
    return where(kept, x * (1 / (1 - rate)), 0)  # type: ignore[no-any-return]


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


def _in_blocks(
    q: Array,
    k: Array,
    v: Array,
    mask: ArrayLike | None,
    causal: bool,
    scale: float,
    block: int,
    dropout: float,
    drawn: Array | None,
) -> Array:
    """A loop over the heads, which do not depend on each other, around one over blocks of queries."""
    lead = broadcast_shapes([x.shape[:-2] for x in (q, k, v)])
    # Random bits are numbered by examples, the first axis, so that they are the same whether or not the batch size is a symbol.
    axes = [axis for axis, size in enumerate(lead) if isinstance(size, int) and (drawn is None or axis)]
    heads = [_by_head(broadcast_to(x, (*lead, *x.shape[-2:])), lead, axes) for x in (q, k, v)]
    common: list[Array] = []
    if mask is not None:
        chosen = _checked_mask(mask, (*lead, q.shape[-2], k.shape[-2]))
        if any(chosen.shape[axis] != 1 for axis in axes):
            heads.append(_by_head(chosen, lead, axes))
        else:
            common.append(_of_any_head(chosen, axes))
    queries, keys = q.shape[-2], k.shape[-2]
    if not isinstance(queries, int) or not isinstance(keys, int):
        raise ShapeError("attention in blocks needs fixed numbers of queries and keys, not the symbolic batch size")
    count, size = _blocks(queries, block)
    spans = _spans(count, size, keys, causal)
    if drawn is not None:
        # Each block of each head draws from a key of its own, in both passes.
        heads.append(random.bits((heads[0].shape[0], count, 2), key=drawn))

    def unpacked(one: Sequence[Array], rest: Sequence[Array]) -> tuple[list[Array], Array | None]:
        """The operands of one head, and the keys of its blocks."""
        if drawn is None:
            return [*one, *rest], None
        return [*one[:-1], *rest], one[-1]

    def kept(key: Array | None, like: Array) -> Array | None:
        return None if key is None else random.bernoulli(1 - dropout, like.shape, key=key)

    def forward(*operands: Array) -> tuple[Array, Array]:
        def head(_: None, one: list[Array]) -> tuple[None, tuple[Array, Array]]:
            (q, k, v, *masks), seeds = unpacked(one, operands[len(heads) :])
            parts = _cut(q * scale, count, size)

            def attended(span: _Span) -> tuple[Array, Array]:
                keys, values, seen = k[..., : span.keys, :].swapaxes(-1, -2), v[..., : span.keys, :], span.masks(masks)

                def step(_: None, row: Any) -> tuple[None, tuple[Array, Array]]:
                    number, part, cut, seed = row
                    scores, allowed = _masked(matmul(part, keys), _whole(seen, cut), causal, number * size)
                    weights, total, shift = _exponentials(scores, allowed)
                    stays = kept(seed, weights)
                    used = weights if stays is None else _dropped(weights, stays, dropout)
                    return None, (matmul(used, values) / total, shift + log(total))

                rows = (span.numbers, span.of(parts), [span.of_mask(m, count, size) for m in seen], span.of_some(seeds))
                return scan(step, None, rows)[1]  # type: ignore[no-any-return]

            out, logs = zip(*map(attended, spans), strict=True)
            return None, (_join(concatenate(out), q.shape[-2]), _join(concatenate(logs), q.shape[-2]))

        return scan(head, None, list(operands[: len(heads)]))[1]  # type: ignore[no-any-return]

    def backward(inputs: Sequence[Array], outputs: Sequence[Array], cotangents: Sequence[Array]) -> list[Array | None]:
        def head(_: None, one: list[Array]) -> tuple[None, tuple[Array, Array, Array]]:
            (out, logs, to_out, to_logs, q, k, v, *masks), seeds = unpacked(one, inputs[len(heads) :])
            # Σ over keys of P · dP is the product of the output with its cotangent; that of the logarithm adds P · dL.
            shared = (out * to_out).sum(-1, keepdims=True) - to_logs
            parts = [_cut(x, count, size) for x in (q * scale, logs, to_out, shared)]

            def gradients(span: _Span) -> tuple[Array, Array, Array]:
                k_seen, v_seen, seen = k[..., : span.keys, :], v[..., : span.keys, :], span.masks(masks)
                keys, values = k_seen.swapaxes(-1, -2), v_seen.swapaxes(-1, -2)

                def step(sums: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Array]:
                    number, (part, logs, to_out, shared), cut, seed = row
                    weights = again(number, part, logs, keys, *_whole(seen, cut))
                    used, to_weights = weights, matmul(to_out, values)
                    stays = kept(seed, weights)
                    if stays is not None:
                        used, to_weights = _dropped(weights, stays, dropout), _dropped(to_weights, stays, dropout)
                    to_scores = weights * (to_weights - shared)
                    to_k, to_v = sums
                    to_k = to_k + matmul(to_scores.swapaxes(-1, -2), part)
                    return (to_k, to_v + matmul(used.swapaxes(-1, -2), to_out)), matmul(to_scores, k_seen) * scale

                cut = [span.of_mask(m, count, size) for m in seen]
                rows = (span.numbers, [span.of(x) for x in parts], cut, span.of_some(seeds))
                (to_k, to_v), to_q = scan(step, (0 * k_seen, 0 * v_seen), rows)
                return to_q, _widened(to_k, k), _widened(to_v, v)

            to_q, to_k, to_v = zip(*map(gradients, spans), strict=True)
            return None, (_join(concatenate(to_q), q.shape[-2]), sum(to_k[1:], to_k[0]), sum(to_v[1:], to_v[0]))

        _, found = scan(head, None, [*outputs, *cotangents, *inputs[: len(heads)]])
        return [*found, *[None] * (len(inputs) - 3)]

    @operation_with_rule
    def again(number: Array, part: Array, logs: Array, keys: Array, *masks: Array) -> Array:
        """The weights of a block, for its backward pass: a named operation, so that they stay within their step."""
        scores, allowed = _masked(matmul(part, keys), masks, causal, number * size)
        if allowed is None:
            return exp(scores - logs)  # type: ignore[no-any-return]
        return where(allowed, exp(where(allowed, scores - logs, 0)), 0)  # type: ignore[no-any-return]

    out, _ = operation_with_rule(forward, backward, label="attention")(*heads, *common)
    return _from_heads(out, lead, axes)


@dataclass(frozen=True, slots=True)
class _Span:
    """Blocks of queries from ``first`` up to ``last``, and how many ``keys`` they may look at, from the first on."""

    first: int
    last: int
    keys: int

    @property
    def numbers(self) -> Array:
        return as_array(np.arange(self.first, self.last))

    def of(self, blocks: Array) -> Array:
        return blocks[self.first : self.last]

    def of_some(self, blocks: Array | None) -> Array | None:
        return None if blocks is None else self.of(blocks)

    def masks(self, masks: Sequence[Array]) -> list[Array]:
        """For each the part that is about these keys."""
        return [mask if mask.shape[-1] == 1 else mask[..., : self.keys] for mask in masks]

    def of_mask(self, mask: Array, count: int, size: int) -> Array | None:
        """The rows of a mask in blocks; None where one row serves all queries."""
        return None if mask.shape[-2] == 1 else self.of(_cut(mask, count, size))


def _spans(count: int, size: int, keys: int, causal: bool) -> list[_Span]:
    """All blocks, in parts if the first of them look at few keys."""
    parts = min(count, _CAUSAL_PARTS) if causal else 1
    ends = [count * part // parts for part in range(parts + 1)]
    return [_Span(first, last, min(keys, last * size) if causal else keys) for first, last in zip(ends, ends[1:])]


def _widened(x: Array, whole: Array) -> Array:
    """With zeros for the keys that were not looked at."""
    missing = int(whole.shape[-2]) - int(x.shape[-2])
    return pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)]) if missing else x


def _checked_mask(mask: ArrayLike, scores: Shape) -> Array:
    """A boolean mask with as many axes as the scores."""
    chosen = as_array(mask)
    if is_float(chosen.dtype):
        raise ConfigError("attention in blocks takes boolean masks; add a mask of floats in the plain form, block=None")
    _check_mask(chosen, scores)
    return chosen.reshape((1,) * (len(scores) - chosen.ndim) + chosen.shape)


def _blocks(rows: int, block: int) -> tuple[int, int]:
    """How many blocks there are, all of the same size."""
    count = max(1, -(-rows // block))
    return count, max(1, -(-rows // count))


def _by_head(x: Array, lead: Shape, heads: Sequence[int]) -> Array:
    """(..., T, d) as (heads, rows, T, d), where ``heads`` are axes that become one; without rows if there are no other axes."""
    whole = [size if axis in heads else x.shape[axis] for axis, size in enumerate(lead)]
    x = broadcast_to(x, (*whole, *x.shape[-2:]))
    x = x.transpose(*heads, *(axis for axis in range(x.ndim) if axis not in heads))
    return x.reshape((math.prod(lead[axis] for axis in heads), *x.shape[len(heads) :]))


def _of_any_head(mask: Array, heads: Sequence[int]) -> Array:
    """A mask that serves all heads, as each of them sees it."""
    return mask.reshape([size for axis, size in enumerate(mask.shape) if axis not in heads])


def _from_heads(x: Array, lead: Shape, heads: Sequence[int]) -> Array:
    """The inverse of :func:`_by_head`."""
    x = x.reshape((*(lead[axis] for axis in heads), *x.shape[1:]))
    order = [*heads, *(axis for axis in range(x.ndim) if axis not in heads)]
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


def _join(x: Array, rows: Any) -> Array:
    """The inverse of :func:`_cut`."""
    lead = x.ndim - 3
    joined = x.transpose(*range(1, lead + 1), 0, lead + 1, lead + 2)
    joined = joined.reshape((*joined.shape[:lead], joined.shape[lead] * joined.shape[lead + 1], x.shape[-1]))
    return joined[..., :rows, :]
