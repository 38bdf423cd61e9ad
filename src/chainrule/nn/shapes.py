"""What layers ask of sizes and of the shape of their input."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ir.sizes import Dim
from chainrule.ops.known import refuse_outside
from chainrule.trace.array import Array, ArrayLike
from chainrule.trace.values import show_shape

_SPATIAL = {1: "time", 2: "height, width", 3: "depth, height, width"}


def check_size(layer: str, name: str, size: Any) -> None:
    """Raise :class:`ConfigError` unless a size that a layer is made with is an integer of at least 1."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ConfigError(f"{layer} needs {name} to be an integer of at least 1, not {size!r}")


def check_features(x: Array, features: int) -> None:
    """Raise :class:`ShapeError` unless the last axis has ``features`` positions; recognises channels-first input."""
    if x.ndim and x.shape[-1] == features:
        return
    problem = f"the last axis of the input should have size {features}, but the input has shape {show_shape(x.shape)}"
    if x.ndim >= 3 and x.shape[1] == features:
        order = (0, *range(2, x.ndim), 1)
        problem += f", which looks channels-first; put the channels last with x.transpose{order}"
    raise ShapeError(problem)


def check_lengths(lengths: ArrayLike, steps: Dim) -> None:
    """Raise :class:`DataError` for a known length of a sequence that is negative, or more than there are positions."""
    if isinstance(steps, int):
        refuse_outside(lengths, 0, steps, f"lengths of sequences of {steps} positions are 0 to {steps}")


def check_image(x: Array, rank: int, channels: int | None = None) -> None:
    """Raise :class:`ShapeError` unless x is (..., *spatial, channels) with ``rank`` spatial axes of known size."""
    lead = x.ndim - rank - 1
    if lead < 0 or not all(isinstance(size, int) for size in x.shape[lead:-1]):
        problem = (
            f"the input should have shape (batch, {_SPATIAL[rank]}, channels), but it has shape {show_shape(x.shape)}"
        )
        if x.ndim == rank + 1:
            problem += "; an image of one channel has a last axis of size 1, which x[..., None] adds"
        raise ShapeError(problem)
    if channels is not None:
        if channels == 1 != x.shape[-1] and x.ndim == rank + 1:
            raise ShapeError(
                f"the last axis of the input should have size 1, but the input has shape {show_shape(x.shape)}; if it holds "
                "images without an axis for their single channel, x[..., None] adds that"
            )
        check_features(x, channels)
