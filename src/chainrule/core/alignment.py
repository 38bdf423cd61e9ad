"""Arrays that begin at a line of a cache.

NumPy's begin at multiples of 16 bytes, so that most vectors of 64 bytes lie in two lines each: reading one takes as long as reading
two, and writing one longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

LINE_BYTES = 64
# Smaller arrays stay in a first cache, and are made sooner than aligned.
FEWEST_BYTES = 1 << 14


class Padding(NDArray):
    """The bytes around an aligned array, which is the only one that has this as its base."""


def aligned_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray:
    """An array of any numbers that begins at a line of a cache."""
    padding = Padding(prod(shape) * dtype.itemsize + LINE_BYTES, np.uint8)
    return np.ndarray(shape, dtype, padding, -_address(padding) % LINE_BYTES)


def maker(shape: Sequence[int], dtype: np.dtype[Any]) -> Callable[[Sequence[int], np.dtype[Any]], NDArray]:
    """What makes arrays of this shape: :func:`aligned_empty` where it matters where they begin, otherwise ``numpy.empty``."""
    return np.empty if prod(shape) * dtype.itemsize < FEWEST_BYTES else aligned_empty


def aligned_copy(array: NDArray) -> NDArray:
    """A copy in C order, which begins at a line of a cache where that matters."""
    copy = maker(array.shape, array.dtype)(array.shape, array.dtype)
    copy[...] = array
    return copy


def is_aligned(array: NDArray) -> bool:
    """Whether an array begins at a line of a cache, or is too small for that to matter."""
    return array.nbytes < FEWEST_BYTES or _address(array) % LINE_BYTES == 0


def owns_memory(array: NDArray) -> bool:
    """Whether an array was made with its memory, and is no view of another."""
    return array.flags.owndata or type(array.base) is Padding


def _address(array: NDArray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
