"""Pooling layers: maxima and means over windows of (..., *spatial, channels)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_image, check_size
from chainrule.ops.convolutions import PerAxis, per_axis
from chainrule.ops.pooling import adaptive_average_pool, adaptive_max_pool, average_pool, max_pool, power_pool
from chainrule.ops.unpooling import max_unpool
from chainrule.trace.array import Array, ArrayLike, as_array, operation
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
        return_indices: bool = False,
    ) -> None:
        self.dilation = per_axis(dilation, self.rank, "dilation")
        self.kernel_size, self.stride, self.padding = _windows(
            type(self).__name__, self.rank, kernel_size, stride, padding, self.dilation
        )
        self.ceil_mode = bool(ceil_mode)
        self.return_indices = bool(return_indices)

    def forward(self, x: ArrayLike) -> Any:
        settings = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return _largest(x, *settings, return_indices=self.return_indices)


class MaxPool1d(_MaxPool):
    """The largest of each channel under a window along (..., time, channels); see :class:`MaxPool2d`."""

    rank = 1


class MaxPool2d(_MaxPool):
    """``y[..., o, p, c] = max x[..., s·o + d·i - padding, s·p + d·j - padding, c]`` over the window's i and j.

    Input is (..., height, width, channels). The stride is by default the window's size, so that windows lie side by
    side; an axis of the output has ``⌊(size + 2·padding - dilation·(kernel - 1) - 1) / stride⌋ + 1`` positions, and what
    is left over is not read, or with ``ceil_mode`` by one more window that begins in the image. Padding never wins and
    is at most half of the window. Where several elements are the largest the first, row by row, gets the whole
    gradient, as in PyTorch. With ``return_indices`` a call returns ``(y, indices)``: for each y the number of the
    position it came from, counted row by row (int64), which :class:`MaxUnpool2d` takes.
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
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.stride, self.padding = _windows(
            type(self).__name__, self.rank, kernel_size, stride, padding
        )
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        if divisor_override is not None:
            check_size(type(self).__name__, "divisor_override", divisor_override)
        self.divisor_override = divisor_override

    def forward(self, x: ArrayLike) -> Any:
        divisor = self.count_include_pad, self.ceil_mode, self.divisor_override
        return _mean(x, self.kernel_size, self.stride, self.padding, *divisor)


class AvgPool1d(_AvgPool):
    """The mean of each channel under a window along (..., time, channels); see :class:`AvgPool2d`."""

    rank = 1


class AvgPool2d(_AvgPool):
    """The mean of each channel under a window of (..., height, width, channels), with the shapes of :class:`MaxPool2d`.

    Padding is zeros. With ``count_include_pad`` the sum is divided by the number of the window's positions that lie in
    the padded image, otherwise by those that lie in the image; ``divisor_override`` is a number to divide by instead.
    Arguments are in PyTorch's order.
    """

    rank = 2


class AvgPool3d(_AvgPool):
    """The mean of each channel under a window of (..., depth, height, width, channels); see :class:`AvgPool2d`."""

    rank = 3


class _PowerPool(Module):
    rank: ClassVar[int]

    def __init__(
        self, norm_type: float, kernel_size: PerAxis, stride: PerAxis | None = None, ceil_mode: bool = False
    ) -> None:
        if not norm_type:
            raise ConfigError(f"{type(self).__name__} needs a norm_type other than 0")
        self.norm_type = float(norm_type)
        self.kernel_size, self.stride, _ = _windows(type(self).__name__, self.rank, kernel_size, stride, 0)
        self.ceil_mode = bool(ceil_mode)

    def forward(self, x: ArrayLike) -> Any:
        return _norm(x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class LPPool1d(_PowerPool):
    """``(Σ x**p)**(1/p)`` of each channel under a window along (..., time, channels); see :class:`LPPool2d`."""

    rank = 1


class LPPool2d(_PowerPool):
    """``(Σ x**p)**(1/p)`` of each channel under a window of (..., height, width, channels), for ``p = norm_type``.

    Shapes are those of :class:`MaxPool2d` without padding; see :func:`chainrule.ops.power_pool`.
    """

    rank = 2


class LPPool3d(_PowerPool):
    """``(Σ x**p)**(1/p)`` of each channel under a window of volumes; see :class:`LPPool2d`."""

    rank = 3


class _AdaptivePool(Module):
    rank: ClassVar[int]

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        given: Sequence[Any] = output_size if isinstance(output_size, list | tuple) else (output_size,) * self.rank
        known = per_axis([1 if size is None else size for size in given], self.rank, "output_size")
        self.output_size = tuple(None if size is None else n for size, n in zip(given, known, strict=True))


class AdaptiveAvgPool1d(_AdaptivePool):
    """The mean under ``output_size`` windows along (..., time, channels); see :class:`AdaptiveAvgPool2d`."""

    rank = 1

    def forward(self, x: ArrayLike) -> Any:
        return _adapted_mean(x, self.output_size)


class AdaptiveAvgPool2d(AdaptiveAvgPool1d):
    """The mean under windows that cover (..., height, width, channels) in ``output_size`` places along each axis.

    Place o of n along an axis of a given size covers the positions from ``⌊o·size/n⌋`` to before ``⌈(o+1)·size/n⌉``, as
    in PyTorch. None in place of a number leaves an axis as it is.
    """

    rank = 2


class AdaptiveAvgPool3d(AdaptiveAvgPool1d):
    """The mean under windows of (..., depth, height, width, channels), placed as by :class:`AdaptiveAvgPool2d`."""

    rank = 3


class AdaptiveMaxPool1d(_AdaptivePool):
    """The largest under ``output_size`` windows along (..., time, channels), placed as by :class:`AdaptiveAvgPool2d`.

    ``return_indices`` as in :class:`MaxPool2d`.
    """

    rank = 1

    def __init__(self, output_size: int | Sequence[int | None] | None, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = bool(return_indices)

    def forward(self, x: ArrayLike) -> Any:
        return _adapted_largest(x, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(AdaptiveMaxPool1d):
    """The largest under windows placed as by :class:`AdaptiveAvgPool2d`; of equal ones the first gets the gradient."""

    rank = 2


class AdaptiveMaxPool3d(AdaptiveMaxPool1d):
    """The largest under windows of (..., depth, height, width, channels), placed as by :class:`AdaptiveAvgPool2d`."""

    rank = 3


class _MaxUnpool(Module):
    rank: ClassVar[int]

    def __init__(self, kernel_size: PerAxis, stride: PerAxis | None = None, padding: PerAxis = 0) -> None:
        self.kernel_size, self.stride, self.padding = _windows(
            type(self).__name__, self.rank, kernel_size, stride, padding
        )

    def forward(self, x: ArrayLike, indices: ArrayLike, output_size: PerAxis | None = None) -> Any:
        return _unpooled(x, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool1d(_MaxUnpool):
    """The largest of (..., time, channels) back where :class:`MaxPool1d` found them; see :class:`MaxUnpool2d`."""

    rank = 1


class MaxUnpool2d(_MaxUnpool):
    """``y[..., indices, c] = x``, zeros elsewhere: what ``MaxPool2d(..., return_indices=True)`` found, back at its positions.

    ``layer(x, indices, output_size=None)`` takes what that layer returned; arguments are those of the pool. An axis of the
    output has ``(size - 1)·stride - 2·padding + kernel`` positions, or the ``output_size``, which may differ from that by
    less than a stride, because a pool does not read what is left over. See :func:`chainrule.ops.max_unpool` for windows that
    overlap, and the errors.
    """

    rank = 2


class MaxUnpool3d(_MaxUnpool):
    """The largest of volumes back where :class:`MaxPool3d` found them; see :class:`MaxUnpool2d`."""

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
def _largest(x: ArrayLike, window: tuple[int, ...], *settings: Any, return_indices: bool) -> Any:
    array = as_array(x)
    check_image(array, len(window))
    return max_pool(array, window, *settings, return_indices=return_indices)


@operation
def _mean(x: ArrayLike, window: tuple[int, ...], *settings: Any) -> Any:
    array = as_array(x)
    check_image(array, len(window))
    return average_pool(array, window, *settings)


@operation
def _norm(x: ArrayLike, p: float, window: tuple[int, ...], *settings: Any) -> Any:
    array = as_array(x)
    check_image(array, len(window))
    return power_pool(array, p, window, *settings)


@operation
def _adapted_mean(x: ArrayLike, places: tuple[int | None, ...]) -> Any:
    array = as_array(x)
    return adaptive_average_pool(array, _known(array, places))


@operation
def _adapted_largest(x: ArrayLike, places: tuple[int | None, ...], return_indices: bool) -> Any:
    array = as_array(x)
    return adaptive_max_pool(array, _known(array, places), return_indices=return_indices)


def _known(x: Array, places: tuple[int | None, ...]) -> list[int]:
    """The numbers of places, those of the image where there is none."""
    check_image(x, len(places))
    sizes = x.shape[-len(places) - 1 : -1]
    return [int(size) if wanted is None else wanted for size, wanted in zip(sizes, places, strict=True)]


@operation
def _unpooled(
    x: ArrayLike,
    indices: ArrayLike,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    wanted: PerAxis | None,
) -> Any:
    array = as_array(x)
    rank = len(kernel)
    check_image(array, rank)
    axes = zip(array.shape[-rank - 1 : -1], kernel, stride, padding, strict=True)
    usual = [(int(n) - 1) * s - 2 * p + k for n, k, s, p in axes]
    sizes = tuple(usual) if wanted is None else per_axis(wanted, rank, "output_size")
    if any(abs(size - n) >= s for size, n, s in zip(sizes, usual, stride, strict=True)) or min(sizes) < 1:
        raise ShapeError(
            f"a pool with windows {kernel} and stride {stride} makes {show_shape(array.shape)} of images near the size "
            f"{tuple(usual)}, not {sizes}"
        )
    return max_unpool(array, indices, sizes)


@operation
def _overall_mean(x: ArrayLike) -> Any:
    array = as_array(x)
    if array.ndim < 3:
        raise ShapeError(
            f"the input should have shape (batch, *spatial, channels), but it has shape {show_shape(array.shape)}"
        )
    return array.mean(tuple(range(1, array.ndim - 1)))
