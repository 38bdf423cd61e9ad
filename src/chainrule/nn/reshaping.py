"""Layers that only move elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_image, check_size
from chainrule.ops.arrays import broadcast_to, stack, take
from chainrule.ops.convolutions import padding_of, per_axis
from chainrule.ops.padding import PAD_MODES, PadMode, pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class Flatten(Module):
    """The axes from ``start_axis`` to ``end_axis``, the last by default, as one.

    (batch, height, width, channels) becomes (batch, height · width · channels), in row-major order, so channels are next to
    each other; PyTorch's channels-first order is another, and weights of a layer after it differ by that permutation.
    Axes below 0 count from the end. Raises :class:`ShapeError` when the input has no such axes.
    """

    def __init__(self, start_axis: int = 1, end_axis: int = -1) -> None:
        for name, axis in (("start_axis", start_axis), ("end_axis", end_axis)):
            if isinstance(axis, bool) or not isinstance(axis, int):
                raise ConfigError(f"Flatten needs {name} to be an integer, not {axis!r}")
        self.start_axis = start_axis
        self.end_axis = end_axis

    def forward(self, x: ArrayLike) -> Any:
        return _flattened(x, self.start_axis, self.end_axis)


class ChannelShuffle(Module):
    """The channels, the last axis, in another order: the first of each of the ``groups`` runs, then the second of each, and so on.

    Zhang et al., CVPR 2018. Raises :class:`ShapeError` for channels that ``groups`` does not divide.
    """

    def __init__(self, groups: int) -> None:
        check_size("ChannelShuffle", "groups", groups)
        self.groups = int(groups)

    def forward(self, x: ArrayLike) -> Any:
        return _in_turns(x, self.groups)


class Unflatten(Module):
    """An axis, the last by default, as several: (batch, height · width · channels) to (batch, height, width, channels).

    The inverse of :class:`Flatten`, in row-major order, for ``sizes=(height, width, channels)``. One of the sizes may be
    -1. Raises :class:`ShapeError` when the axis has another size than their product.
    """

    def __init__(self, sizes: Sequence[int], axis: int = -1) -> None:
        found = tuple(sizes) if isinstance(sizes, list | tuple) else ()
        if not found or found.count(-1) > 1:
            raise ConfigError(f"Unflatten needs a tuple of sizes, of which one may be -1, not {sizes!r}")
        for size in found:
            if size != -1:
                check_size("Unflatten", "sizes", size)
        self.sizes = tuple(int(size) for size in found)
        self.axis = int(axis)

    def forward(self, x: ArrayLike) -> Any:
        return _unflattened(x, self.sizes, self.axis)


class Pad(Module):
    """A border around (batch, *spatial, channels): of ``value``, or in another ``mode`` of the image itself.

    ``padding`` is a number for both ends of all spatial axes, or for each axis a number or a pair (before, after); then
    there may be any number of leading axes. ``mode`` is "constant", "reflect", "replicate" or "circular", see
    :func:`chainrule.ops.pad`. PyTorch's ReflectionPad2d((left, right, top, bottom)) is ``Pad(((top, bottom), (left,
    right)), "reflect")``. Raises :class:`ShapeError` for a border that the image is too small for.
    """

    def __init__(
        self, padding: int | Sequence[int | Sequence[int]], mode: PadMode = "constant", value: float = 0.0
    ) -> None:
        if mode not in PAD_MODES:
            raise ConfigError(f"the mode of Pad is one of {', '.join(PAD_MODES)}, not {mode!r}")
        if isinstance(padding, list | tuple):
            each = [1] * len(padding)
            self.padding: Any = padding_of(padding, each, each, each, each)
        elif isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ConfigError(f"Pad needs a number from 0 on, or for each axis one or a pair of them, not {padding!r}")
        else:
            self.padding = padding
        self.mode = mode
        self.value = float(value)

    def forward(self, x: ArrayLike) -> Any:
        return _padded(x, self.padding, self.mode, self.value)


class Upsample(Module):
    """More positions along each spatial axis of (batch, *spatial, channels): ``scale_factor`` times as many, or ``size``.

    ``mode="nearest"`` repeats positions, position o of n along an axis being that of ``⌊o·size/n⌋``. "linear" takes the
    mean of the two neighbours of ``(o + ½)·size/n - ½``, weighted by nearness, along every axis (PyTorch's bilinear and
    trilinear); "cubic" a cubic through four, which goes on beyond the ends with the last positions (bicubic; Keys 1981,
    with a = -¾). With ``align_corners`` the ends of both axes coincide. ``scale_factor`` is a number or one for each axis;
    one that is no integer f makes ``⌊size·f⌋`` positions and counts them by 1/f in place of size/n, as in PyTorch. ``size``
    goes before it. Raises :class:`ShapeError` when the input has another number of axes.
    """

    def __init__(
        self,
        scale_factor: float | Sequence[float] = 2,
        mode: Literal["nearest", "linear", "cubic"] = "nearest",
        align_corners: bool = False,
        *,
        size: int | Sequence[int] | None = None,
    ) -> None:
        if mode not in ("nearest", "linear", "cubic"):
            raise ConfigError(
                f"the mode of Upsample is 'nearest', or 'linear' or 'cubic', which are along every axis, not {mode!r}"
            )
        if align_corners and mode == "nearest":
            raise ConfigError("align_corners of Upsample is for mode='linear' and 'cubic'")
        self.scale_factor = _factors(scale_factor)
        self.size = None if size is None else _one_or_more(size, "size")
        self.mode = mode
        self.align_corners = bool(align_corners)

    def forward(self, x: ArrayLike) -> Any:
        return _upsampled(x, self.scale_factor, self.size, self.mode, self.align_corners)


class PixelShuffle(Module):
    """(batch, height, width, channels · r²) to (batch, height · r, width · r, channels): channels become positions.

    Shi et al., CVPR 2016. Channel ``c·r² + i·r + j`` becomes channel c of row i and column j of the r × r positions, as
    in PyTorch. Raises :class:`ShapeError` for channels that r² does not divide.
    """

    def __init__(self, upscale_factor: int) -> None:
        check_size("PixelShuffle", "upscale_factor", upscale_factor)
        self.upscale_factor = int(upscale_factor)

    def forward(self, x: ArrayLike) -> Any:
        return _shuffled(x, self.upscale_factor)


class PixelUnshuffle(Module):
    """(batch, height · r, width · r, channels) to (batch, height, width, channels · r²): the inverse of :class:`PixelShuffle`."""

    def __init__(self, downscale_factor: int) -> None:
        check_size("PixelUnshuffle", "downscale_factor", downscale_factor)
        self.downscale_factor = int(downscale_factor)

    def forward(self, x: ArrayLike) -> Any:
        return _unshuffled(x, self.downscale_factor)


def _one_or_more(sizes: int | Sequence[int], name: str) -> int | tuple[int, ...]:
    found = per_axis(sizes, len(sizes) if isinstance(sizes, list | tuple) else 1, name)
    return found if isinstance(sizes, list | tuple) else found[0]


def _factors(factors: float | Sequence[float]) -> Any:
    """One factor, or one for each axis; integers as such."""
    if isinstance(factors, list | tuple):
        return tuple(_factors(factor) for factor in factors)
    if isinstance(factors, bool) or not isinstance(factors, int | float) or not 0 < factors < math.inf:
        raise ConfigError(f"scale_factor is a number above 0, or one for each axis, not {factors!r}")
    return int(factors) if factors == int(factors) else float(factors)


@operation
def _upsampled(x: ArrayLike, factor: Any, size: Any, mode: str, align: bool) -> Any:
    array = as_array(x)
    rank = array.ndim - 2
    wanted = factor if size is None else size
    each = wanted if isinstance(wanted, tuple) else (wanted,) * rank
    if rank < 1 or len(each) != rank or not all(isinstance(n, int) for n in array.shape[1:-1]):
        what = f"by {factor}" if size is None else f"to {size}"
        raise ShapeError(
            f"Upsample {what} needs input of shape (batch, *spatial, channels), not {show_shape(array.shape)}"
        )
    sizes: list[int] = [int(n) for n in array.shape[1:-1]]
    whole = all(isinstance(n, int) for n in each)
    if mode == "nearest" and size is None and whole:
        return _repeated(array, sizes, each)
    for axis, (before, number) in enumerate(zip(sizes, each, strict=True), start=1):
        after = number if size is not None else math.floor(before * number)
        if not after:
            raise ShapeError(f"Upsample by {number} leaves nothing of the {before} positions of axis {axis}")
        if after == before and mode != "cubic":
            continue
        step = before / after if isinstance(number, int) else 1 / number
        if mode == "nearest":
            array = take(array, _nearest(before, after, None if isinstance(number, int) else step), axis)
        elif mode == "linear" and not after % before and isinstance(number, int) and not align:
            array = _multiplied(array, axis, before, after // before)
        else:
            step = (before - 1) / max(after - 1, 1) if align else step
            array = _interpolated(array, axis, before, after, step, mode, align)
    return array


def _nearest(before: int, after: int, step: float | None) -> Any:
    """Which position each of the new ones repeats; PyTorch multiplies by steps of factors in float32."""
    if step is None:
        return np.arange(after) * before // after
    places = np.floor(np.arange(after, dtype=np.float32) * np.float32(step))
    return np.minimum(places.astype(int), before - 1)


def _interpolated(x: Array, axis: int, before: int, after: int, step: float, mode: str, align: bool) -> Array:
    """Any number of positions along an axis, from the two or four neighbours of each."""
    places = np.arange(after) * step if align else (np.arange(after) + 0.5) * step - 0.5
    if mode == "linear":
        places = np.maximum(places, 0)
        low = np.minimum(np.floor(places), before - 1)
        taps = [(0, 1 - (places - low)), (1, places - low)]
    else:
        low = np.floor(places)
        taps = [(offset, _cubic(np.abs(places - low - offset))) for offset in (-1, 0, 1, 2)]
    found: Array | None = None
    for offset, share in taps:
        row = np.clip(low.astype(int) + offset, 0, before - 1)
        part = take(x, row, axis) * share.reshape((after, *[1] * (x.ndim - axis - 1))).astype(x.dtype)
        found = part if found is None else found + part
    assert found is not None, "there are neighbours"
    return found


def _cubic(distance: Any) -> Any:
    """The weight of a position at a distance of 0 to 2. Keys 1981, with a = -3/4."""
    d, a = distance, -0.75
    return np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)


def _multiplied(x: Array, axis: int, size: int, factor: int) -> Array:
    """``factor`` positions for each along an axis: all that lie at one offset are one sum of two slices."""
    padded = pad(x, [(1, 1) if k == axis else (0, 0) for k in range(x.ndim)], mode="replicate")
    parts = []
    for offset in range(factor):
        place = (offset + 0.5) / factor + 0.5  # of the first, in padded
        low = int(place)
        left, right = (padded[(*[slice(None)] * axis, slice(first, first + size))] for first in (low, low + 1))
        parts.append(left * (1 - (place - low)) + right * (place - low))
    side_by_side: Array = stack(parts, axis + 1)
    return side_by_side.reshape((*x.shape[:axis], size * factor, *x.shape[axis + 1 :]))


def _repeated(x: Array, sizes: Sequence[int], factors: Sequence[int]) -> Array:
    apart = x.reshape((x.shape[0], *(part for n in sizes for part in (n, 1)), x.shape[-1]))
    pairs = list(zip(sizes, factors, strict=True))
    spread = broadcast_to(apart, (x.shape[0], *(part for pair in pairs for part in pair), x.shape[-1]))
    repeated: Array = spread.reshape((x.shape[0], *(n * k for n, k in pairs), x.shape[-1]))
    return repeated


@operation
def _in_turns(x: ArrayLike, groups: int) -> Any:
    array = as_array(x)
    channels = array.shape[-1] if array.ndim else 0
    if not isinstance(channels, int) or not channels or channels % groups:
        raise ShapeError(
            f"ChannelShuffle({groups}) needs a multiple of {groups} channels, not input of shape {show_shape(array.shape)}"
        )
    return array.reshape((*array.shape[:-1], groups, channels // groups)).swapaxes(-1, -2).reshape(array.shape)


@operation
def _shuffled(x: ArrayLike, r: int) -> Any:
    array = as_array(x)
    check_image(array, 2)
    lead, (height, width, channels) = array.shape[:-3], map(int, array.shape[-3:])
    if channels % r**2:
        raise ShapeError(f"PixelShuffle({r}) needs a multiple of {r**2} channels, not {channels}")
    n = len(lead)
    apart = array.reshape((*lead, height, width, channels // r**2, r, r))
    apart = apart.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return apart.reshape((*lead, height * r, width * r, channels // r**2))


@operation
def _unshuffled(x: ArrayLike, r: int) -> Any:
    array = as_array(x)
    check_image(array, 2)
    lead, (height, width, channels) = array.shape[:-3], map(int, array.shape[-3:])
    if height % r or width % r:
        raise ShapeError(
            f"PixelUnshuffle({r}) needs a height and a width that are multiples of {r}, not {height} and {width}"
        )
    n = len(lead)
    apart = array.reshape((*lead, height // r, r, width // r, r, channels))
    apart = apart.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return apart.reshape((*lead, height // r, width // r, channels * r**2))


@operation
def _unflattened(x: ArrayLike, sizes: tuple[int, ...], axis: int) -> Any:
    array = as_array(x)
    known = math.prod(size for size in sizes if size != -1)
    place = axis + array.ndim if axis < 0 else axis
    last = array.shape[place] if 0 <= place < array.ndim else None
    if not isinstance(last, int) or (last % known if -1 in sizes else last != known):
        which = "the last axis" if axis == -1 else f"axis {axis}"
        raise ShapeError(f"{which} of an input of shape {show_shape(array.shape)} cannot have the sizes {sizes}")
    parts = (last // known if size == -1 else size for size in sizes)
    return array.reshape((*array.shape[:place], *parts, *array.shape[place + 1 :]))


@operation
def _padded(x: ArrayLike, padding: int | tuple[tuple[int, int], ...], mode: PadMode, value: float) -> Any:
    array = as_array(x)
    rank = array.ndim - 2 if isinstance(padding, int) else len(padding)
    if not 0 < rank < array.ndim:
        raise ShapeError(
            f"Pad by {padding} needs input of shape (batch, *spatial, channels), not {show_shape(array.shape)}"
        )
    pairs = ((padding, padding),) * rank if isinstance(padding, int) else padding
    return pad(array, [*[(0, 0)] * (array.ndim - rank - 1), *pairs, (0, 0)], value, mode)


@operation
def _flattened(x: ArrayLike, start: int, end: int) -> Any:
    array = as_array(x)
    first, last = (axis + array.ndim if axis < 0 else axis for axis in (start, end))
    if not 0 <= first <= last < array.ndim:
        missing = f"is no axis {start} to flatten from" if end == -1 else f"are no axes {start} to {end} to flatten"
        raise ShapeError(f"there {missing} in an input of shape {show_shape(array.shape)}")
    size: Any = 1
    for extent in array.shape[first : last + 1]:
        size = size * extent
    return array.reshape((*array.shape[:first], size, *array.shape[last + 1 :]))
