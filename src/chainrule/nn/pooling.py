"""Pooling layers: maxima and means over windows of (..., *spatial, channels)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_image
from chainrule.ops.convolutions import PerAxis, per_axis
from chainrule.ops.pooling import adaptive_average_pool, adaptive_max_pool, average_pool, max_pool
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class _MaxPool(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: PerAxis = 0,
        dilation: PerAxis = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        self.dilation = per_axis(dilation, self.rank, "dilation")
        self.kernel_size, self.stride, self.padding = _windows(
            type(self).__name__, self.rank, kernel_size, stride, padding, self.dilation
        )
        self.ceil_mode = bool(ceil_mode)

    def forward(self, x: ArrayLike) -> Any:
        return _largest(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPool1d(_MaxPool):
    """The largest of each channel under a window along (..., time, channels); see :class:`MaxPool2d`."""

    rank = 1


class MaxPool2d(_MaxPool):
    """``y[..., o, p, c] = max x[..., s·o + d·i - padding, s·p + d·j - padding, c]`` over the window's i and j.

    Input is (..., height, width, channels). The stride is by default the window's size, so that windows lie side by
    side; an axis of the output has ``⌊(size + 2·padding - dilation·(kernel - 1) - 1) / stride⌋ + 1`` positions, and what
    is left over is not read, or with ``ceil_mode`` by one more window that begins in the image. Padding never wins and
    is at most half of the window. Where several elements are the largest the first, row by row, gets the whole
    gradient, as in PyTorch.
    """

    rank = 2


class MaxPool3d(_MaxPool):
    """The largest of each channel under a window of (..., depth, height, width, channels); see :class:`MaxPool2d`."""

    rank = 3


class _AvgPool(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: PerAxis = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = _windows(
            type(self).__name__, self.rank, kernel_size, stride, padding
        )
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: ArrayLike) -> Any:
        return _mean(x, self.kernel_size, self.stride, self.padding, self.count_include_pad, self.ceil_mode)


class AvgPool1d(_AvgPool):
    """The mean of each channel under a window along (..., time, channels); see :class:`AvgPool2d`."""

    rank = 1


class AvgPool2d(_AvgPool):
    """The mean of each channel under a window of (..., height, width, channels), with the shapes of :class:`MaxPool2d`.

    Padding is zeros. With ``count_include_pad`` the sum is divided by the number of the window's positions that lie in
    the padded image, otherwise by those that lie in the image. Arguments are in PyTorch's order.
    """

    rank = 2


class AvgPool3d(_AvgPool):
    """The mean of each channel under a window of (..., depth, height, width, channels); see :class:`AvgPool2d`."""

    rank = 3


class _AdaptivePool(Module):
    rank: ClassVar[int]

    def __init__(self, output_size: PerAxis) -> None:
        self.output_size = per_axis(output_size, self.rank, "output_size")


class AdaptiveAvgPool1d(_AdaptivePool):
    """The mean under ``output_size`` windows along (..., time, channels); see :class:`AdaptiveAvgPool2d`."""

    rank = 1

    def forward(self, x: ArrayLike) -> Any:
        return _adapted_mean(x, self.output_size)


class AdaptiveAvgPool2d(AdaptiveAvgPool1d):
    """The mean under windows that cover (..., height, width, channels) in ``output_size`` places along each axis.

    Place o of n along an axis of a given size covers the positions from ``⌊o·size/n⌋`` to before ``⌈(o+1)·size/n⌉``, as
    in PyTorch.
    """

    rank = 2


class AdaptiveAvgPool3d(AdaptiveAvgPool1d):
    """The mean under windows of (..., depth, height, width, channels), placed as by :class:`AdaptiveAvgPool2d`."""

    rank = 3


class AdaptiveMaxPool1d(_AdaptivePool):
    """The largest under ``output_size`` windows along (..., time, channels), placed as by :class:`AdaptiveAvgPool2d`."""

    rank = 1

    def forward(self, x: ArrayLike) -> Any:
        return _adapted_largest(x, self.output_size)


class AdaptiveMaxPool2d(AdaptiveMaxPool1d):
    """The largest under windows placed as by :class:`AdaptiveAvgPool2d`; of equal ones the first gets the gradient."""

    rank = 2


class AdaptiveMaxPool3d(AdaptiveMaxPool1d):
    """The largest under windows of (..., depth, height, width, channels), placed as by :class:`AdaptiveAvgPool2d`."""

    rank = 3


class GlobalAveragePooling(Module):
    """The mean over all positions: (batch, *spatial, channels) to (batch, channels). Lin, Chen & Yan, ICLR 2014.

    Raises :class:`ShapeError` for an input without spatial axes.
    """

    def forward(self, x: ArrayLike) -> Any:
        return _overall_mean(x)


def _windows(
    layer: str,
    rank: int,
    kernel_size: PerAxis,
    stride: PerAxis | None,
    padding: PerAxis,
    dilation: Sequence[int] = (1, 1, 1),
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    kernel = per_axis(kernel_size, rank, "kernel_size")
    margins = per_axis(padding, rank, "padding", least=0)
    if any(2 * margin > step * (size - 1) + 1 for margin, size, step in zip(margins, kernel, dilation)):
        raise ConfigError(f"{layer} needs padding of at most half of its window {kernel}, not {padding!r}")
    return kernel, kernel if stride is None else per_axis(stride, rank, "stride"), margins


@operation
def _largest(x: ArrayLike, window: tuple[int, ...], *settings: Any) -> Any:
    array = as_array(x)
    check_image(array, len(window))
    return max_pool(array, window, *settings)


@operation
def _mean(x: ArrayLike, window: tuple[int, ...], *settings: Any) -> Any:
    array = as_array(x)
    check_image(array, len(window))
    return average_pool(array, window, *settings)


@operation
def _adapted_mean(x: ArrayLike, places: tuple[int, ...]) -> Any:
    array = as_array(x)
    check_image(array, len(places))
    return adaptive_average_pool(array, places)


@operation
def _adapted_largest(x: ArrayLike, places: tuple[int, ...]) -> Any:
    array = as_array(x)
    check_image(array, len(places))
    return adaptive_max_pool(array, places)


@operation
def _overall_mean(x: ArrayLike) -> Any:
    array = as_array(x)
    if array.ndim < 3:
        raise ShapeError(
            f"the input should have shape (batch, *spatial, channels), but it has shape {show_shape(array.shape)}"
        )
    return array.mean(tuple(range(1, array.ndim - 1)))
