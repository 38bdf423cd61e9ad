"""Pooling layers: maxima and means over windows of (..., *spatial, channels)."""

from __future__ import annotations

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

    def __init__(self, kernel_size: PerAxis, stride: PerAxis | None = None, padding: PerAxis = 0) -> None:
        self.kernel_size, self.stride, self.padding = _windows(
            type(self).__name__, self.rank, kernel_size, stride, padding
        )

    def forward(self, x: ArrayLike) -> Any:
        return _largest(x, self.kernel_size, self.stride, self.padding)


class MaxPool1d(_MaxPool):
    """The largest of each channel under a window along (..., time, channels); see :class:`MaxPool2d`."""

    rank = 1


class MaxPool2d(_MaxPool):
    """``y[..., o, p, c] = max x[..., s·o + i - padding, s·p + j - padding, c]`` over the window's i and j.

    Input is (..., height, width, channels). The stride is by default the window's size, so that windows lie side by
    side; an axis of the output has ``⌊(size + 2·padding - kernel) / stride⌋ + 1`` positions, and what is left over is
    not read. Padding never wins and is at most half of the window. Where several elements are the largest the first,
    row by row, gets the whole gradient, as in PyTorch.
    """

    rank = 2


class _AvgPool(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: PerAxis = 0,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = _windows(
            type(self).__name__, self.rank, kernel_size, stride, padding
        )
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: ArrayLike) -> Any:
        return _mean(x, self.kernel_size, self.stride, self.padding, self.count_include_pad)


class AvgPool1d(_AvgPool):
    """The mean of each channel under a window along (..., time, channels); see :class:`AvgPool2d`."""

    rank = 1


class AvgPool2d(_AvgPool):
    """The mean of each channel under a window of (..., height, width, channels), with the shapes of :class:`MaxPool2d`.

    Padding is zeros. With ``count_include_pad`` the sum is divided by the size of the window, otherwise by the number
    of its positions that lie in the image.
    """

    rank = 2


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


class AdaptiveMaxPool1d(_AdaptivePool):
    """The largest under ``output_size`` windows along (..., time, channels), placed as by :class:`AdaptiveAvgPool2d`."""

    rank = 1

    def forward(self, x: ArrayLike) -> Any:
        return _adapted_largest(x, self.output_size)


class AdaptiveMaxPool2d(AdaptiveMaxPool1d):
    """The largest under windows placed as by :class:`AdaptiveAvgPool2d`; of equal ones the first gets the gradient."""

    rank = 2


class GlobalAveragePooling(Module):
    """The mean over all positions: (batch, *spatial, channels) to (batch, channels). Lin, Chen & Yan, ICLR 2014.

    Raises :class:`ShapeError` for an input without spatial axes.
    """

    def forward(self, x: ArrayLike) -> Any:
        return _overall_mean(x)


def _windows(
    layer: str, rank: int, kernel_size: PerAxis, stride: PerAxis | None, padding: PerAxis
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    kernel = per_axis(kernel_size, rank, "kernel_size")
    margins = per_axis(padding, rank, "padding", least=0)
    if any(2 * margin > size for margin, size in zip(margins, kernel)):
        raise ConfigError(f"{layer} needs padding of at most half of its window {kernel}, not {padding!r}")
    return kernel, kernel if stride is None else per_axis(stride, rank, "stride"), margins


@operation
def _largest(x: ArrayLike, window: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Any:
    array = as_array(x)
    check_image(array, len(window))
    return max_pool(array, window, stride, padding)


@operation
def _mean(x: ArrayLike, window: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], count: bool) -> Any:
    array = as_array(x)
    check_image(array, len(window))
    return average_pool(array, window, stride, padding, count)


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
