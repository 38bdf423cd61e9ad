"""Layers that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.ops.arrays import broadcast_to
from chainrule.ops.convolutions import padding_of, per_axis
from chainrule.ops.padding import PAD_MODES, PadMode, pad
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class Flatten(Module):
    """The axes from ``start_axis`` to the last as one: (batch, height, width, channels) to (batch, height · width · channels).

    In row-major order, so channels are next to each other; PyTorch's channels-first order is another, and weights of a
    layer after it differ by that permutation. Raises :class:`ShapeError` when the input has no such axis.
    """

    def __init__(self, start_axis: int = 1) -> None:
        if isinstance(start_axis, bool) or not isinstance(start_axis, int) or start_axis < 0:
            raise ConfigError(f"Flatten needs start_axis to be an integer of at least 0, not {start_axis!r}")
        self.start_axis = start_axis

    def forward(self, x: ArrayLike) -> Any:
        return _flattened(x, self.start_axis)


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
        if isinstance(padding, int):
            self.padding: Any = per_axis(padding, 1, "padding", least=0)[0]
        else:
            each = [1] * len(padding)
            self.padding = padding_of(padding, each, each, each, each)
        self.mode = mode
        self.value = float(value)

    def forward(self, x: ArrayLike) -> Any:
        return _padded(x, self.padding, self.mode, self.value)


class Upsample(Module):
    """Every position repeated ``scale_factor`` times along each spatial axis of (batch, *spatial, channels): nearest neighbours.

    ``scale_factor`` is one integer or one for each axis. Raises :class:`ShapeError` when the input has another number
    of axes.
    """

    def __init__(self, scale_factor: int | Sequence[int] = 2) -> None:
        count = len(scale_factor) if isinstance(scale_factor, list | tuple) else 1
        factors = per_axis(scale_factor, count, "scale_factor")
        self.scale_factor = factors if isinstance(scale_factor, list | tuple) else factors[0]

    def forward(self, x: ArrayLike) -> Any:
        return _repeated(x, self.scale_factor)


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
def _repeated(x: ArrayLike, factor: int | tuple[int, ...]) -> Any:
    array = as_array(x)
    rank = array.ndim - 2
    factors = (factor,) * rank if isinstance(factor, int) else factor
    if rank < 1 or len(factors) != rank:
        raise ShapeError(
            f"Upsample by {factor} needs input of shape (batch, *spatial, channels), not {show_shape(array.shape)}"
        )
    apart = array.reshape((array.shape[0], *(part for n in array.shape[1:-1] for part in (n, 1)), array.shape[-1]))
    pairs = list(zip(array.shape[1:-1], factors, strict=True))
    spread = broadcast_to(apart, (array.shape[0], *(part for pair in pairs for part in pair), array.shape[-1]))
    return spread.reshape((array.shape[0], *(n * k for n, k in pairs), array.shape[-1]))


@operation
def _flattened(x: ArrayLike, start: int) -> Any:
    array = as_array(x)
    if array.ndim <= start:
        raise ShapeError(f"there is no axis {start} to flatten from in an input of shape {show_shape(array.shape)}")
    size: Any = 1
    for extent in array.shape[start:]:
        size = size * extent
    return array.reshape((*array.shape[:start], size))
