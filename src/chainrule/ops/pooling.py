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
from chainrule.ops.arrays import concatenate, contract, full
from chainrule.ops.convolutions import Padding, PerAxis, per_axis, spatial_axes
from chainrule.ops.loops import operation_with_rule
from chainrule.ops.math import maximum, where
from chainrule.ops.padding import pad
from chainrule.ops.windows import Windows, corners_of, elements_of, sum_of_windows, windows_of
from chainrule.trace.array import Array, ArrayLike, as_array, operation


@operation
def max_pool(
    x: ArrayLike,
    window: Sequence[int],
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    *,
    return_indices: bool = False,
) -> Any:
    """The largest element under a window at every ``stride`` positions (by default the window's size), NaN if any is.

    x is (..., *spatial, channels); the result has ``⌊(size + before + after - dilation·(window - 1) - 1) / stride⌋ + 1``
    positions along an axis, with ``ceil_mode`` also the one that begins inside x and ends beyond it. Padding never
    wins. The elements of a window are ``dilation`` apart. The whole gradient goes to the largest element, the first in
    row-major order where several are equal. With ``return_indices`` the result is a pair: beside the largest their
    positions in x, int64 numbers of its spatial positions in row-major order; :func:`max_unpool` puts them back.
    """
    array = as_array(x)
    windows = windows_of(array, window, stride, padding, dilation, ceil_mode, "max pooling")
    if not return_indices:
        return _largest(array, windows)
    strides = [math.prod(windows.spatial[axis + 1 :]) for axis in range(len(windows.spatial))]
    return _largest_and_places(array, windows, strides, 0)


def _largest(array: Array, windows: Windows) -> Array:
    count = math.prod(windows.sizes)

    def first_largest(inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        (of,), (largest,), (g,) = inputs, outputs, cotangents
        winner = full(largest.shape, count - 1, "int32")
        for number, element in reversed(list(enumerate(elements_of(of, windows)))):
            winner = where(element == largest, number, winner)
        return [sum_of_windows([where(winner == number, g, 0) for number in range(count)], windows)]

    def largest(of: Any) -> Any:
        return reduce(maximum, elements_of(of, windows))

    return operation_with_rule(largest, first_largest, label="max_pool")(_covered(array, windows))  # type: ignore[no-any-return]


def _covered(array: Array, windows: Windows) -> Array:
    """What windows read: x with its margins, without what no window covers."""
    if any(map(any, windows.margins)):
        lowest = -math.inf if array.value.dtype in FLOATS else int(np.iinfo(array.dtype).min)
        widths = [(0, 0)] * (array.ndim - len(windows.sizes) - 1)
        array = pad(array, [*widths, *windows.margins, (0, 0)], lowest)
    return array[(..., *map(slice, windows.covered), slice(None))]


def _largest_and_places(array: Array, windows: Windows, strides: Sequence[int], first: int) -> tuple[Array, Array]:
    """The largest, and for each the number ``first + Σ stride · position`` of the first element that it is."""
    largest = _largest(array, windows)
    rank = len(windows.sizes)
    axes = list(zip(windows.strides, windows.places, windows.margins, windows.spatial, strict=True))

    def along(axis: int, vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return vector.reshape([-1 if k == axis else 1 for k in range(rank)] + [1])

    chosen: Array | None = None
    for element, corner in reversed(list(zip(elements_of(_covered(array, windows), windows), corners_of(windows)))):
        offset = sum(k * stride for k, stride in zip(corner, strides, strict=True))
        # As in PyTorch a NaN is the largest, and padding is not chosen where all are -infinity.
        found = (element == largest) | (element != element)
        for axis, ((s, n, (before, _), size), k) in enumerate(zip(axes, corner, strict=True)):
            inside = (s * np.arange(n) + k >= before) & (s * np.arange(n) + k < before + size)
            found = found if inside.all() else found & along(axis, inside)
        chosen = full(largest.shape, offset, "int64") if chosen is None else where(found, offset, chosen)
    assert chosen is not None, "a window has elements"
    for axis, ((s, n, (before, _), _), stride) in enumerate(zip(axes, strides, strict=True)):
        chosen = chosen + along(axis, (s * np.arange(n) - before) * stride)
    return largest, chosen + first


@operation
def average_pool(
    x: ArrayLike,
    window: Sequence[int],
    stride: PerAxis | None = None,
    padding: Padding = 0,
    count_padding: bool = True,
    ceil_mode: bool = False,
    divisor: int | None = None,
) -> Any:
    """The mean under a window at every ``stride`` positions (by default the window's size).

    x is (..., *spatial, channels), with positions as in :func:`max_pool`. Padding is zeros; ``count_padding=False``
    divides by the number of the window's positions inside x alone. Positions beyond the padding, which ``ceil_mode``
    lets a window reach, never count. A ``divisor`` takes the place of all these numbers. Raises :class:`ConfigError` for
    the divisor 0.
    """
    if divisor is not None and (isinstance(divisor, bool) or not isinstance(divisor, int) or not divisor):
        raise ConfigError(f"the divisor of average pooling is an integer other than 0, not {divisor!r}")
    array = as_array(x)
    array = array if array.value.dtype in FLOATS else array.astype("float32")
    windows = windows_of(array, window, stride, padding, 1, ceil_mode, "average pooling")
    rank, lead, places = len(windows.sizes), array.ndim - len(windows.sizes) - 1, windows.places
    # A window is a contraction with a number (docs/decisions/0002).
    place, channel = range(lead, lead + rank), lead + rank
    spec = Contraction(
        (*array.shape[:lead], *places, array.shape[-1], *windows.sizes),
        plain(*range(channel + 1)),
        (
            *plain(*range(lead)),
            *(
                affine((i, s), (channel + 1 + k, 1), offset=-m[0])
                for k, (i, s, m) in enumerate(zip(place, windows.strides, windows.margins))
            ),
            *plain(channel),
        ),
        (),
        (*array.shape[:lead], *places, array.shape[-1]),
    )
    if divisor is not None:
        return contract(spec, array, 1 / float(divisor))
    counts = reduce(np.multiply.outer, windows.counts(with_padding=count_padding))
    if (counts == counts.flat[0]).all():
        return contract(spec, array, 1 / float(counts.flat[0]))
    return contract(spec, array, 1.0) * (1 / counts[..., None]).astype(array.dtype)


@operation
def power_pool(
    x: ArrayLike, p: float, window: Sequence[int], stride: PerAxis | None = None, ceil_mode: bool = False
) -> Any:
    """``(Σ x**p)**(1/p)`` under a window: the sum for p = 1, towards the largest as p grows. Positions as in :func:`max_pool`.

    Powers are of x itself, as in PyTorch: NaN for a negative sum, and of a negative x where p is no integer. Where the sum is
    0 there is no gradient. A window beyond the end counts as k times the mean of what is inside, k its number of elements.
    Raises :class:`ConfigError` for the power 0.
    """
    if not p:
        raise ConfigError("the power of a pool is a number other than 0")
    array = as_array(x)
    powers = array * array if p == 2 else array if p == 1 else array**p
    total = average_pool(powers, window, stride, ceil_mode=ceil_mode) * float(math.prod(window))
    if p == 1:
        return total
    none = total == 0
    return where(none, 0, where(none, 1, total) ** (1 / p))


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
def adaptive_max_pool(x: ArrayLike, places: Sequence[int], *, return_indices: bool = False) -> Any:
    """The largest under windows placed as by :func:`adaptive_average_pool`; the first of equal ones gets the gradient.

    ``return_indices`` as in :func:`max_pool`.
    """
    array = as_array(x)
    counts = per_axis(places, len(places), "the number of places")
    spatial = spatial_axes(array, len(counts), "adaptive pooling")
    if not any(size % count for size, count in zip(spatial, counts)):
        return max_pool(array, [size // count for size, count in zip(spatial, counts)], return_indices=return_indices)
    strides = [math.prod(spatial[axis + 1 :]) for axis in range(len(spatial))]
    found = []
    for window in itertools.product(*(_cover(size, count) for size, count in zip(spatial, counts))):
        under = array[(..., *(slice(*bounds) for bounds in window), slice(None))]
        one = windows_of(under, [stop - start for start, stop in window], None, 0, 1, False, "adaptive pooling")
        first = sum(start * stride for (start, _), stride in zip(window, strides))
        found.append(_largest_and_places(under, one, strides, first) if return_indices else (_largest(under, one),))
    lead = array.shape[: array.ndim - len(counts) - 1]
    results = [concatenate(parts, len(lead)).reshape((*lead, *counts, array.shape[-1])) for parts in zip(*found)]
    return tuple(results) if return_indices else results[0]


def _cover(size: int, count: int) -> list[tuple[int, int]]:
    return [(o * size // count, -(-(o + 1) * size // count)) for o in range(count)]
