"""Random numbers from counters: the same bits on every engine and for every number of threads.

Every function takes an optional ``key=``; without one the key comes from the sequence that :func:`chainrule.seed` starts, or,
inside a training step, from the step's own key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.dtypes import FLOAT32, FLOAT64, UINT32, WIDE_FLOATS, dtype_name
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.ops.math import cos, log, minimum, sqrt
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.draws import drawn
from chainrule.trace.keys import next_key
from chainrule.trace.seeds import DRAW_STREAM, key_from_seed

Shape = int | Sequence[Any]


@operation
def key(seed: int) -> Any:
    """The key of a seed: two 32-bit words."""
    return as_array(key_from_seed(seed))


@operation
def split(key: ArrayLike, count: int = 2) -> Any:
    """``count`` independent keys from one, stacked along the first axis."""
    return as_array(bits((count, 2), key=key))


@operation
def fold_in(key: ArrayLike, data: ArrayLike) -> Any:
    """A new key from a key and an integer below 2³² - 1, such as the number of a step."""
    source, number = as_array(key, UINT32), as_array(data, UINT32)
    return Array(source.home.random_bits(source.value, number.value, (2,)), source.home)


@operation
def bits(shape: Shape, *, key: ArrayLike | None = None) -> Any:
    """Uniform 32-bit words (Threefry-2x32-20). Salmon et al., SC 2011."""
    source = _source(key)
    stream = source.home.constant(DRAW_STREAM, UINT32)
    return Array(source.home.random_bits(source.value, stream, _sizes(shape)), source.home)


def _source(key: ArrayLike | None) -> Array:
    source = next_key() if key is None else as_array(key, UINT32)
    if source.shape != (2,):
        raise ShapeError(f"a key has shape (2,), not {source.shape}; make one with chainrule.random.key(seed)")
    return source


def _sizes(shape: Shape) -> tuple[Any, ...]:
    return (shape,) if isinstance(shape, int | np.integer) else tuple(shape)


@operation
def uniform(
    shape: Shape, low: float = 0.0, high: float = 1.0, *, key: ArrayLike | None = None, dtype: npt.DTypeLike = FLOAT32
) -> Any:
    """Uniform in [low, high): 24 random bits of a float32, 53 of a float64."""

    def between(unit: Array) -> Array:
        scaled: Array = low + unit * (high - low)
        # Rounding may reach ``high``; the largest number below it is the end of the interval.
        end = scaled if low == 0 else minimum(scaled, np.nextafter(np.asarray(high, dtype), np.asarray(low, dtype)))
        return end

    return _of_units(between, shape, (), key, dtype, low, high)


@operation
def normal(
    shape: Shape, mean: float = 0.0, std: float = 1.0, *, key: ArrayLike | None = None, dtype: npt.DTypeLike = FLOAT32
) -> Any:
    """Normal with the given mean and standard deviation, by the transform of Box & Muller (1958)."""

    def transformed(pair: Array) -> Array:
        radius = sqrt(-2 * log(1 - pair[..., 0]))
        standard: Array = radius * cos(2 * math.pi * pair[..., 1])
        return mean + std * standard

    return _of_units(transformed, shape, (2,), key, dtype, mean, std)


@operation
def bernoulli(probability: ArrayLike, shape: Shape, *, key: ArrayLike | None = None) -> Any:
    """True with the given probability."""
    return _of_units(lambda unit: unit < probability, shape, (), key, FLOAT32, probability)


def _of_units(
    function: Callable[[Array], Array],
    shape: Shape,
    each: tuple[int, ...],
    key: ArrayLike | None,
    dtype: npt.DTypeLike,
    *settings: object,
) -> Array:
    """A function of numbers uniform in [0, 1), of the shape (*shape, *each)."""
    name = dtype_name(dtype)
    if name not in WIDE_FLOATS:
        raise DTypeError(f"uniform numbers are float32 or float64, not {name}")
    words = each if name == FLOAT32 else (*each, 2)
    return drawn(lambda drawn_words: function(_unit(drawn_words, name)), _source(key), _sizes(shape), words, *settings)


def _unit(words: Array, dtype: str) -> Array:
    """Uniform in [0, 1): of one word a float32, of two, along the last axis, a float64."""
    if dtype == FLOAT32:
        return _high_bits(words, 8).astype(FLOAT32) * 2.0**-24
    return (
        _high_bits(words[..., 0], 5).astype(FLOAT64) * 2.0**-27
        + _high_bits(words[..., 1], 6).astype(FLOAT64) * 2.0**-53
    )


def _high_bits(words: Array, dropped: int) -> Array:
    return words // as_array(2**dropped, UINT32)
