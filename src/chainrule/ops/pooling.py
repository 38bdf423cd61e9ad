"""Maxima and means over windows of (..., *spatial, channels). The rank is the number of axes of the window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import ConfigError
from chainrule.ir.contraction import Contraction, affine, plain
from chainrule.ops.arrays import concatenate, contract, full
from chainrule.ops.convolutions import Padding, PerAxis, padding_of, per_axis, spatial_axes, window_positions
from chainrule.ops.loops import operation_with_rule
from chainrule.ops.math import maximum, where
from chainrule.ops.padding import pad
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
    windows = _windows(array, window, stride, padding, dilation, ceil_mode, "max pooling")
    if not return_indices:
        return _largest(array, windows)
    strides = [math.prod(windows.spatial[axis + 1 :]) for axis in range(len(windows.spatial))]
    return _largest_and_places(array, windows, strides, 0)


def _largest(array: Array, windows: _Windows) -> Array:
    count = math.prod(windows.sizes)

    def first_largest(inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        (of,), (largest,), (g,) = inputs, outputs, cotangents
        winner = full(largest.shape, count - 1, "int32")
        for number, element in reversed(list(enumerate(_elements(of, windows)))):
            winner = where(element == largest, number, winner)
        return [_sum_of_windows([where(winner == number, g, 0) for number in range(count)], windows)]

    def largest(of: Any) -> Any:
        return reduce(maximum, _elements(of, windows))

    return operation_with_rule(largest, first_largest, label="max_pool")(_covered(array, windows))  # type: ignore[no-any-return]


def _covered(array: Array, windows: _Windows) -> Array:
    """What windows read: x with its margins, without what no window covers."""
    if any(map(any, windows.margins)):
        lowest = -math.inf if array.value.dtype in FLOATS else int(np.iinfo(array.dtype).min)
        widths = [(0, 0)] * (array.ndim - len(windows.sizes) - 1)
        array = pad(array, [*widths, *windows.margins, (0, 0)], lowest)
    return array[(..., *map(slice, windows.covered), slice(None))]


def _largest_and_places(array: Array, windows: _Windows, strides: Sequence[int], first: int) -> tuple[Array, Array]:
    """The largest, and for each the number ``first + Σ stride · position`` of the first element that it is."""
    largest = _largest(array, windows)
    rank = len(windows.sizes)
    axes = list(zip(windows.strides, windows.places, windows.margins, windows.spatial, strict=True))

    def along(axis: int, vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return vector.reshape([-1 if k == axis else 1 for k in range(rank)] + [1])

    chosen: Array | None = None
    for element, corner in reversed(list(zip(_elements(_covered(array, windows), windows), _corners(windows)))):
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
    windows = _windows(array, window, stride, padding, 1, ceil_mode, "average pooling")
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
        one = _windows(under, [stop - start for start, stop in window], None, 0, 1, False, "adaptive pooling")
        first = sum(start * stride for (start, _), stride in zip(window, strides))
        found.append(_largest_and_places(under, one, strides, first) if return_indices else (_largest(under, one),))
    lead = array.shape[: array.ndim - len(counts) - 1]
    results = [concatenate(parts, len(lead)).reshape((*lead, *counts, array.shape[-1])) for parts in zip(*found)]
    return tuple(results) if return_indices else results[0]


def _cover(size: int, count: int) -> list[tuple[int, int]]:
    return [(o * size // count, -(-(o + 1) * size // count)) for o in range(count)]


@dataclass(frozen=True, slots=True)
class _Windows:
    """Where windows lie on the spatial axes: one number, or pair of margins (before, after), for each axis.

    ``margins`` hold all that windows read outside the image, ``padding`` what of it the caller asked for.
    """

    spatial: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    margins: tuple[tuple[int, int], ...]
    places: tuple[int, ...]

    @property
    def covered(self) -> tuple[int, ...]:
        """The positions, margins among them, from the first to the last that a window reads."""
        axes = zip(self.places, self.strides, self.sizes, self.dilations, strict=True)
        return tuple(s * (n - 1) + d * (k - 1) + 1 for n, s, k, d in axes)

    def counts(self, with_padding: bool) -> list[np.ndarray[Any, Any]]:
        """For each axis how many positions of the window count at each place."""
        found = []
        axes = zip(self.places, self.strides, self.sizes, self.spatial, self.padding, strict=True)
        for places, stride, window, size, (before, after) in axes:
            first = stride * np.arange(places) - before
            low, high = (-before, size + after) if with_padding else (0, size)
            found.append(np.minimum(first + window, high) - np.maximum(first, low))
        return found


def _windows(
    x: Array,
    window: Sequence[int],
    stride: PerAxis | None,
    padding: Padding,
    dilation: PerAxis,
    ceil_mode: bool,
    what: str,
) -> _Windows:
    sizes = per_axis(window, len(window), "the window")
    rank = len(sizes)
    spatial = spatial_axes(x, rank, what)
    strides = sizes if stride is None else per_axis(stride, rank, "stride")
    dilations = per_axis(dilation, rank, "dilation")
    given = padding_of(padding, spatial, sizes, strides, dilations)
    reaches = [d * (k - 1) + 1 for k, d in zip(sizes, dilations, strict=True)]
    if padding != "same" and any(2 * most > reach for reach, margin in zip(reaches, given) for most in margin):
        raise ConfigError(f"the padding of {what} is at most half of the window, {sizes}, not {padding!r}")
    places, margins = [], []
    for axis, (size, reach, s, (before, after)) in enumerate(zip(spatial, reaches, strides, given, strict=True)):
        most = (size - 1 + before) // s + 1
        if ceil_mode and reach - s < size + before + after:
            # One more window, if it begins inside.
            count = min(-(-(size + before + after - reach) // s) + 1, most)
        else:
            count = window_positions(axis, size, reach, s, (before, after))
        places.append(count)
        margins.append((before, max(after, s * (count - 1) + reach - size - before)))
    return _Windows(spatial, sizes, strides, dilations, given, tuple(margins), tuple(places))


def _elements(x: Array, windows: _Windows) -> list[Array]:
    """For each element of the window, in row-major order, what of x lies under it at all places: a strided slice."""
    return [
        x[
            (
                ...,
                *(slice(k, k + s * (n - 1) + 1, s) for k, s, n in zip(corner, windows.strides, windows.places)),
                slice(None),
            )
        ]
        for corner in _corners(windows)
    ]


def _corners(windows: _Windows) -> list[tuple[int, ...]]:
    """The offsets of the elements of a window, in row-major order."""
    steps = [range(0, d * k, d) for k, d in zip(windows.sizes, windows.dilations, strict=True)]
    return list(itertools.product(*steps))


def _sum_of_windows(parts: Sequence[Array], windows: _Windows) -> Array:
    """Every part back at its strided positions of x, added up where windows overlap."""
    lead = [0] * (parts[0].ndim - len(windows.sizes) - 1)
    inner = [*lead, *(s - 1 for s in windows.strides), 0]
    total: Array | None = None
    for part, corner in zip(parts, _corners(windows), strict=True):
        axes = zip(windows.covered, corner, windows.strides, windows.places, strict=True)
        after = [size - k - s * (n - 1) - 1 for size, k, s, n in axes]
        placed = Array(part.home.pad(part.value, [*lead, *corner, 0], [*lead, *after, 0], inner), part.home)
        total = placed if total is None else total + placed
    assert total is not None, "a window has elements"
    return total
