"""Windows over (..., *spatial, channels): where they lie, what lies under them, and sums of what does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ops.arrays import stack
from chainrule.ops.convolutions import Padding, PerAxis, padding_of, per_axis, spatial_axes, window_positions
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


@operation
def unfold(
    x: ArrayLike, window: Sequence[int], stride: PerAxis = 1, padding: Padding = 0, dilation: PerAxis = 1
) -> Any:
    """What lies under a window at each of its places: (..., *spatial, channels) to (..., places, elements · channels).

    Places and the elements of the window are in row-major order, and channels are next to each other, so that ``unfold(x) @
    weight.reshape(-1, out)`` is a convolution, at its memory's expense. Padding is zeros; positions as in
    :func:`chainrule.ops.convolution`.
    """
    array = as_array(x)
    windows = windows_of(array, window, stride, padding, dilation, False, "unfolding", at_most_half=False)
    lead = array.shape[: array.ndim - len(windows.sizes) - 1]
    array = pad(array, [*[(0, 0)] * len(lead), *windows.margins, (0, 0)])
    elements = elements_of(array[(..., *map(slice, windows.covered), slice(None))], windows)
    under: Array = stack(elements, -2)
    return under.reshape((*lead, math.prod(windows.places), len(elements) * int(array.shape[-1])))


@operation
def fold(
    x: ArrayLike,
    output_size: Sequence[int],
    window: Sequence[int],
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
) -> Any:
    """The sum of windows at their places, (..., places, elements · channels) to (..., *output_size, channels).

    Where they overlap they add up: the gradient of :func:`unfold` of an image of that size. Raises :class:`ShapeError` for
    another number of places or of elements.
    """
    array = as_array(x)
    sizes = per_axis(output_size, len(output_size), "output_size")
    image = np.broadcast_to(np.int32(0), (*sizes, 1))
    windows = windows_of(as_array(image), window, stride, padding, dilation, False, "folding", at_most_half=False)
    count, places = math.prod(windows.sizes), math.prod(windows.places)
    if array.ndim < 2 or array.shape[-2] != places or not isinstance(array.shape[-1], int) or array.shape[-1] % count:
        raise ShapeError(
            f"folding windows {windows.sizes} to {sizes} needs an array of shape (..., {places}, {count} · channels), not "
            f"{show_shape(array.shape)}"
        )
    lead, channels = array.shape[:-2], array.shape[-1] // count
    apart = array.reshape((*lead, *windows.places, count, channels))
    covered = sum_of_windows([apart[..., number, :] for number in range(count)], windows)
    axes = zip(windows.covered, sizes, windows.margins, strict=True)
    missing = [max(0, before + size - n) for n, size, (before, _) in axes]
    covered = pad(covered, [*[(0, 0)] * len(lead), *((0, more) for more in missing), (0, 0)])
    inside = (slice(before, before + size) for size, (before, _) in zip(sizes, windows.margins, strict=True))
    return covered[(..., *inside, slice(None))]


@dataclass(frozen=True, slots=True)
class Windows:
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


def windows_of(
    x: Array,
    window: Sequence[int],
    stride: PerAxis | None,
    padding: Padding,
    dilation: PerAxis,
    ceil_mode: bool,
    what: str,
    at_most_half: bool = True,
) -> Windows:
    """The windows of an operation, which ``what`` names in errors; padding ``at_most_half`` of a window never fills one."""
    sizes = per_axis(window, len(window), "the window")
    rank = len(sizes)
    spatial = spatial_axes(x, rank, what)
    strides = sizes if stride is None else per_axis(stride, rank, "stride")
    dilations = per_axis(dilation, rank, "dilation")
    given = padding_of(padding, spatial, sizes, strides, dilations)
    reaches = [d * (k - 1) + 1 for k, d in zip(sizes, dilations, strict=True)]
    over = any(2 * most > reach for reach, margin in zip(reaches, given) for most in margin)
    if over and at_most_half and padding != "same":
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
    return Windows(spatial, sizes, strides, dilations, given, tuple(margins), tuple(places))


def elements_of(x: Array, windows: Windows) -> list[Array]:
    """For each element of the window, in row-major order, what of x lies under it at all places: a strided slice."""
    return [
        x[
            (
                ...,
                *(slice(k, k + s * (n - 1) + 1, s) for k, s, n in zip(corner, windows.strides, windows.places)),
                slice(None),
            )
        ]
        for corner in corners_of(windows)
    ]


def corners_of(windows: Windows) -> list[tuple[int, ...]]:
    """The offsets of the elements of a window, in row-major order."""
    steps = [range(0, d * k, d) for k, d in zip(windows.sizes, windows.dilations, strict=True)]
    return list(itertools.product(*steps))


def sum_of_windows(parts: Sequence[Array], windows: Windows) -> Array:
    """Every part back at its strided positions of x, added up where windows overlap."""
    lead = [0] * (parts[0].ndim - len(windows.sizes) - 1)
    inner = [*lead, *(s - 1 for s in windows.strides), 0]
    total: Array | None = None
    for part, corner in zip(parts, corners_of(windows), strict=True):
        axes = zip(windows.covered, corner, windows.strides, windows.places, strict=True)
        after = [size - k - s * (n - 1) - 1 for size, k, s, n in axes]
        placed = Array(part.home.pad(part.value, [*lead, *corner, 0], [*lead, *after, 0], inner), part.home)
        total = placed if total is None else total + placed
    assert total is not None, "a window has elements"
    return total
