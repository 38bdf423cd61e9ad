"""Multi-head attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.cells import check_sizes
from chainrule.nn.dropout import Dropout
from chainrule.nn.initialisers import Initialiser, glorot_uniform
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.positions import rotate
from chainrule.nn.shapes import check_features
from chainrule.ops import random
from chainrule.ops.arrays import arange
from chainrule.ops.attention import attention_weights, scaled_dot_product_attention
from chainrule.ops.math import matmul
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.scope import is_training
from chainrule.trace.values import show_shape


class MultiheadAttention(Module):
    """Attention in ``num_heads`` parts of the features side by side, between linear maps. Vaswani et al., NeurIPS 2017.

    ``layer(query, key=None, value=None)`` takes queries (N, T, embed_dim) and keys and values (N, S, embed_dim); without a key it is
    self-attention, and the value is the key unless given. Head h attends with its slice of ``x W_q``, ``x W_k`` and ``x W_v``, and
    the heads' results, side by side, pass through ``out_proj``. ``in_weight`` (embed_dim, 3 · embed_dim) holds W_q, W_k and W_v: the
    transpose of PyTorch's ``in_proj_weight``.

    ``lengths`` (N,) or ``mask`` (N, S) says which keys count. ``attention_mask``, of shape (T, S), (N, T, S) or (N, heads, T, S), is
    true where a query may attend to a key, or floats that are added to the scores; PyTorch's boolean masks mean the opposite.
    ``causal=True`` lets position i see positions 0 to i. ``dropout`` acts on the weights. ``rotary=True`` turns queries and keys by
    their positions (:func:`chainrule.nn.rotate`). ``block=b`` holds the weights of b queries at a time where no dropout acts, so
    that memory is linear in T; see :func:`chainrule.ops.scaled_dot_product_attention`. With ``need_weights=True`` a call returns
    ``(output, weights)``, the weights before dropout of shape (N, heads, T, S). Weights start from ``init``, each of the three
    matrices of ``in_weight`` by itself, and those of ``out_proj`` from ``residual_init`` where it is given.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        causal: bool = False,
        rotary: bool = False,
        block: int | None = None,
        init: Initialiser = glorot_uniform,
        residual_init: Initialiser | None = None,
        key: Any = None,
    ) -> None:
        check_sizes("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ConfigError(
                f"MultiheadAttention shares embed_dim among its heads, but {num_heads} do not divide {embed_dim}"
            )
        if rotary and embed_dim // num_heads % 2:
            raise ConfigError(f"rotary attention turns pairs of features, but each head has {embed_dim // num_heads}")
        keys = [None] * 4 if key is None else list(np.asarray(random.split(key, 4)))
        shape = (int(embed_dim), int(embed_dim))
        self.in_weight = np.concatenate([init(shape, key=k) for k in keys[:3]], axis=1)
        self.in_bias = np.zeros(3 * embed_dim, np.float32) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, init=residual_init or init, key=keys[3])
        self.dropout = Dropout(dropout)
        self.num_heads = int(num_heads)
        self.causal = bool(causal)
        self.rotary = bool(rotary)
        self.block = block

    @property
    def embed_dim(self) -> int:
        return int(self.in_weight.shape[0])

    def forward(
        self,
        query: ArrayLike,
        key: ArrayLike | None = None,
        value: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        need_weights: bool = False,
    ) -> Any:
        result, weights = _attend(self, query, key, value, (lengths, mask, attention_mask), need_weights)
        output = self.out_proj(result)
        return (output, weights) if need_weights else output


@operation
def _attend(layer: MultiheadAttention, query: Any, key: Any, value: Any, masks: tuple[Any, ...], need: bool) -> Any:
    q, k, v = (_heads(layer, x) for x in _projected(layer, query, key, value))
    if layer.rotary:
        q, k = rotate(q), rotate(k)
    allowed = _mask(masks, (q.shape[0], layer.num_heads, q.shape[-2], k.shape[-2]))
    drops = is_training() and layer.dropout.rate > 0
    weights = None
    if drops or need:
        weights = attention_weights(q, k, allowed, causal=layer.causal)
        mixed = matmul(layer.dropout(weights), v)
    else:
        mixed = scaled_dot_product_attention(q, k, v, allowed, causal=layer.causal, block=layer.block)
    joined = mixed.transpose(0, 2, 1, 3)
    return joined.reshape((*joined.shape[:2], layer.embed_dim)), weights if need else None


def _projected(layer: MultiheadAttention, query: Any, key: Any, value: Any) -> list[Array]:
    """Queries, keys and values after their linear maps: one product where all three are of the same sequence."""
    size = layer.embed_dim
    value = None if value is key or (value is query and key is None) else value
    key = None if key is query else key
    given = [None if x is None else as_array(x) for x in (query, key, value)]
    for x in given:
        if x is not None and x.ndim != 3:
            raise ShapeError(f"attention takes sequences of shape (N, T, C), not {show_shape(x.shape)}")
        if x is not None:
            check_features(x, size)
    q, k, v = given
    assert q is not None, "there is always a query"
    # Sequences that share a place in the weights, in order: (sequence, first part, parts).
    if v is None:
        groups = [(q, 0, 3)] if k is None else [(q, 0, 1), (k, 1, 2)]
    else:
        groups = [(q, 0, 2), (v, 2, 1)] if k is None else [(q, 0, 1), (k, 1, 1), (v, 2, 1)]
    weight, bias = as_array(layer.in_weight), None if layer.in_bias is None else as_array(layer.in_bias)
    found = []
    for x, first, parts in groups:
        columns = slice(first * size, (first + parts) * size)
        product = matmul(x, weight[:, columns])
        product = product if bias is None else product + bias[columns]
        found += [product[..., n * size : (n + 1) * size] for n in range(parts)]
    return found


def _heads(layer: MultiheadAttention, x: Array) -> Array:
    """(N, T, C) as (N, heads, T, C / heads)."""
    parts = x.reshape((*x.shape[:2], layer.num_heads, layer.embed_dim // layer.num_heads))
    return parts.transpose(0, 2, 1, 3)


def _mask(masks: tuple[Any, ...], scores: tuple[Any, ...]) -> Array | None:
    """All masks as one that broadcasts to the scores' shape (N, heads, T, S)."""
    lengths, mask, pairs = masks
    keys: Array | None = None
    if lengths is not None:
        keys = arange(scores[3]) < as_array(lengths)[:, None]
    if mask is not None:
        chosen = as_array(mask)
        if chosen.shape != (scores[0], scores[3]):
            raise ShapeError(
                f"the mask of keys should have shape {show_shape((scores[0], scores[3]))} (N, S), not {show_shape(chosen.shape)}"
            )
        chosen = chosen if chosen.dtype == np.bool_ else chosen != 0
        keys = chosen if keys is None else keys & chosen
    if keys is not None:
        keys = keys[:, None, None, :]
    if pairs is None:
        return keys
    allowed: Array = as_array(pairs)
    if allowed.ndim not in (2, 3, 4):
        raise ShapeError(
            f"an attention mask has shape (T, S), (N, T, S) or (N, heads, T, S), not {show_shape(allowed.shape)}"
        )
    if allowed.ndim == 3:
        allowed = allowed[:, None]
    if keys is None:
        return allowed
    if allowed.dtype.kind == "f":
        # Scores of keys that do not count vanish: the lowest number is added to them.
        low = (~keys).astype(allowed.dtype) * (float(np.finfo(allowed.dtype).min) / 4)
        return allowed + low
    both: Array = keys & (allowed if allowed.dtype == np.bool_ else allowed != 0)
    return both
