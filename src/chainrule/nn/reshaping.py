"""Layers that only move elements."""

from __future__ import annotations

from typing import Any

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
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


@operation
def _flattened(x: ArrayLike, start: int) -> Any:
    array = as_array(x)
    if array.ndim <= start:
        raise ShapeError(f"there is no axis {start} to flatten from in an input of shape {show_shape(array.shape)}")
    size: Any = 1
    for extent in array.shape[start:]:
        size = size * extent
    return array.reshape((*array.shape[:start], size))
