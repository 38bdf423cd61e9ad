"""Multi-head attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.cells import check_sizes
from chainrule.nn.decoding import DecodingCache, Pair
from chainrule.nn.dropout import Dropout
from chainrule.nn.initialisers import Initialiser, glorot_uniform, normal
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.positions import rotate
from chainrule.nn.shapes import check_features, check_lengths
from chainrule.ops import random
from chainrule.ops.arrays import arange, broadcast_to, concatenate
from chainrule.ops.attention import scaled_dot_product_attention, takes_blocks
from chainrule.ops.attention_weights import attention_weights
from chainrule.ops.math import matmul
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.scope import is_training
from chainrule.trace.values import show_shape


class MultiheadAttention(Module):
    """Attention in ``num_heads`` parts of the features side by side, between linear maps. Vaswani et al., NeurIPS 2017.

    ``layer(query, key=None, value=None)`` takes queries (N, T, embed_dim) and keys and values (N, S, embed_dim); without a key it is
    self-attention, and the value is the key unless given. Head h attends with its slice of ``x W_q``, ``x W_k`` and ``x W_v``, and
    the heads' results, side by side, pass through ``out_proj``. ``in_weight`` (embed_dim, 3 · embed_dim) holds W_q, W_k and W_v: the
    transpose of PyTorch's ``in_proj_weight``. Keys of ``kdim`` and values of ``vdim`` features have matrices of their own, and then
    all three have: ``q_weight``, ``k_weight`` and ``v_weight``.

    ``lengths`` (N,) or ``mask`` (N, S) says which keys count. ``attention_mask``, of shape (T, S), (N, T, S) or (N, heads, T, S), is
    true where a query may attend to a key, or floats that are added to the scores; PyTorch's boolean masks mean the opposite.
    ``causal=True`` lets position i see positions 0 to i. ``dropout`` acts on the weights. ``rotary=True`` turns queries and keys by
    their positions (:func:`chainrule.nn.rotate`). ``block`` is how many queries' weights are held at a time: from 16 queries
    and keys on few enough that memory is linear in T; see :func:`chainrule.ops.scaled_dot_product_attention`. With
    ``need_weights=True`` all are held, and a call returns ``(output, weights)``, those before dropout of shape (N, heads, T, S).
    ``add_bias_kv`` appends a learned key and value, ``bias_k`` and ``bias_v`` (embed_dim), to those of every sequence, and
    ``add_zero_attn`` then a key and value of zeros: every query may attend to them, whatever the masks say, and S grows by each.
    With a ``cache`` (:class:`chainrule.nn.DecodingCache`) causal self-attention goes on from the positions before x.
    Weights start from ``init``, each of the three matrices of ``in_weight`` by itself, and those of ``out_proj`` from
    ``residual_init`` where it is given.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        causal: bool = False,
        rotary: bool = False,
        block: int | str | None = "auto",
        init: Initialiser = glorot_uniform,
        residual_init: Initialiser | None = None,
        key: Any = None,
    ) -> None:
        of_keys, of_values = (embed_dim if size is None else size for size in (kdim, vdim))
        check_sizes("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads, kdim=of_keys, vdim=of_values)
        if embed_dim % num_heads:
            raise ConfigError(
                f"MultiheadAttention shares embed_dim among its heads, but {num_heads} do not divide {embed_dim}"
            )
        if rotary and embed_dim // num_heads % 2:
            raise ConfigError(f"rotary attention turns pairs of features, but each head has {embed_dim // num_heads}")
        keys = [None] * 4 if key is None else list(np.asarray(random.split(key, 4)))
        rows = (int(embed_dim), int(of_keys), int(of_values))
        matrices = [init((size, int(embed_dim)), key=k) for size, k in zip(rows, keys[:3], strict=True)]
        one = len(set(rows)) == 1
        self.in_weight = np.concatenate(matrices, axis=1) if one else None
        own: list[Any] = [None] * 3 if one else matrices
        self.q_weight, self.k_weight, self.v_weight = own
        self.in_bias = np.zeros(3 * embed_dim, np.float32) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, init=residual_init or init, key=keys[3])
        more: list[Any] = _of_every_sequence(embed_dim, key) if add_bias_kv else [None, None]
        self.bias_k, self.bias_v = more
        self.add_zero_attn = bool(add_zero_attn)
        self.dropout = Dropout(dropout)
        self.num_heads = int(num_heads)
        self.causal = bool(causal)
        self.rotary = bool(rotary)
        self.block = block

    @property
    def embed_dim(self) -> int:
        return self.out_proj.in_features

    @property
    def features(self) -> tuple[int, int, int]:
        """The numbers of features of the sequences of queries, keys and values."""
        if self.in_weight is not None:
            return (self.embed_dim,) * 3
        return self.embed_dim, int(self.k_weight.shape[0]), int(self.v_weight.shape[0])

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
        cache: DecodingCache | None = None,
    ) -> Any:
        masks = (lengths, mask, attention_mask)
        of_memory = key is not None and key is not query
        kept = None if cache is None else cache.take(of_memory)
        result, weights, kept = _attend(self, query, key, value, masks, need_weights, cache, kept)
        if cache is not None:
            cache.put(kept, of_memory)
        output = self.out_proj(result)
        return (output, weights) if need_weights else output


@operation
def _attend(
    layer: MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    masks: tuple[Any, ...],
    need: bool,
    cache: DecodingCache | None,
    kept: Pair | None,
) -> Any:
    sequences = _sequences(layer, query, key, value)
    past = None
    if cache is None:
        q, k, v = _projected(layer, sequences)
        q, k = _turned(layer, 0, q, k)
    elif sequences[1] is None:
        _check_cached(layer, sequences, masks)
        q, k, v = _projected(layer, sequences)
        q, k = _turned(layer, cache.place, q, k)
        kept, k, v, past = cache.extended(kept, k, v)
    else:
        (q,) = _turned(layer, cache.place, *_mapped(layer, sequences[0], 0, 1))
        if kept is None:
            _, k, v = _projected(layer, sequences)
            kept = _turned(layer, 0, k)[0], v
        k, v = as_array(kept[0]), as_array(kept[1])
    causal, block = (False, None) if past is not None else (layer.causal, layer.block)
    allowed = past if past is not None else _mask(masks, (q.shape[0], layer.num_heads, q.shape[-2], k.shape[-2]))
    rate = layer.dropout.rate if is_training() else 0.0
    if layer.bias_k is not None or layer.add_zero_attn:
        k, v, allowed = _with_more_keys(layer, q, k, v, allowed, causal)
        causal = False
    weights = None
    if need or (rate and not takes_blocks(q, k, allowed, block)):
        weights = attention_weights(q, k, allowed, causal=causal)
        mixed = matmul(layer.dropout(weights), v)
    else:
        mixed = scaled_dot_product_attention(q, k, v, allowed, causal=causal, dropout=rate, block=block)
    joined = mixed.transpose(0, 2, 1, 3)
    return joined.reshape((*joined.shape[:2], layer.embed_dim)), weights if need else None, kept


def _sequences(layer: MultiheadAttention, query: Any, key: Any, value: Any) -> list[Any]:
    """The sequences of queries, keys and values; None for keys that are the queries', and for values that are the keys'."""
    value = None if value is key or (value is query and key is None) else value
    key = None if key is query else key
    given = [None if x is None else as_array(x) for x in (query, key, value)]
    of_queries, of_keys, of_values = layer.features
    for x, features in zip(given, (of_queries, of_keys, of_values), strict=True):
        if x is not None and x.ndim != 3:
            raise ShapeError(f"attention takes sequences of shape (N, T, C), not {show_shape(x.shape)}")
        if x is not None:
            check_features(x, features)
    return given


def _projected(layer: MultiheadAttention, sequences: list[Any]) -> list[Array]:
    """Queries, keys and values after their linear maps: one product for all that are of the same sequence."""
    q, k, v = sequences
    # Sequences that share a place in the weights, in order: (sequence, first part, parts).
    if v is None:
        groups = [(q, 0, 3)] if k is None else [(q, 0, 1), (k, 1, 2)]
    else:
        groups = [(q, 0, 2), (v, 2, 1)] if k is None else [(q, 0, 1), (k, 1, 1), (v, 2, 1)]
    return [part for group in groups for part in _mapped(layer, *group)]


def _mapped(layer: MultiheadAttention, x: Array, first: int, parts: int) -> list[Array]:
    """``parts`` of queries, keys and values from the ``first`` on, of one sequence, as (N, heads, T, embed_dim / heads)."""
    size = layer.embed_dim
    columns = slice(first * size, (first + parts) * size)
    bias = None if layer.in_bias is None else as_array(layer.in_bias)[columns]
    if layer.in_weight is None:
        matrices = (layer.q_weight, layer.k_weight, layer.v_weight)[first : first + parts]
        products = [matmul(x, matrix) for matrix in matrices]
        if bias is not None:
            products = [product + bias[n * size : (n + 1) * size] for n, product in enumerate(products)]
    else:
        product = matmul(x, as_array(layer.in_weight)[:, columns])
        product = product if bias is None else product + bias
        products = [product[..., n * size : (n + 1) * size] for n in range(parts)]
    return [_heads(layer, product) for product in products]


def _of_every_sequence(embed_dim: int, key: Any) -> list[Any]:
    """A key and a value, normal with variance 1/embed_dim: as long as a projected vector of Glorot's weights, as in PyTorch."""
    keys = [None, None] if key is None else list(np.asarray(random.split(random.fold_in(key, 0))))
    return [normal((int(embed_dim),), std=embed_dim**-0.5, key=k) for k in keys]


def _with_more_keys(
    layer: MultiheadAttention, q: Array, k: Array, v: Array, allowed: Array | None, causal: bool
) -> tuple[Array, Array, Array | None]:
    """Keys and values with those that every query may attend to behind them, and the mask, the causal one included, of all."""
    if causal:
        past = arange(k.shape[-2]) <= arange(q.shape[-2])[:, None]
        allowed = past if allowed is None else _both(past, allowed)
    more = [(layer.bias_k, layer.bias_v)] if layer.bias_k is not None else []
    more += [(np.zeros(layer.embed_dim),) * 2] if layer.add_zero_attn else []
    for pair in more:
        k, v = (_with_row(layer, x, row) for x, row in zip((k, v), pair, strict=True))
    if allowed is None:
        return k, v, None
    if not is_float(allowed.dtype):
        allowed = allowed if allowed.dtype == np.bool_ else allowed != 0
    rest = [(0, 0)] * (allowed.ndim - 1)
    before = broadcast_to(allowed, (*allowed.shape[:-1], k.shape[-2] - len(more)))
    # Nothing is added to the scores of the new keys.
    return k, v, pad(before, [*rest, (0, len(more))], 0 if is_float(allowed.dtype) else True)


def _with_row(layer: MultiheadAttention, x: Array, row: ArrayLike) -> Array:
    """Keys or values (N, heads, S, d) with one more, the same in every sequence."""
    heads = as_array(row).astype(x.dtype).reshape((layer.num_heads, 1, x.shape[-1]))
    joined: Array = concatenate([x, broadcast_to(heads, (*x.shape[:2], 1, x.shape[-1]))], 2)
    return joined


def _turned(layer: MultiheadAttention, first: Any, *arrays: Array) -> tuple[Array, ...]:
    return tuple(rotate(x, first=first) for x in arrays) if layer.rotary else arrays


def _check_cached(layer: MultiheadAttention, sequences: list[Any], masks: tuple[Any, ...]) -> None:
    if not layer.causal or sequences[2] is not None or any(mask is not None for mask in masks):
        raise ConfigError(
            "a cache of keys and values is for causal self-attention without masks, in which all sequences are equally long"
        )


def _heads(layer: MultiheadAttention, x: Array) -> Array:
    """(N, T, C) as (N, heads, T, C / heads)."""
    parts = x.reshape((*x.shape[:2], layer.num_heads, layer.embed_dim // layer.num_heads))
    return parts.transpose(0, 2, 1, 3)


def _mask(masks: tuple[Any, ...], scores: tuple[Any, ...]) -> Array | None:
    """All masks as one that broadcasts to the scores' shape (N, heads, T, S)."""
    lengths, mask, pairs = masks
    keys: Array | None = None
    if lengths is not None:
        check_lengths(lengths, scores[3])
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
    return allowed if keys is None else _both(keys, allowed)


def _both(keys: Array, allowed: Array) -> Array:
    """A boolean mask and another one, which may be of floats that are added to the scores."""
    if is_float(allowed.dtype):
        # Scores of keys that do not count vanish: the lowest number is added to them.
        low = (~keys).astype(allowed.dtype) * (float(np.finfo(allowed.dtype).min) / 4)
        return allowed + low
    both: Array = keys & (allowed if allowed.dtype == np.bool_ else allowed != 0)
    return both
