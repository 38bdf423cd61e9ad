"""Where in a sequence a position is: encodings that are added to embeddings, and one that turns queries and keys."""

from __future__ import annotations

import functools
import math
from typing import Any

from chainrule.core.dtypes import FLOAT32, WIDE_FLOATS
from chainrule.core.errors import ShapeError
from chainrule.nn.cells import check_sizes
from chainrule.nn.initialisers import Initialiser, normal
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features
from chainrule.ops.arrays import arange, concatenate, stack, take
from chainrule.ops.math import cos, exp, sin
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

_BASE = 10000.0
_SMALL = functools.partial(normal, std=0.02)


class LearnedPositions(Module):
    """``x + weight[:T]`` for x of shape (N, T, C): an embedding of each position, up to ``length`` of them.

    ``layer(x, first)`` begins at the position ``first``, a number or an integer array without axes, as do the other positions.
    ``weight`` starts normal with standard deviation 0.02. Gehring et al., ICML 2017; Devlin et al. 2019.
    """

    def __init__(
        self,
        length: int,
        features: int,
        *,
        init: Initialiser = _SMALL,
        key: Any = None,
    ) -> None:
        check_sizes("LearnedPositions", length=length, features=features)
        self.weight = init((int(length), int(features)), key=key)

    def forward(self, x: ArrayLike, first: Any = 0) -> Any:
        return _with_learned(x, self.weight, first)


class SinusoidalPositions(Module):
    """``x + p`` for x of shape (N, T, C): ``p[t, 2k] = sin(t / 10000^(2k/C))`` and ``p[t, 2k+1]`` its cosine. Vaswani et al. 2017.

    ``layer(x, first)`` begins at t = ``first``.
    """

    def forward(self, x: ArrayLike, first: Any = 0) -> Any:
        return _with_sinusoids(x, first)


@operation
def rotate(x: ArrayLike, base: float = _BASE, first: Any = 0) -> Any:
    """Rotary positions: each pair of features (k, k + d/2) of x (..., T, d) turned by the angle ``t / base^(2k/d)`` at position t.

    The first of the T positions is t = ``first``. The product of a query and a key turned so depends on their distance only. Su
    et al. 2021, with the pairs of GPT-NeoX and Llama.
    """
    array = as_array(x)
    half = int(array.shape[-1]) // 2
    if array.ndim < 2 or int(array.shape[-1]) != 2 * half:
        raise ShapeError(f"rotary positions turn pairs of features, but the input has shape {show_shape(array.shape)}")
    angles = _angles(array, half, base, first)
    low, high = array[..., :half], array[..., half:]
    return concatenate([low * cos(angles) - high * sin(angles), high * cos(angles) + low * sin(angles)], -1)


@operation
def _with_learned(x: ArrayLike, weight: ArrayLike, first: Any) -> Any:
    array, table = as_array(x), as_array(weight)
    check_features(array, int(table.shape[1]))
    steps, start = _steps(array), first if isinstance(first, int) else 0
    if start + steps > int(table.shape[0]):
        raise ShapeError(
            f"a sequence of {start + steps} positions is longer than the {table.shape[0]} that have been learned"
        )
    return array + (table[start : start + steps] if isinstance(first, int) else take(table, arange(steps) + first))


@operation
def _with_sinusoids(x: ArrayLike, first: Any) -> Any:
    array = as_array(x)
    features = int(array.shape[-1])
    angles = _angles(array, -(-features // 2), _BASE, first, features)
    pairs = stack([sin(angles), cos(angles)], -1)
    return array + pairs.reshape((_steps(array), -1))[:, :features]


def _angles(x: Array, pairs: int, base: float, first: Any, features: int | None = None) -> Array:
    """(T, pairs): the position times a frequency that falls from 1 to 1/base."""
    dtype = x.value.dtype if x.value.dtype in WIDE_FLOATS else FLOAT32
    places = (arange(_steps(x)) + first).astype(dtype)[:, None]
    turns: Array = places * exp(arange(pairs, dtype) * (-2 * math.log(base) / (features or 2 * pairs)))
    return turns


def _steps(x: Array) -> int:
    if x.ndim < 2 or not isinstance(x.shape[-2], int):
        raise ShapeError(f"positions need sequences of shape (..., T, C) with a fixed T, not {show_shape(x.shape)}")
    return x.shape[-2]
