"""Maxima and means over windows of (..., *spatial, channels). The rank is the number of axes of the window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import ConfigError
from chainrule.ir.contraction import Contraction, affine, plain
from chainrule.ops.arrays import concatenate, contract, full, pad
from chainrule.ops.convolutions import Padding, PerAxis, padding_of, per_axis, spatial_axes, window_positions
from chainrule.ops.loops import operation_with_rule
from chainrule.ops.math import maximum, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation


@operation
def max_pool(x: ArrayLike, window: Sequence[int], stride: PerAxis | None = None, padding: Padding = 0) -> Any:
    """The largest element under a window at every ``stride`` positions (by default the window's size), NaN if any is.

    x is (..., *spatial, channels); the result has ``⌊(size + before + after - window) / stride⌋ + 1`` positions along
    an axis. Padding never wins. The whole gradient goes to the largest element, the first in row-major order where
    several are equal.
    """
    array = as_array(x)
    sizes, strides, margins = _windows(array, window, stride, padding, "max pooling")
    rank = len(sizes)
    if any(map(any, margins)):
        lowest = -math.inf if array.value.dtype in FLOATS else int(np.iinfo(array.dtype).min)
        widths = [(0, 0)] * (array.ndim - rank - 1)
        array = pad(array, [*widths, *margins, (0, 0)], lowest)
    padded = spatial_axes(array, rank, "max pooling")
    places = tuple(window_positions(k, *of, (0, 0)) for k, of in enumerate(zip(padded, sizes, strides, strict=True)))
    # What no window covers is cut off first.
    spatial = tuple(s * (n - 1) + k for s, n, k in zip(strides, places, sizes, strict=True))
    array = array[(..., *map(slice, spatial), slice(None))]

    def first_largest(inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        (of,), (largest,), (g,) = inputs, outputs, cotangents
        winner = full(largest.shape, math.prod(sizes) - 1, "int32")
        for number, element in reversed(list(enumerate(_elements(of, sizes, strides, places)))):
            winner = where(element == largest, number, winner)
        parts = [where(winner == number, g, 0) for number in range(math.prod(sizes))]
        return [_sum_of_windows(parts, spatial, sizes, strides, places)]

    def largest(of: Any) -> Any:
        return reduce(maximum, _elements(of, sizes, strides, places))

    return operation_with_rule(largest, first_largest, label="max_pool")(array)


@operation
def average_pool(
    x: ArrayLike,
    window: Sequence[int],
    stride: PerAxis | None = None,
    padding: Padding = 0,
    count_padding: bool = True,
) -> Any:
    """The mean under a window at every ``stride`` positions (by default the window's size).

    x is (..., *spatial, channels), with positions as in :func:`max_pool`. Padding is zeros; ``count_padding=False``
    divides by the number of positions inside x instead of all of the window.
    """
    array = as_array(x)
    array = array if array.value.dtype in FLOATS else array.astype("float32")
    sizes, strides, margins = _windows(array, window, stride, padding, "average pooling")
    rank, lead = len(sizes), array.ndim - len(sizes) - 1
    spatial = spatial_axes(array, rank, "average pooling")
    places = tuple(window_positions(k, *of) for k, of in enumerate(zip(spatial, sizes, strides, margins, strict=True)))
    # A window is a contraction with a number (docs/decisions/0002).
    place, channel = range(lead, lead + rank), lead + rank
    spec = Contraction(
        (*array.shape[:lead], *places, array.shape[-1], *sizes),
        plain(*range(channel + 1)),
        (
            *plain(*range(lead)),
            *(
                affine((i, s), (channel + 1 + k, 1), offset=-m[0])
                for k, (i, s, m) in enumerate(zip(place, strides, margins))
            ),
            *plain(channel),
        ),
        (),
        (*array.shape[:lead], *places, array.shape[-1]),
    )
    if count_padding:
        return contract(spec, array, 1 / math.prod(sizes))
    counts = [
        [len(range(max(0, s * n - m[0]), min(size, s * n - m[0] + k))) for n in range(count)]
        for size, k, s, m, count in zip(spatial, sizes, strides, margins, places)
    ]
    inside = reduce(np.multiply.outer, [np.asarray(count, float) for count in counts])
    return contract(spec, array, 1.0) * (1 / inside[..., None]).astype(array.dtype)


@operation
def adaptive_average_pool(x: ArrayLike, places: Sequence[int]) -> Any:
    """The mean under windows that cover x in a given number of places: place o of n covers ``⌊o·size/n⌋`` to ``⌈(o+1)·size/n⌉``.

    x is (..., *spatial, channels), the result (..., *places, channels). Windows overlap where n does not divide the
    size.
    """
    array = as_array(x)
    array = array if array.value.dtype in FLOATS else array.astype("float32")
    counts = per_axis(places, len(places), "the number of places")
    spatial = spatial_axes(array, len(counts), "adaptive pooling")
    if not any(size % count for size, count in zip(spatial, counts)):
        return average_pool(array, [size // count for size, count in zip(spatial, counts)])
    for k, (size, count) in enumerate(zip(spatial, counts)):
        shares = np.zeros((count, size))
        for row, (start, stop) in zip(shares, _cover(size, count)):
            row[start:stop] = 1 / (stop - start)
        # Windows of a box are products of windows along its axes, so that means can be taken one axis at a time.
        axis = array.ndim - len(counts) - 1 + k
        array = (array.swapaxes(axis, -1) @ shares.T.astype(array.dtype)).swapaxes(axis, -1)
    return array


@operation
def adaptive_max_pool(x: ArrayLike, places: Sequence[int]) -> Any:
    """The largest under windows placed as by :func:`adaptive_average_pool`; the first of equal ones gets the gradient."""
    array = as_array(x)
    counts = per_axis(places, len(places), "the number of places")
    spatial = spatial_axes(array, len(counts), "adaptive pooling")
    if not any(size % count for size, count in zip(spatial, counts)):
        return max_pool(array, [size // count for size, count in zip(spatial, counts)])
    windows = itertools.product(*(_cover(size, count) for size, count in zip(spatial, counts)))
    largest = [
        max_pool(array[(..., *(slice(*bounds) for bounds in window), slice(None))], [b - a for a, b in window])
        for window in windows
    ]
    lead = array.shape[: array.ndim - len(counts) - 1]
    return concatenate(largest, len(lead)).reshape((*lead, *counts, array.shape[-1]))


def _cover(size: int, count: int) -> list[tuple[int, int]]:
    return [(o * size // count, -(-(o + 1) * size // count)) for o in range(count)]


def _windows(
    x: Array, window: Sequence[int], stride: PerAxis | None, padding: Padding, what: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    sizes = per_axis(window, len(window), "the window")
    spatial = spatial_axes(x, len(sizes), what)
    strides = sizes if stride is None else per_axis(stride, len(sizes), "stride")
    margins = padding_of(padding, spatial, sizes, strides, [1] * len(sizes))
    if padding != "same" and any(2 * most > size for size, margin in zip(sizes, margins) for most in margin):
        raise ConfigError(f"the padding of {what} is at most half of the window, {sizes}, not {padding!r}")
    return sizes, strides, margins


def _elements(x: Array, sizes: Sequence[int], strides: Sequence[int], places: Sequence[int]) -> list[Array]:
    """For each element of the window, in row-major order, what of x lies under it at all places: a strided slice."""
    return [
        x[(..., *(slice(k, k + s * (n - 1) + 1, s) for k, s, n in zip(corner, strides, places)), slice(None))]
        for corner in itertools.product(*map(range, sizes))
    ]


def _sum_of_windows(
    parts: Sequence[Array], spatial: Sequence[int], sizes: Sequence[int], strides: Sequence[int], places: Sequence[int]
) -> Array:
    """Every part back at its strided positions of x, added up where windows overlap."""
    lead = [0] * (parts[0].ndim - len(sizes) - 1)
    inner = [*lead, *(s - 1 for s in strides), 0]
    total: Array | None = None
    for part, corner in zip(parts, itertools.product(*map(range, sizes)), strict=True):
        after = [size - k - s * (n - 1) - 1 for size, k, s, n in zip(spatial, corner, strides, places, strict=True)]
        placed = Array(part.home.pad(part.value, [*lead, *corner, 0], [*lead, *after, 0], inner), part.home)
        total = placed if total is None else total + placed
    assert total is not None, "a window has elements"
    return total
