"""Making, reducing, rearranging and indexing arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.dtypes import FLOAT32, FLOATS, INT64, dtype_name
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.ir.contraction import Contraction
from chainrule.ir.sizes import Dim
from chainrule.trace import values
from chainrule.trace.array import Array, ArrayLike, Axes, as_array, operation
from chainrule.trace.array import extent as _extent
from chainrule.trace.context import Context, current

Shape = int | Sequence[Any]


def _context() -> Context:
    context = current()
    assert context is not None
    return context


def _shape(shape: Shape) -> tuple[Dim, ...]:
    return (shape,) if isinstance(shape, int | np.integer) else tuple(shape)


@operation
def full(shape: Shape, value: ArrayLike, dtype: npt.DTypeLike | None = None) -> Any:
    """An array of one value."""
    wanted = None if dtype is None else dtype_name(dtype)
    if wanted is None and isinstance(value, float):
        wanted = FLOAT32
    filled = as_array(value, wanted)
    return Array(values.broadcast_to(filled.home, filled.value, _shape(shape)), filled.home)


@operation
def zeros(shape: Shape, dtype: npt.DTypeLike = FLOAT32) -> Any:
    """An array of zeros."""
    return full(shape, 0, dtype)


@operation
def ones(shape: Shape, dtype: npt.DTypeLike = FLOAT32) -> Any:
    """An array of ones."""
    return full(shape, 1, dtype)


@operation
def arange(size: Any, dtype: npt.DTypeLike = INT64) -> Any:
    """``0, 1, ..., size - 1``; the size may be the symbolic batch size."""
    b = _context()
    return Array(b.iota((size,), 0, dtype_name(dtype)), b)


@operation
def extent(size: Any, dtype: npt.DTypeLike = INT64) -> Any:
    """A size as a scalar array, also where it is the symbolic batch size."""
    return _extent(size, dtype_name(dtype))


@operation
def sum(x: ArrayLike, axis: Axes = None, keepdims: bool = False) -> Any:
    """The sum over axes (all by default)."""
    return as_array(x).sum(axis, keepdims)


@operation
def mean(x: ArrayLike, axis: Axes = None, keepdims: bool = False) -> Any:
    """The mean over axes (all by default)."""
    return as_array(x).mean(axis, keepdims)


@operation
def var(x: ArrayLike, axis: Axes = None, keepdims: bool = False) -> Any:
    """The variance ``mean((x - mean(x))²)`` over axes, dividing by n."""
    array = as_array(x)
    centred = array - array.mean(axis, keepdims=True)
    return (centred * centred).mean(axis, keepdims)


@operation
def max(x: ArrayLike, axis: Axes = None, keepdims: bool = False) -> Any:
    """The largest over axes; NaN if any is. Equal largest elements share the gradient."""
    return as_array(x).max(axis, keepdims)


@operation
def min(x: ArrayLike, axis: Axes = None, keepdims: bool = False) -> Any:
    """The smallest over axes; NaN if any is. Equal smallest elements share the gradient."""
    return as_array(x).min(axis, keepdims)


@operation
def argmax(x: ArrayLike, axis: int = -1) -> Any:
    """The first position of the largest element along an axis, as int64."""
    return as_array(x).argmax(axis)


@operation
def reshape(x: ArrayLike, shape: Shape) -> Any:
    """The same elements in row-major order in another shape; one size may be -1."""
    return as_array(x).reshape(_shape(shape))


@operation
def transpose(x: ArrayLike, axes: Sequence[int] | None = None) -> Any:
    """Axes in another order; reversed by default."""
    array = as_array(x)
    return array.transpose(axes) if axes is not None else array.transpose()


@operation
def broadcast_to(x: ArrayLike, shape: Shape) -> Any:
    """x repeated along new axes and axes of size 1."""
    array = as_array(x)
    return Array(values.broadcast_to(array.home, array.value, _shape(shape)), array.home, array.weak)


@operation
def flip(x: ArrayLike, axis: Axes = None) -> Any:
    """x reversed along axes."""
    array = as_array(x)
    return Array(array.home.flip(array.value, values.normal_axes(axis, array.ndim)), array.home, array.weak)


@operation
def concatenate(xs: Sequence[ArrayLike], axis: int = 0) -> Any:
    """Arrays one after another along an axis that they have."""
    arrays = [as_array(x) for x in xs]
    if not arrays:
        raise ShapeError("there is nothing to concatenate")
    b = arrays[0].home
    dtype = values.common_dtype([(a.value.dtype, a.weak) for a in arrays])
    (where,) = values.normal_axes(axis, arrays[0].ndim)
    joined = b.concatenate([b.as_type(a.value, dtype) for a in arrays], where)
    return Array(joined, b, all(a.weak for a in arrays))


@operation
def stack(xs: Sequence[ArrayLike], axis: int = 0) -> Any:
    """Arrays of one shape along a new axis."""
    arrays = [as_array(x) for x in xs]
    if not arrays:
        raise ShapeError("there is nothing to stack")
    place = values.normal_axis(axis, arrays[0].ndim + 1)
    return concatenate([a.reshape((*a.shape[:place], 1, *a.shape[place:])) for a in arrays], place)


@operation
def take(x: ArrayLike, indices: ArrayLike, axis: int = 0) -> Any:
    """x at positions of an axis, which is replaced by the axes of ``indices``. Positions outside [0, size) read as 0."""
    array, places = as_array(x), as_array(indices)
    (where,) = values.normal_axes(axis, array.ndim)
    return Array(values.take(array.home, array.value, places.value, where), array.home)


@operation
def take_along(x: ArrayLike, indices: ArrayLike) -> Any:
    """``out[b] = x[b, indices[b]]`` for every position b of the leading axes: one element of the last axis each."""
    array, places = as_array(x), as_array(indices)
    return Array(array.home.gather(array.value, places.value, places.ndim), array.home)


@operation
def scatter_add(x: ArrayLike, indices: ArrayLike, size: Any) -> Any:
    """``out[indices[j]] += x[j]`` into zeros with ``size`` rows: the sum of the rows of each group."""
    array, places = as_array(x), as_array(indices)
    return Array(array.home.scatter_add(array.value, places.value, size), array.home)


@operation
def one_hot(labels: ArrayLike, classes: int, dtype: npt.DTypeLike = FLOAT32) -> Any:
    """A new last axis with 1 at the label and 0 elsewhere; all 0 for labels outside [0, classes)."""
    places = as_array(labels)
    if places.value.dtype in FLOATS:
        raise DTypeError(f"one_hot needs integer labels, not {places!r}")
    count = Array(places.home.iota((classes,), 0, places.value.dtype), places.home)
    return (places.reshape((*places.shape, 1)) == count).astype(dtype)


@operation
def contract(spec: Contraction, x: ArrayLike, y: ArrayLike) -> Any:
    """The general contraction ``out[γ(i)] += x[α(i)]·y[β(i)]``; see :class:`chainrule.ir.contraction.Contraction`."""
    left, right = as_array(x), as_array(y)
    dtype = values.common_dtype([(left.value.dtype, left.weak), (right.value.dtype, right.weak)])
    b = left.home
    return Array(b.contract(spec, b.as_type(left.value, dtype), b.as_type(right.value, dtype)), b)
