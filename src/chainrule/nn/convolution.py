"""Convolution layers, channels last."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.initialisers import Initialiser, glorot_uniform
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_image, check_size
from chainrule.ops.convolutions import (
    Padding,
    PaddingMode,
    PerAxis,
    check_padding_mode,
    convolution,
    padding_pairs,
    per_axis,
    transposed_convolution,
)
from chainrule.trace.array import ArrayLike, as_array, operation


class _Convolution(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        *,
        init: Initialiser = glorot_uniform,
        key: Any = None,
    ) -> None:
        _check_channels(type(self).__name__, in_channels, out_channels, groups)
        check_padding_mode(type(self).__name__, padding_mode)
        self.padding_mode = padding_mode
        self.stride = per_axis(stride, self.rank, "stride")
        self.padding = _padding(padding, self.rank)
        self.dilation = per_axis(dilation, self.rank, "dilation")
        self.groups = int(groups)
        kernel = per_axis(kernel_size, self.rank, "kernel_size")
        self.weight = _weight(type(self).__name__, (*kernel, in_channels // groups, out_channels), init, key)
        self.bias = np.zeros(out_channels, np.float32) if bias else None

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[-2]) * self.groups

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[-1])

    def forward(self, x: ArrayLike) -> Any:
        settings = self.stride, self.padding, self.dilation, self.groups, self.padding_mode
        return _convolved(x, self.weight, self.bias, *settings)


class Conv1d(_Convolution):
    """A convolution along sequences, (..., time, in_channels) to (..., positions, out_channels); see :class:`Conv2d`."""

    rank = 1


class Conv2d(_Convolution):
    """``y[..., o, p, m] = b[m] + Σ x[..., s·o + d·i - before, s·p + d·j - before, c] · weight[i, j, c, m]`` over i, j and c.

    Input is (..., height, width, in_channels), usually with the batch in front; an axis of the output has ``⌊(size +
    padding - dilation·(kernel - 1) - 1) / stride⌋ + 1`` positions. ``padding`` is a number for both sides of all axes,
    one for each axis or a pair (before, after) for each, "valid" for none, or "same" for ``ceil(size / stride)``
    positions. ``padding_mode`` says what lies there: "zeros", or the image mirrored ("reflect"), its edge repeated
    ("replicate") or its other end ("circular"). ``groups`` cuts the channels into runs that do not see each other;
    ``groups=in_channels`` is a depthwise convolution.

    ``weight`` has shape (height, width, in_channels / groups, out_channels), as in Keras; PyTorch's (out, in / groups,
    height, width) becomes ours by ``transpose(2, 3, 1, 0)``. Weights start from ``init``, Glorot's uniform by default
    as in :class:`Linear`; before ReLUs use ``he_normal``. The bias starts at 0. LeCun et al., Proc. IEEE 1998. Raises
    :class:`ShapeError` for another number of channels, a missing axis, and a window that is larger than the padded
    input.
    """

    rank = 2


class Conv3d(_Convolution):
    """A convolution of volumes, (..., depth, height, width, in_channels); see :class:`Conv2d`."""

    rank = 3


class _TransposedConvolution(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: PerAxis = 1,
        *,
        init: Initialiser = glorot_uniform,
        key: Any = None,
    ) -> None:
        name = type(self).__name__
        _check_channels(name, in_channels, out_channels, groups)
        self.stride = per_axis(stride, self.rank, "stride")
        self.padding = _padding(padding, self.rank)
        self.output_padding = per_axis(output_padding, self.rank, "output_padding", least=0)
        self.dilation = per_axis(dilation, self.rank, "dilation")
        self.groups = int(groups)
        steps = zip(self.output_padding, self.stride, self.dilation)
        if any(more >= max(step, reach) for more, step, reach in steps):
            raise ConfigError(
                f"{name} needs output_padding below the stride or the dilation, not {output_padding!r} with stride {stride!r}"
            )
        kernel = per_axis(kernel_size, self.rank, "kernel_size")
        self.weight = _weight(name, (*kernel, in_channels, out_channels // groups), init, key)
        self.bias = np.zeros(out_channels, np.float32) if bias else None

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[-2])

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[-1]) * self.groups

    def forward(self, x: ArrayLike) -> Any:
        return _transposed(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups, self.output_padding
        )


class ConvTranspose1d(_TransposedConvolution):
    """A transposed convolution along sequences, (..., time, in_channels); see :class:`ConvTranspose2d`."""

    rank = 1


class ConvTranspose2d(_TransposedConvolution):
    """``y[..., s·o + d·i - before, s·p + d·j - before, m] += x[..., o, p, c] · weight[i, j, c, m]``, plus the bias.

    The map of a convolution's output gradient to its input gradient, used to enlarge images: an axis of the output has
    ``stride·(size - 1) + dilation·(kernel - 1) + 1 - padding + output_padding`` positions. Input is (..., height,
    width, in_channels). ``weight`` has shape (height, width, in_channels, out_channels / groups); PyTorch's (in, out /
    groups, height, width) becomes ours by ``transpose(2, 3, 0, 1)``. Arguments are in PyTorch's order. Zeiler et al.,
    CVPR 2010. Errors are those of :class:`Conv2d`.
    """

    rank = 2


class ConvTranspose3d(_TransposedConvolution):
    """A transposed convolution of volumes, (..., depth, height, width, in_channels); see :class:`ConvTranspose2d`."""

    rank = 3


def _check_channels(layer: str, in_channels: int, out_channels: int, groups: int) -> None:
    for name, size in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        check_size(layer, name, size)
    for name, size in (("in_channels", in_channels), ("out_channels", out_channels)):
        if size % groups:
            raise ConfigError(f"{layer} cannot cut {name}={size} into groups={groups}; it should be a multiple")


def _padding(padding: Any, rank: int) -> Any:
    """Padding as it was given, checked, and such that it can be hashed."""
    if padding != "same":
        padding_pairs(padding, rank)
    return _setting(padding)


def _setting(padding: Any) -> Any:
    return tuple(map(_setting, padding)) if isinstance(padding, list | tuple) else padding


def _weight(layer: str, shape: tuple[int, ...], init: Initialiser, key: Any) -> Any:
    weight = init(shape, key=key)
    if weight.shape != shape:
        raise ShapeError(f"the initialiser of {layer} returned shape {weight.shape} when asked for {shape}")
    return weight


@operation
def _convolved(
    x: ArrayLike, weight: ArrayLike, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, mode: PaddingMode
) -> Any:
    array, window = as_array(x), as_array(weight)
    check_image(array, window.ndim - 2, int(window.shape[-2]) * groups)
    y = convolution(array, window, stride, padding, dilation, groups, mode)
    return y if bias is None else y + bias


@operation
def _transposed(
    x: ArrayLike, weight: ArrayLike, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, more: Any
) -> Any:
    array, window = as_array(x), as_array(weight)
    check_image(array, window.ndim - 2, int(window.shape[-2]))
    y = transposed_convolution(array, window, stride, padding, dilation, groups, more)
    return y if bias is None else y + bias
