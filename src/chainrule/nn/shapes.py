"""What layers ask of the shape of their input."""

from __future__ import annotations

from chainrule.core.errors import ShapeError
from chainrule.trace.array import Array
from chainrule.trace.values import show_shape


def check_features(x: Array, features: int) -> None:
    """Raise :class:`ShapeError` unless the last axis has ``features`` positions; recognises channels-first input."""
    if x.ndim and x.shape[-1] == features:
        return
    problem = f"the last axis of the input should have size {features}, but the input has shape {show_shape(x.shape)}"
    if x.ndim >= 3 and x.shape[1] == features:
        order = (0, *range(2, x.ndim), 1)
        problem += f", which looks channels-first; put the channels last with x.transpose{order}"
    raise ShapeError(problem)
