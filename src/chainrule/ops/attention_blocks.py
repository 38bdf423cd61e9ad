"""Attention in blocks of queries, which never holds the weights of more than a block, with a backward rule of its own.

A loop over the heads, which do not depend on each other, is around one over blocks of queries. The backward pass computes the
weights of a block again from the logarithms of their sums. Rabe & Staats 2021; Dao et al., NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ir.sizes import Shape
from chainrule.ops import random
from chainrule.ops.arrays import broadcast_to, take, zeros
from chainrule.ops.attention_weights import check_mask, dropped, exponentials, guarded, lowest, masked
from chainrule.ops.loops import operation_with_rule, scan
from chainrule.ops.math import exp, log, matmul, where
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array
from chainrule.trace.values import broadcast_shapes

# Weights of a block: so many stay in a second cache together with what is computed from them, ...
_BLOCK_WEIGHTS = 1 << 15
# ... and so many queries at least and at most make products of a good shape.
_FEWEST, _MOST = 32, 128
# Causal attention is cut into two parts, or into as many of so many queries and keys as there are, up to a limit: with n parts
# (n - 1) / 2n of all products are never computed, but what is computed of each part is stacked (n + 1) / 2 times.
_SMALLEST_PART, _PART, _MOST_PARTS = 16, 64, 4


def block_size(queries: int, keys: int, causal: bool) -> int:
    """How many queries a block has by default."""
    most = _MOST
    if causal:
        keys = most = max(1, -(-queries // _parts(queries)))
    return min(most, max(_FEWEST, min(_MOST, _BLOCK_WEIGHTS // max(1, keys))))


def _parts(queries: int) -> int:
    return max(1, min(2, queries // _SMALLEST_PART), min(_MOST_PARTS, queries // _PART))


def attention_in_blocks(
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
    """Attention, ``block`` queries at a time; with the key ``drawn`` weights are dropped with probability ``dropout``."""
    lead = broadcast_shapes([x.shape[:-2] for x in (q, k, v)])
    queries, keys = q.shape[-2], k.shape[-2]
    if not isinstance(queries, int) or not isinstance(keys, int):
        raise ShapeError("attention in blocks needs fixed numbers of queries and keys, not the symbolic batch size")
    cuts = _Cuts.of(queries, keys, block, causal)
    # Random bits are numbered by examples, the first axis, so that they are the same whether or not the batch size is a symbol.
    axes = [axis for axis, size in enumerate(lead) if isinstance(size, int) and (drawn is None or axis)]
    heads = [_by_head(broadcast_to(x, (*lead, *x.shape[-2:])), lead, axes) for x in (q * scale, k, v)]
    common: list[Array] = []
    if mask is not None:
        chosen = _checked_mask(mask, (*lead, queries, keys))
        if any(chosen.shape[axis] != 1 for axis in axes):
            heads.append(_by_head(chosen, lead, axes))
        else:
            common.append(_of_any_head(chosen, axes))
    if drawn is not None:
        # Each block of each head draws from a key of its own, in both passes.
        heads.append(random.bits((heads[0].shape[0], len(cuts.pairs), cuts.blocks, 2), key=drawn))

    def unpacked(one: Sequence[Array], rest: Sequence[Array]) -> tuple[list[Array], list[Array], Array | None]:
        """The queries, keys and values of one head, its masks, and the keys of its blocks."""
        seeds = None if drawn is None else one[-1]
        masks = [*one[3 : len(one) - (drawn is not None)], *rest]
        return list(one[:3]), cuts.masks(masks), seeds

    def kept(key: Array | None, like: Array) -> Array | None:
        return None if key is None else random.bernoulli(1 - dropout, like.shape, key=key)

    def forward(*operands: Array) -> tuple[Array, Array]:
        def head(_: None, one: list[Array]) -> tuple[None, tuple[Array, Array]]:
            (q, k, v), masks, seeds = unpacked(one, operands[len(heads) :])

            def attended(of: Any) -> tuple[Array, Array]:
                parts, keys, values, lasts, shared, masks, seeds = of

                def step(_: None, row: Any) -> tuple[None, tuple[Array, Array]]:
                    part, last, own, seed = row
                    scores, allowed = masked(matmul(part, keys), [*shared, *own], last)
                    weights, total, shift = exponentials(scores, allowed)
                    stays = kept(seed, weights)
                    used = weights if stays is None else dropped(weights, stays, dropout)
                    safe = guarded(total, allowed)
                    logs = shift + log(safe)
                    if shared or own:
                        logs = where(total > 0, logs, lowest(logs))
                    return None, (matmul(used, values) / safe, logs)

                return scan(step, None, (parts, lasts, masks, seeds))[1]  # type: ignore[no-any-return]

            shared, own = cuts.split(masks)
            operands_of_pairs = (
                cuts.queries(q),
                cuts.keys(k).swapaxes(-1, -2),
                cuts.keys(v),
                cuts.lasts,
                shared,
                own,
                seeds,
            )
            out, logs = cuts.over_pairs(attended, operands_of_pairs)
            return None, cuts.merged(out, logs)

        return scan(head, None, list(operands[: len(heads)]))[1]  # type: ignore[no-any-return]

    def backward(inputs: Sequence[Array], outputs: Sequence[Array], cotangents: Sequence[Array]) -> list[Array | None]:
        def head(_: None, one: list[Array]) -> tuple[None, tuple[Array, Array, Array]]:
            (q, k, v), masks, seeds = unpacked(one[4:], inputs[len(heads) :])
            out, logs, to_out, to_logs = one[:4]
            # Σ over keys of P · dP is the product of the output with its cotangent; that of the logarithm adds P · dL.
            rows = (q, logs, to_out, (out * to_out).sum(-1, keepdims=True) - to_logs)

            def gradients(of: Any) -> tuple[Array, Array, Array]:
                parts, k, keys, values, lasts, shared, masks, seeds = of

                def step(sums: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Array]:
                    (part, logs, to_out, shift), last, own, seed = row
                    weights = again(part, logs, keys, last, *shared, *own)
                    used, to_weights = weights, matmul(to_out, values)
                    stays = kept(seed, weights)
                    if stays is not None:
                        used, to_weights = dropped(weights, stays, dropout), dropped(to_weights, stays, dropout)
                    to_scores = weights * (to_weights - shift)
                    to_k, to_v = sums
                    to_k = to_k + matmul(to_scores.swapaxes(-1, -2), part)
                    return (to_k, to_v + matmul(used.swapaxes(-1, -2), to_out)), matmul(to_scores, k)

                nothing = tuple(zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), logs.dtype) for x in (keys, values))
                (to_k, to_v), to_q = scan(step, nothing, (parts, lasts, masks, seeds))
                return to_q, to_k, to_v

            shared, own = cuts.split(masks)
            parts = [cuts.queries(x) for x in rows]
            turned = cuts.keys(k, turned=True), cuts.keys(v, turned=True)
            operands_of_pairs = (parts, cuts.keys(k), *turned, cuts.lasts, shared, own, seeds)
            to_q, to_k, to_v = cuts.over_pairs(gradients, operands_of_pairs)
            return None, (cuts.summed_queries(to_q), cuts.summed_keys(to_k), cuts.summed_keys(to_v))

        _, found = scan(head, None, [*outputs, *cotangents, *inputs[: len(heads)]])
        return [*found, *[None] * (len(inputs) - 3)]

    @operation_with_rule
    def again(part: Array, logs: Array, keys: Array, last: Array | None, *masks: Array) -> Array:
        """The weights of a block, for its backward pass: a named operation, so that they stay within their step."""
        scores, allowed = masked(matmul(part, keys), masks, last)
        scores = scores - logs
        return exp(scores if allowed is None else where(allowed, scores, lowest(scores)))  # type: ignore[no-any-return]

    out, _ = operation_with_rule(forward, backward, label="attention")(*heads, *common)
    return _from_heads(out, lead, axes)


@dataclass(frozen=True, slots=True)
class _Cuts:
    """How queries and keys are cut: ``parts`` of the queries in ``blocks`` of ``size``, and parts of the ``seen`` keys of ``width``.

    Of a causal attention, pairs of a part of queries and a part of keys are computed where some query may look at some key: parts
    are equally wide, so every pair is the same program. Else there is one pair of everything.
    """

    causal: bool
    length: int
    keys_given: int
    seen: int
    parts: int
    blocks: int
    size: int
    width: int

    @staticmethod
    def of(queries: int, keys: int, block: int, causal: bool) -> _Cuts:
        count = max(1, -(-queries // block))
        parts = min(_parts(queries), count) if causal else 1
        blocks = -(-count // parts)
        size = max(1, -(-queries // (parts * blocks)))
        if not causal:
            return _Cuts(False, queries, keys, keys, 1, blocks, size, keys)
        width = blocks * size
        return _Cuts(True, queries, keys, min(queries, keys), max(1, -(-queries // width)), blocks, size, width)

    @property
    def key_parts(self) -> int:
        return max(1, -(-self.seen // self.width)) if self.causal else 1

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Which part of the queries looks at which part of the keys."""
        return [(a, b) for a in range(self.parts) for b in range(min(a + 1, self.key_parts))]

    @property
    def lasts(self) -> Any:
        """The last key, counted within its part, that each query of each block of each pair may look at; None for all."""
        if not self.causal:
            return None
        rows = np.arange(self.width, dtype=np.int32).reshape(self.blocks, self.size, 1)
        return np.stack([rows + (a - b) * self.width for a, b in self.pairs])

    def over_pairs(self, body: Callable[[Any], Any], operands: Any) -> Any:
        """What ``body`` makes of the operands of each pair, stacked."""
        if self.causal:
            return scan(lambda _, one: (None, body(one)), None, operands)[1]
        return trees.tree_map(lambda x: x[None], body(trees.tree_map(lambda x: x[0], operands)))

    def queries(self, x: Array) -> Array:
        """(..., T, d) as (pairs, blocks, ..., size, d), with zeros after the last query."""
        lead = x.ndim - 2
        x = _padded(x, -2, self.parts * self.blocks * self.size)
        cut = x.reshape((*x.shape[:-2], self.parts, self.blocks, self.size, x.shape[-1]))
        cut = cut.transpose(lead, lead + 1, *range(lead), lead + 2, lead + 3)
        return self._of_pairs(cut, [a for a, _ in self.pairs])

    def keys(self, x: Array, turned: bool = False) -> Array:
        """(..., S, d) as (pairs, ..., width, d), or (pairs, ..., d, width)."""
        lead = x.ndim - 2
        x = _padded(x[..., : self.seen, :], -2, self.key_parts * self.width)
        cut = x.reshape((*x.shape[:-2], self.key_parts, self.width, x.shape[-1]))
        cut = cut.transpose(lead, *range(lead), *((lead + 2, lead + 1) if turned else (lead + 1, lead + 2)))
        return self._of_pairs(cut, [b for _, b in self.pairs])

    def _of_pairs(self, x: Array, numbers: list[int]) -> Array:
        return take(x, np.array(numbers)) if self.causal else x

    def masks(self, masks: Sequence[Array]) -> list[Array]:
        """(..., T or 1, S or 1) each as (pairs, blocks or 1, ..., size or 1, width or 1)."""
        if self.seen < self.length and self.key_parts * self.width > self.seen:
            # Queries after the last key would look at what fills up its part.
            masks = [*masks, as_array(np.ones((1, self.seen), np.bool_))]
        return [self._mask(mask) for mask in masks]

    def _mask(self, mask: Array) -> Array:
        lead, by_query, by_key = mask.ndim - 2, mask.shape[-2] != 1, mask.shape[-1] != 1
        parts, blocks, size = (self.parts, self.blocks, self.size) if by_query else (1, 1, 1)
        key_parts, width = (self.key_parts, self.width) if by_key else (1, 1)
        if by_query:
            mask = _padded(mask, -2, parts * blocks * size)
        if by_key:
            mask = _padded(mask[..., : self.seen], -1, key_parts * width)
        cut = mask.reshape((*mask.shape[:-2], parts, blocks, size, key_parts, width))
        cut = cut.transpose(lead, lead + 3, lead + 1, *range(lead), lead + 2, lead + 4)
        cut = cut.reshape((parts * key_parts, *cut.shape[2:]))
        return self._of_pairs(cut, [by_query * a * key_parts + by_key * b for a, b in self.pairs])

    def split(self, masks: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Masks that are the same for all blocks, without their axis, and those that each block has for itself."""
        shared = [mask.reshape((mask.shape[0], *mask.shape[2:])) for mask in masks if mask.shape[1] == 1]
        return shared, [mask for mask in masks if mask.shape[1] != 1]

    def merged(self, out: Array, logs: Array) -> tuple[Array, Array]:
        """The results of pairs, (pairs, blocks, ..., size, e), and the logarithms of their sums, as those of all keys."""
        if self.causal:
            table = self._table([a for a, _ in self.pairs], self.parts)
            there = (table >= 0).reshape((*table.shape, *[1] * (logs.ndim - 1)))
            logs = where(there, take(logs, table), float(np.finfo(logs.dtype).min))
            shift = logs.max(1, keepdims=True)
            shares = exp(logs - shift)
            total = shares.sum(1, keepdims=True)
            out = (take(out, table) * (shares / total)).sum(1)
            logs = (shift + log(total)).reshape((self.parts, *logs.shape[2:]))
        return self._joined(out), self._joined(logs)

    def summed_queries(self, x: Array) -> Array:
        """The sum over all pairs with a query, (pairs, blocks, ..., size, d), as (..., T, d)."""
        if self.causal:
            x = take(x, self._table([a for a, _ in self.pairs], self.parts)).sum(1)
        return self._joined(x)

    def summed_keys(self, x: Array) -> Array:
        """The sum over all pairs with a key, (pairs, ..., width, d), as (..., S, d)."""
        if self.causal:
            x = take(x, self._table([b for _, b in self.pairs], self.key_parts)).sum(1)
        lead = x.ndim - 3
        x = x.transpose(*range(1, lead + 1), 0, lead + 1, lead + 2)
        x = x.reshape((*x.shape[:lead], self.key_parts * self.width, x.shape[-1]))
        return _padded(x[..., : self.seen, :], -2, self.keys_given)

    def _joined(self, x: Array) -> Array:
        """(parts, blocks, ..., size, d) as (..., T, d)."""
        lead = x.ndim - 4
        x = x.transpose(*range(2, lead + 2), 0, 1, lead + 2, lead + 3)
        x = x.reshape((*x.shape[:lead], self.parts * self.blocks * self.size, x.shape[-1]))
        return x[..., : self.length, :]

    @staticmethod
    def _table(parts: list[int], count: int) -> Any:
        """For each part the pairs that it is in, and then -1, of which nothing is taken."""
        found: list[list[int]] = [[] for _ in range(count)]
        for pair, part in enumerate(parts):
            found[part].append(pair)
        most = max(map(len, found))
        return np.array([[*pairs, *[-1] * (most - len(pairs))] for pairs in found])


def _padded(x: Array, axis: int, size: int) -> Array:
    """With zeros after the last element of an axis, so that there are ``size``."""
    missing = size - int(x.shape[axis])
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return pad(x, widths) if missing else x


def _checked_mask(mask: ArrayLike, scores: Shape) -> Array:
    """A boolean mask with as many axes as the scores."""
    chosen = as_array(mask)
    if is_float(chosen.dtype):
        raise ConfigError("attention in blocks takes boolean masks; add a mask of floats in the plain form, block=None")
    check_mask(chosen, scores)
    return chosen.reshape((1,) * (len(scores) - chosen.ndim) + chosen.shape)


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
