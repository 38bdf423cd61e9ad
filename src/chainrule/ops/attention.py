"""Scaled dot-product attention: as it is defined, and in blocks of queries that never hold all the weights."""

from __future__ import annotations

import math
from typing import Any

from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError
from chainrule.ops import random
from chainrule.ops.attention_blocks import attention_in_blocks, block_size
from chainrule.ops.attention_weights import attention_weights, checked, dropped
from chainrule.ops.math import matmul
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.keys import next_key

# With fewer queries or keys than this, "auto" holds all the weights: they are fewer than the numbers of queries or keys themselves.
SHORTEST = 16


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
    boolean. Causal attention is computed in pairs of a part of the queries and a part of the keys, without those that lie in the
    future. Rabe & Staats 2021; Dao et al., NeurIPS 2022. ``block=None`` holds all T · S weights, and so does ``"auto"`` where T or S
    is below 16 or symbolic, or where the mask is of floats; else it takes blocks of 32 to 128 queries. Each form drops other weights.

    Raises:
        ShapeError: where the shapes do not fit.
        ConfigError: for a block or a rate of dropout that makes no sense, and a mask of floats in blocks.
    """
    q, k, v = checked(query, key, value)
    factor = 1 / math.sqrt(int(q.shape[-1])) if scale is None else float(scale)
    if not 0 <= dropout < 1:
        raise ConfigError(f"the rate of dropout is a probability from 0 to below 1, not {dropout!r}")
    drawn = None
    if dropout:
        drawn = next_key() if dropout_key is None else as_array(dropout_key)
    size = _block_size(block, q, k, mask, causal)
    if size is not None:
        return attention_in_blocks(q, k, v, mask, causal, factor, size, dropout, drawn)
    weights = attention_weights(q, k, mask, causal=causal, scale=factor)
    if drawn is not None:
        weights = dropped(weights, random.bernoulli(1 - dropout, weights.shape, key=drawn), dropout)
    return matmul(weights, v)


def takes_blocks(query: Array, key: Array, mask: ArrayLike | None, block: int | str | None) -> bool:
    """Whether attention of these queries and keys is computed in blocks."""
    return _block_size(block, query, key, mask, False) is not None


def _block_size(block: int | str | None, q: Array, k: Array, mask: ArrayLike | None, causal: bool) -> int | None:
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
    return block_size(queries, keys, causal)
