"""Transformer layers and stacks of them. Vaswani et al., NeurIPS 2017."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.nn.attention import MultiheadAttention
from chainrule.nn.cells import check_sizes
from chainrule.nn.decoding import DecodingCache
from chainrule.nn.dropout import Dropout
from chainrule.nn.initialisers import Initialiser, glorot_uniform
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.normalisation import LayerNorm
from chainrule.ops import random
from chainrule.ops.activations import gelu, relu
from chainrule.trace.array import ArrayLike

Activation = Literal["relu", "gelu", "gelu_tanh"] | Callable[[Any], Any]

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, "tanh"),
}


class _Layer(Module):
    """What encoder and decoder layers share: their parts, and how a part joins the residual stream."""

    _attends_to_memory = False

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        *,
        norm_first: bool = False,
        eps: float = 1e-5,
        bias: bool = True,
        causal: bool | None = None,
        init: Initialiser = glorot_uniform,
        residual_init: Initialiser | None = None,
        key: Any = None,
        **attention: Any,
    ) -> None:
        name, memory = type(self).__name__, self._attends_to_memory
        if not callable(activation) and activation not in _ACTIVATIONS:
            raise ConfigError(f"the activation of {name} is one of {', '.join(_ACTIVATIONS)}, not {activation!r}")
        check_sizes(name, dim_feedforward=dim_feedforward)
        keys = _split(key, 4 if memory else 3)
        last = residual_init or init
        shared: dict[str, Any] = {"init": init, "residual_init": last}
        own = {**shared, **attention, "causal": memory if causal is None else causal}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, key=keys[0], **own)
        if memory:
            self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, key=keys[1], **shared)
        self.linear1 = Linear(d_model, dim_feedforward, bias, init=init, key=keys[-2])
        self.linear2 = Linear(dim_feedforward, d_model, bias, init=last, key=keys[-1])
        self.norm1 = LayerNorm(d_model, eps, bias=bias)
        self.norm2 = LayerNorm(d_model, eps, bias=bias)
        if memory:
            self.norm3 = LayerNorm(d_model, eps, bias=bias)
        self.dropout = Dropout(dropout)
        self.activation = activation
        self.norm_first = bool(norm_first)

    def _feed_forward(self, x: Any) -> Any:
        activation = self.activation if callable(self.activation) else _ACTIVATIONS[self.activation]
        return self.linear2(self.dropout(activation(self.linear1(x))))

    def _residual(self, x: Any, norm: LayerNorm, part: Callable[[Any], Any]) -> Any:
        """``x + part(norm(x))``, or ``norm(x + part(x))`` where the norm comes last."""
        if self.norm_first:
            return x + self.dropout(part(norm(x)))
        return norm(x + self.dropout(part(x)))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a two-layer network at each position, each added to its input: x of shape (N, T, d_model).

    ``norm_first=False`` normalises after each addition, as in 2017; ``norm_first=True`` before each part, which trains deep stacks
    without a warm-up (Xiong et al., ICML 2020) and leaves the final norm to the stack. ``activation`` is "relu", "gelu",
    "gelu_tanh", which is GPT-2's approximation, or any function of an array. ``causal`` and other settings go to
    :class:`MultiheadAttention`. Names and meanings of the weights are PyTorch's, matrices transposed; they start from ``init``,
    the last of each part from ``residual_init`` where given.
    """

    def forward(self, x: ArrayLike, **masks: Any) -> Any:
        x = self._residual(x, self.norm1, lambda y: self.self_attn(y, **masks))
        return self._residual(x, self.norm2, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to an encoder's output, and a two-layer network, each added to its input.

    ``layer(x, memory)`` takes x (N, T, d_model) and memory (N, S, d_model); ``memory_lengths`` or ``memory_mask`` says which positions
    of the memory count, ``memory_attention_mask`` (T, S) or (N, T, S) which of them each position of x sees; other masks are those of
    the self-attention, which is causal unless ``causal=False``. Settings as in :class:`TransformerEncoderLayer`.
    """

    _attends_to_memory = True

    def forward(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        *,
        memory_lengths: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        memory_attention_mask: ArrayLike | None = None,
        cache: DecodingCache | None = None,
        **masks: Any,
    ) -> Any:
        counted: dict[str, Any] = {"lengths": memory_lengths, "mask": memory_mask, "cache": cache}
        counted["attention_mask"] = memory_attention_mask
        x = self._residual(x, self.norm1, lambda y: self.self_attn(y, cache=cache, **masks))
        x = self._residual(x, self.norm2, lambda y: self.multihead_attn(y, memory, **counted))
        return self._residual(x, self.norm3, self._feed_forward)


class _Stack(Module):
    """Layers of one kind one after another, with a LayerNorm at the end where ``final_norm`` says so."""

    _kind: type[Module]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        num_layers: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        *,
        norm_first: bool = False,
        final_norm: bool | None = None,
        eps: float = 1e-5,
        key: Any = None,
        **settings: Any,
    ) -> None:
        check_sizes(type(self).__name__, num_layers=num_layers)
        make: Callable[..., Module] = self._kind
        shared = {**settings, "norm_first": norm_first, "eps": eps}
        self.layers = tuple(
            make(d_model, nhead, dim_feedforward, dropout, activation, key=each, **shared)
            for each in _split(key, num_layers)
        )
        ends = norm_first if final_norm is None else final_norm
        self.norm = LayerNorm(d_model, eps, bias=settings.get("bias", True)) if ends else None

    def _through(self, x: Any, *others: Any, **masks: Any) -> Any:
        for layer in self.layers:
            x = layer(x, *others, **masks)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """``num_layers`` encoder layers one after another, with a LayerNorm at the end where ``final_norm`` says so.

    By default it does if ``norm_first``. All arguments but the input are those of :class:`TransformerEncoderLayer`.
    """

    _kind = TransformerEncoderLayer

    def forward(self, x: ArrayLike, **masks: Any) -> Any:
        return self._through(x, **masks)


class TransformerDecoder(_Stack):
    """``num_layers`` decoder layers one after another; arguments as in :class:`TransformerEncoder`."""

    _kind = TransformerDecoderLayer

    def forward(self, x: ArrayLike, memory: ArrayLike, **masks: Any) -> Any:
        return self._through(x, memory, **masks)


class Transformer(Module):
    """An encoder of one sequence and a decoder of another that attends to it, each with a LayerNorm at its end.

    ``model(source, target)`` takes embedded sequences (N, S, d_model) and (N, T, d_model) and returns the decoder's (N, T, d_model).
    ``source_lengths``, ``source_mask`` and ``source_attention_mask`` are masks of the encoder, those of ``target_`` of the decoder's
    self-attention, those of ``memory_`` of its attention to the source, where ``memory_lengths`` and ``memory_mask`` are the source's
    unless given. Target positions see those before them and themselves; with ``causal=False`` all. ``model.encoder(source)`` and
    ``model.decoder(target, memory)`` are the halves. Other settings are those of :class:`TransformerEncoderLayer`.
    :class:`chainrule.nn.models.Seq2SeqTransformer` is a whole model, with embeddings and search.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        *,
        norm_first: bool = False,
        eps: float = 1e-5,
        bias: bool = True,
        causal: bool = True,
        key: Any = None,
        **settings: Any,
    ) -> None:
        check_sizes("Transformer", num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        keys = _split(key, 2)
        shared: dict[str, Any] = {**settings, "norm_first": norm_first, "eps": eps, "bias": bias, "final_norm": True}
        sizes = dim_feedforward, dropout, activation
        self.encoder = TransformerEncoder(d_model, nhead, num_encoder_layers, *sizes, key=keys[0], **shared)
        self.decoder = TransformerDecoder(
            d_model, nhead, num_decoder_layers, *sizes, causal=causal, key=keys[1], **shared
        )

    def forward(
        self,
        source: ArrayLike,
        target: ArrayLike,
        *,
        source_lengths: ArrayLike | None = None,
        source_mask: ArrayLike | None = None,
        source_attention_mask: ArrayLike | None = None,
        target_lengths: ArrayLike | None = None,
        target_mask: ArrayLike | None = None,
        target_attention_mask: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        memory_attention_mask: ArrayLike | None = None,
    ) -> Any:
        memory = self.encoder(source, lengths=source_lengths, mask=source_mask, attention_mask=source_attention_mask)
        return self.decoder(
            target,
            memory,
            lengths=target_lengths,
            mask=target_mask,
            attention_mask=target_attention_mask,
            memory_lengths=source_lengths if memory_lengths is None else memory_lengths,
            memory_mask=source_mask if memory_mask is None else memory_mask,
            memory_attention_mask=memory_attention_mask,
        )


def _split(key: Any, count: int) -> list[Any]:
    return [None] * count if key is None else list(np.asarray(random.split(key, count)))
