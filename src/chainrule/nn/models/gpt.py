"""Causal Transformer language models of the shape of GPT-2."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.core.errors import ShapeError
from chainrule.nn.decoding import DecodingCache
from chainrule.nn.dropout import Dropout
from chainrule.nn.embedding import Embedding
from chainrule.nn.initialisers import Initialiser, normal
from chainrule.nn.models.generation import check_prompt, check_steps, choose
from chainrule.nn.module import Module
from chainrule.nn.positions import LearnedPositions
from chainrule.nn.transformer import TransformerEncoder
from chainrule.ops import random
from chainrule.ops.arrays import concatenate
from chainrule.ops.loops import scan
from chainrule.ops.math import matmul
from chainrule.trace.array import ArrayLike, as_array, operation

_SMALL = functools.partial(normal, std=0.02)


class GPT(Module):
    """The next token from those before it. Radford et al., 2019 (GPT-2).

    Token and position embeddings, ``num_layers`` causal layers with the norm first and GELU's tanh form, a last norm, and logits by
    the token embedding, whose weight is shared. ``model(tokens)`` takes integers (N, T), T at most ``length``, and returns logits
    (N, T, vocabulary); with a ``cache`` (:class:`chainrule.nn.DecodingCache`) T further tokens, and the logits (N, 1, vocabulary) of
    the last alone. Weights start normal with standard deviation 0.02, those that end a residual part divided by √(2·num_layers).
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

    def forward(self, tokens: ArrayLike, cache: DecodingCache | None = None) -> Any:
        first = 0 if cache is None else cache.place
        hidden = self.decoder(self.dropout(self.positions(self.embedding(tokens), first)), cache=cache)
        return _by_embedding(hidden if cache is None else hidden[:, -1:], self.embedding.weight)

    def generate(
        self,
        prompt: ArrayLike,
        steps: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        key: ArrayLike | None = None,
    ) -> Any:
        """``steps`` more tokens after a prompt (N, P), of shape (N, steps): the likeliest, or drawn at a temperature above 0.

        ``top_k`` draws among so many of the likeliest. The network runs over the prompt, and then over one position for each
        token: keys and values of the others are kept. Raises :class:`ShapeError` beyond ``length`` positions.
        """
        return _generate(self, prompt, steps, functools.partial(choose, temperature=temperature, top_k=top_k), key)


def gpt2_small(**settings: Any) -> GPT:
    """GPT-2 small: 124,439,808 parameters."""
    return GPT(50257, 1024, 768, 12, 12, **settings)


@operation
def _by_embedding(hidden: ArrayLike, weight: ArrayLike) -> Any:
    return matmul(hidden, as_array(weight).T)


@operation
def _generate(model: GPT, prompt: ArrayLike, steps: int, draw: Callable[..., Any], key: ArrayLike | None) -> Any:
    given, begun = check_prompt(prompt, model.embedding.weight.shape[0])
    length = begun + check_steps(steps)
    if length > model.length:
        raise ShapeError(
            f"a prompt of {begun} tokens and {steps} more are longer than the {model.length} positions of the model"
        )
    keys = None if key is None else as_array(random.split(key, steps))
    cache = DecodingCache(length)
    first = draw(model(given, cache)[:, -1], key=None if keys is None else keys[0])

    def step(carry: Any, row: Any) -> Any:
        (token, past), (place, own) = carry, row
        cache = DecodingCache(length, place, past)
        following = draw(model(token[:, None], cache)[:, -1], key=own)
        return (following, cache.past), following

    places = np.arange(begun, length - 1)
    _, rest = scan(step, (first, cache.past), (places, None if keys is None else keys[1:]))
    return concatenate([first[:, None], rest.transpose(1, 0)], 1)
