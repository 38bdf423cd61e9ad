"""Causal Transformer language models of the shape of GPT-2."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from chainrule.core.errors import ShapeError
from chainrule.nn.dropout import Dropout
from chainrule.nn.embedding import Embedding
from chainrule.nn.initialisers import Initialiser, normal
from chainrule.nn.models.generation import choose
from chainrule.nn.module import Module
from chainrule.nn.positions import LearnedPositions
from chainrule.nn.transformer import TransformerEncoder
from chainrule.ops import random
from chainrule.ops.arrays import arange, take_along
from chainrule.ops.loops import scan
from chainrule.ops.math import matmul, where
from chainrule.ops.padding import pad
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

_SMALL = functools.partial(normal, std=0.02)


class GPT(Module):
    """The next token from those before it. Radford et al., 2019 (GPT-2).

    Token and position embeddings, ``num_layers`` causal layers with the norm first and GELU's tanh form, a last norm, and logits by
    the token embedding, whose weight is shared. ``model(tokens)`` takes integers (N, T), T at most ``length``, and returns logits
    (N, T, vocabulary). Weights start normal with standard deviation 0.02, those that end a residual part divided by √(2·num_layers).
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
        init: Initialiser | None = None,
        **settings: Any,
    ) -> None:
        first = _SMALL if init is None else init
        last = functools.partial(normal, std=0.02 / math.sqrt(2 * num_layers)) if init is None else init
        self.embedding = Embedding(vocabulary, d_model, init=first)
        self.positions = LearnedPositions(length, d_model, init=first)
        self.dropout = Dropout(dropout)
        self.decoder = TransformerEncoder(
            d_model,
            nhead,
            num_layers,
            dim_feedforward or 4 * d_model,
            dropout,
            "gelu_tanh",
            norm_first=True,
            causal=True,
            init=first,
            residual_init=last,
            **settings,
        )

    @property
    def length(self) -> int:
        return int(self.positions.weight.shape[0])

    def forward(self, tokens: ArrayLike) -> Any:
        hidden = self.decoder(self.dropout(self.positions(self.embedding(tokens))))
        return _by_embedding(hidden, self.embedding.weight)

    def generate(self, prompt: ArrayLike, steps: int, *, temperature: float = 0.0, key: ArrayLike | None = None) -> Any:
        """``steps`` more tokens after a prompt (N, P), of shape (N, steps): the likeliest, or drawn at a temperature above 0.

        The whole network runs over all P + steps positions for each token. Raises :class:`ShapeError` beyond ``length``.
        """
        return _generate(self, prompt, steps, temperature, key)


def gpt2_small(**settings: Any) -> GPT:
    """GPT-2 small: 124,439,808 parameters."""
    return GPT(50257, 1024, 768, 12, 12, **settings)


@operation
def _by_embedding(hidden: ArrayLike, weight: ArrayLike) -> Any:
    return matmul(hidden, as_array(weight).T)


@operation
def _generate(model: GPT, prompt: ArrayLike, steps: int, temperature: float, key: ArrayLike | None) -> Any:
    given = as_array(prompt).astype("int64")
    if given.ndim != 2 or not isinstance(given.shape[1], int):
        raise ShapeError(f"a prompt has shape (N, P), not {show_shape(given.shape)}")
    first = given.shape[1]
    if first + steps > model.length:
        raise ShapeError(
            f"a prompt of {first} tokens and {steps} more are longer than the {model.length} positions of the model"
        )
    keys = None if key is None else random.split(key, steps)

    def step(tokens: Any, row: Any) -> Any:
        place, own = row
        logits = model(tokens)
        before = logits.transpose(0, 2, 1)
        last = take_along(before, 0 * before[..., 0].astype("int64") + (place - 1))
        token = choose(last, temperature, own)
        return where(arange(first + steps) == place, token[:, None], tokens), token

    places = np.arange(first, first + steps)
    _, rest = scan(step, pad(given, [(0, 0), (0, steps)]), (places, keys))
    return rest.transpose(1, 0)
