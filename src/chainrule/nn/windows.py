"""Layers that lay windows of images side by side, and back."""

from __future__ import annotations

from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.nn.module import Module
from chainrule.ops.convolutions import PerAxis, per_axis
from chainrule.ops.windows import fold, unfold
from chainrule.trace.array import ArrayLike


class _Windows(Module):
    """A window over as many axes as one of the settings has numbers, two where all are single numbers."""

    def __init__(
        self, kernel_size: PerAxis, dilation: PerAxis, padding: PerAxis, stride: PerAxis, rank: int = 0
    ) -> None:
        given = (kernel_size, dilation, padding, stride)
        ranks = {len(one) for one in given if isinstance(one, list | tuple)} | ({rank} if rank else set())
        if len(ranks) > 1:
            raise ConfigError(f"the settings of {type(self).__name__} are for different numbers of axes: {given}")
        (axes,) = ranks or {2}
        self.kernel_size = per_axis(kernel_size, axes, "kernel_size")
        self.dilation = per_axis(dilation, axes, "dilation")
        self.padding = per_axis(padding, axes, "padding", least=0)
        self.stride = per_axis(stride, axes, "stride")


class Unfold(_Windows):
    """What lies under a window at each place: (..., *spatial, channels) to (..., places, elements · channels).

    See :func:`chainrule.ops.unfold`. PyTorch's result is (batch, channels · elements, places). A window over other than two
    axes is given by tuples. Raises :class:`ShapeError` for a window that does not fit.
    """

    def __init__(self, kernel_size: PerAxis, dilation: PerAxis = 1, padding: PerAxis = 0, stride: PerAxis = 1) -> None:
        super().__init__(kernel_size, dilation, padding, stride)

    def forward(self, x: ArrayLike) -> Any:
        return unfold(x, self.kernel_size, self.stride, self.padding, self.dilation)


class Fold(_Windows):
    """Windows back at their places, added up: (..., places, elements · channels) to (..., *output_size, channels).

    See :func:`chainrule.ops.fold`. Raises :class:`ShapeError` for another number of places or elements.
    """

    def __init__(
        self,
        output_size: PerAxis,
        kernel_size: PerAxis,
        dilation: PerAxis = 1,
        padding: PerAxis = 0,
        stride: PerAxis = 1,
    ) -> None:
        rank = len(output_size) if isinstance(output_size, list | tuple) else 0
        super().__init__(kernel_size, dilation, padding, stride, rank)
        self.output_size = per_axis(output_size, len(self.kernel_size), "output_size")

    def forward(self, x: ArrayLike) -> Any:
        return fold(x, self.output_size, self.kernel_size, self.stride, self.padding, self.dilation)
