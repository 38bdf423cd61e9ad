"""Choosing tokens: the likeliest, at random, and the best continuations of a beam."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ops import random
from chainrule.ops.arrays import arange, argmax, stack, take_along
from chainrule.ops.known import refuse_outside
from chainrule.ops.math import log, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


@operation
def choose(
    logits: ArrayLike, temperature: float = 0.0, key: ArrayLike | None = None, *, top_k: int | None = None
) -> Any:
    """One token for logits (..., V): the likeliest at temperature 0, else drawn from ``softmax(logits / temperature)``.

    With ``top_k=k`` only the k likeliest can be drawn, and those as likely as the last of them (Fan, Lewis & Dauphin 2018). A
    draw is the largest of the logits with Gumbel noise added. Gumbel 1954; Maddison, Tarlow & Minka 2014.
    """
    if not temperature >= 0:
        raise ConfigError(f"a temperature is at least 0, not {temperature!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ConfigError(f"top_k is a number of tokens of at least 1, not {top_k!r}")
    array = as_array(logits)
    if temperature:
        if top_k is not None and top_k < int(array.shape[-1]):
            least = largest(array, top_k)[0][..., -1:]
            array = where(array < least, float(-np.inf), array)
        uniform = random.uniform(array.shape, key=key, dtype="float32")
        array = array / temperature - log(-log(uniform + 2.0**-25))
    return argmax(array, -1)


def check_prompt(given: ArrayLike, vocabulary: int) -> tuple[Array, int]:
    """A prompt and the number of its tokens.

    Raises :class:`ShapeError` for one that does not have the shape (N, P), and :class:`DataError` for known tokens that do not exist.
    """
    check_tokens(given, vocabulary, "a prompt")
    prompt = as_array(given)
    if prompt.ndim != 2 or not isinstance(prompt.shape[1], int) or not prompt.shape[1]:
        raise ShapeError(f"a prompt has shape (N, P) with a token at least, not {show_shape(prompt.shape)}")
    return prompt, prompt.shape[1]


def check_tokens(tokens: ArrayLike, vocabulary: int, what: str) -> None:
    """Raises :class:`DataError` for the first known token that is none of the vocabulary."""
    refuse_outside(tokens, 0, vocabulary - 1, f"{what} has tokens from 0 to {vocabulary - 1}")


def check_token(name: str, token: Any, vocabulary: int) -> None:
    """Raises :class:`ConfigError` unless a setting is a token of the vocabulary."""
    if isinstance(token, bool) or not isinstance(token, int | np.integer) or not 0 <= token < vocabulary:
        raise ConfigError(f"{name} is a token, an integer from 0 to {vocabulary - 1}, not {token!r}")


def check_steps(steps: Any) -> int:
    """A number of tokens to generate; raises :class:`ConfigError` for one that is not an integer of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"the number of steps is an integer of at least 1, not {steps!r}")
    return steps


@operation
def largest(scores: ArrayLike, count: int) -> Any:
    """The ``count`` largest of the last axis and their positions, the largest first; equal ones in order."""
    array: Array = as_array(scores)
    places = arange(array.shape[-1])
    found, positions = [], []
    for _ in range(count):
        position = argmax(array, -1)
        found.append(take_along(array, position))
        positions.append(position)
        array = where(places == position[..., None], float(-np.inf), array)
    return stack(found, -1), stack(positions, -1)
