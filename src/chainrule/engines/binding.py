"""Binding the batch size: from the shapes of the operands to the number that the symbol B stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import ShapeError
from chainrule.ir.graph import Graph, Value
from chainrule.ir.sizes import Size, shape_at

NDArray = np.ndarray[Any, Any]


def bind_batch(graph: Graph, arrays: Sequence[NDArray]) -> int:
    """The batch size that the given arrays have, after checking every type; 1 where none mentions it.

    Raises :class:`ShapeError` naming the input whose shape or element type does not fit.
    """
    batch: int | None = None
    for value, array in zip(graph.inputs, arrays, strict=True):
        if array.ndim != value.type.rank or array.dtype != to_numpy(value.dtype):
            raise _misfit(value, array)
        if batch is None:
            batch = next(
                (_solve(dim, size) for dim, size in zip(value.shape, array.shape) if isinstance(dim, Size)), None
            )
    bound = 1 if batch is None else batch
    for value, array in zip(graph.inputs, arrays, strict=True):
        if shape_at(value.shape, bound) != array.shape:
            raise _misfit(value, array)
    return bound


def _solve(dim: Size, size: int) -> int | None:
    """The batch size at which a size of degree one takes a value."""
    if len(dim.coefficients) != 2:
        return None
    offset, slope = dim.coefficients
    return (size - offset) // slope


def _misfit(value: Value, array: NDArray) -> ShapeError:
    name = f"input {value.name!r}" if value.name else "an input"
    return ShapeError(f"{name} should be {value.type}, not {array.dtype} of shape {array.shape}")
