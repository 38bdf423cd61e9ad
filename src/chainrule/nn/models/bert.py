"""Transformer encoders of the shape of BERT, and classifiers on them."""

from __future__ import annotations

import functools
from typing import Any

from chainrule.nn.dropout import Dropout
from chainrule.nn.embedding import Embedding
from chainrule.nn.initialisers import Initialiser, normal
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.normalisation import LayerNorm
from chainrule.nn.positions import LearnedPositions
from chainrule.nn.transformer import TransformerEncoder
from chainrule.ops.math import tanh
from chainrule.trace.array import ArrayLike, as_array, operation

_SMALL = functools.partial(normal, std=0.02)


class BERT(Module):
    """A vector for every token and one for the sequence. Devlin et al., NAACL 2019.

    The sum of token, position and segment embeddings, normalised, passes through ``num_layers`` layers with the norm last and GELU.
    ``model(tokens, segments=None, *, lengths=None, mask=None)`` takes integers (N, T) and returns ``(hidden, pooled)``: (N, T, d_model)
    and ``tanh(hidden[:, 0] W + b)`` of shape (N, d_model). ``lengths`` (N,) or ``mask`` (N, T) says which tokens count.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        d_model: int,
        nhead: int,
        num_layers: int,
        dropout: float = 0.1,
        *,
        dim_feedforward: int | None = None,
        segments: int = 2,
        init: Initialiser = _SMALL,
        **settings: Any,
    ) -> None:
        self.embedding = Embedding(vocabulary, d_model, init=init)
        self.positions = LearnedPositions(length, d_model, init=init)
        self.segments = Embedding(segments, d_model, init=init)
        self.norm = LayerNorm(d_model, 1e-12)
        self.dropout = Dropout(dropout)
        self.encoder = TransformerEncoder(
            d_model,
            nhead,
            num_layers,
            dim_feedforward or 4 * d_model,
            dropout,
            "gelu",
            eps=1e-12,
            init=init,
            **settings,
        )
        self.pooler = Linear(d_model, d_model, init=init)

    def forward(self, tokens: ArrayLike, segments: ArrayLike | None = None, **masks: Any) -> Any:
        embedded = self.positions(self.embedding(tokens)) + self.segments(_segments(tokens, segments))
        hidden = self.encoder(self.dropout(self.norm(embedded)), **masks)
        return hidden, tanh(self.pooler(hidden[:, 0]))


class TransformerClassifier(Module):
    """Logits (N, classes) for sequences of tokens (N, T): a :class:`BERT`, dropout and a linear map of the sequence's vector."""

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        length: int = 512,
        d_model: int = 128,
        nhead: int = 4,
        num_layers: int = 2,
        dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        self.encoder = BERT(vocabulary, length, d_model, nhead, num_layers, dropout, **settings)
        self.dropout = Dropout(dropout)
        self.head = Linear(d_model, classes)

    def forward(self, tokens: ArrayLike, segments: ArrayLike | None = None, **masks: Any) -> Any:
        return self.head(self.dropout(self.encoder(tokens, segments, **masks)[1]))


def bert_base(**settings: Any) -> BERT:
    """The uncased base model: 109,482,240 parameters."""
    return BERT(30522, 512, 768, 12, 12, **settings)


@operation
def _segments(tokens: ArrayLike, segments: ArrayLike | None) -> Any:
    return 0 * as_array(tokens) if segments is None else as_array(segments)
