"""Conveniences on values that primitives leave out: promotion, broadcasting, ``-1`` in shapes, indexing.

Everything here writes primitives through a builder; arrays and operations are thin layers on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import BOOL, FLOAT32, FLOATS, INT64, INTEGERS, DType, promote
from chainrule.core.errors import ShapeError, TraceError
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction, plain
from chainrule.ir.graph import Value
from chainrule.ir.sizes import Dim, Shape, Size, divide, product


def broadcast_shapes(shapes: Sequence[Shape]) -> Shape:
    """The common shape under NumPy's rule: aligned at the last axis, a size of 1 repeats."""
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if result[axis] == 1:
                result[axis] = size
            elif size not in (1, result[axis]):
                raise ShapeError(f"shapes {' and '.join(map(show_shape, shapes))} cannot be broadcast together")
    return tuple(result)


def show_shape(shape: Shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def broadcast_to(b: Builder, x: Value, shape: Shape) -> Value:
    if x.shape == shape:
        return x
    offset = len(shape) - len(x.shape)
    for axis, size in enumerate(x.shape):
        if offset < 0 or size not in (1, shape[axis + offset]):
            raise ShapeError(f"shape {show_shape(x.shape)} cannot be broadcast to {show_shape(shape)}")
    kept = [axis for axis, size in enumerate(x.shape) if size == shape[axis + offset]]
    if len(kept) < len(x.shape):
        x = b.reshape(x, tuple(x.shape[axis] for axis in kept))
    return b.broadcast(x, shape, [axis + offset for axis in kept])


def common_dtype(operands: Sequence[tuple[DType, bool]]) -> DType:
    """The common type of (type, weak) operands. Weak ones (Python numbers) only decide between kinds, never widths."""
    strong = [dtype for dtype, weak in operands if not weak]
    if not strong:
        return promote(*(dtype for dtype, _ in operands))
    best = promote(*strong)
    for dtype, weak in operands:
        if weak and dtype in FLOATS and best not in FLOATS:
            best = FLOAT32
        elif weak and dtype in INTEGERS and best == BOOL:
            best = INT64
    return best


def normal_axes(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes as an ascending tuple of non-negative numbers; None means all."""
    if axes is None:
        return tuple(range(rank))
    given = (axes,) if isinstance(axes, int | np.integer) else tuple(axes)
    for axis in given:
        if not -rank <= axis < rank:
            raise ShapeError(f"axis {axis} does not exist in an array of rank {rank}")
    found = sorted(axis % rank for axis in given)
    if len(set(found)) != len(found):
        raise ShapeError(f"an axis is named twice in {given}")
    return tuple(int(axis) for axis in found)


def normal_axis(axis: int, rank: int) -> int:
    """An axis as a non-negative number."""
    return normal_axes(int(axis), rank)[0]


def restore_axes(b: Builder, x: Value, shape: Shape, axes: Sequence[int]) -> Value:
    """Give reduced axes back with size 1."""
    return b.reshape(x, tuple(1 if axis in axes else size for axis, size in enumerate(shape)))


def reshape(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    """Reshape; one size may be -1 and is inferred."""
    wanted = tuple(shape)
    unknown = [axis for axis, size in enumerate(wanted) if isinstance(size, int) and size == -1]
    if len(unknown) > 1:
        raise ShapeError("only one size of a reshape can be -1")
    if unknown:
        rest = product(size for axis, size in enumerate(wanted) if axis != unknown[0])
        size = divide(product(x.shape), rest)
        if size is None:
            raise ShapeError(f"an array of shape {show_shape(x.shape)} cannot be reshaped to {show_shape(wanted)}")
        wanted = (*wanted[: unknown[0]], size, *wanted[unknown[0] + 1 :])
    if product(wanted) != product(x.shape):
        raise ShapeError(f"an array of shape {show_shape(x.shape)} cannot be reshaped to {show_shape(wanted)}")
    return b.reshape(x, wanted)


def matmul(b: Builder, x: Value, y: Value) -> Value:
    """The matrix product with NumPy's rules for vectors and for broadcasting over leading axes."""
    from_vector, to_vector = len(x.shape) == 1, len(y.shape) == 1
    if not x.shape or not y.shape:
        raise ShapeError("a matrix product needs arrays of rank 1 or more; multiply by a number with *")
    if x.shape[-1] != y.shape[0 if to_vector else -2]:
        raise ShapeError(
            f"matrices of shapes {show_shape(x.shape)} and {show_shape(y.shape)} cannot be multiplied: the last size "
            f"of the first is {x.shape[-1]}, but the second expects {y.shape[0 if to_vector else -2]}"
        )
    rows = () if from_vector else (x.shape[-2],)
    columns = () if to_vector else (y.shape[-1],)
    lead_x, lead_y = x.shape[:-2], y.shape[:-2]
    lead = broadcast_shapes([lead_x, lead_y])
    return b.contract(_matmul_spec(lead, lead_x, lead_y, rows, columns, x.shape[-1]), x, y)


def _matmul_spec(lead: Shape, lead_x: Shape, lead_y: Shape, rows: Shape, columns: Shape, inner: Dim) -> Contraction:
    from_lead = range(len(lead))
    row = len(lead)
    column = row + len(rows)
    k = column + len(columns)

    def leading(shape: Shape) -> list[Affine]:
        offset = len(lead) - len(shape)
        return [
            Affine() if size == 1 != lead[axis + offset] else plain(axis + offset)[0] for axis, size in enumerate(shape)
        ]

    rows_map, columns_map = plain(*range(row, column)), plain(*range(column, k))
    return Contraction(
        (*lead, *rows, *columns, inner),
        (*plain(*from_lead), *rows_map, *columns_map),
        (*leading(lead_x), *rows_map, *plain(k)),
        (*leading(lead_y), *plain(k), *columns_map),
        (*lead, *rows, *columns),
    )


def index(b: Builder, x: Value, key: Any) -> Value:
    """NumPy's basic indexing with integers, slices, None and Ellipsis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    for item in keys:
        if isinstance(item, bool) or not (
            item is None or item is Ellipsis or isinstance(item, int | np.integer | slice)
        ):
            raise TraceError(
                "traced arrays are indexed with integers, slices, None and Ellipsis; for positions in an array use "
                "chainrule.take, and instead of a boolean mask chainrule.where"
            )
    taken = sum(item is not None and item is not Ellipsis for item in keys)
    if taken > len(x.shape):
        raise ShapeError(f"{taken} indices are too many for an array of shape {show_shape(x.shape)}")
    if sum(item is Ellipsis for item in keys) > 1:
        raise ShapeError("an index can have only one Ellipsis (...)")
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    gap = keys.index(Ellipsis)
    keys[gap : gap + 1] = [slice(None)] * (len(x.shape) - taken)
    axis = 0
    shape: list[Dim] = []
    for item in keys:
        if item is None:
            shape.append(1)
            continue
        if isinstance(item, slice):
            x = _slice_axis(b, x, axis, item)
            shape.append(x.shape[axis])
        else:
            x = _pick(b, x, axis, int(item))
        axis += 1
    return b.reshape(x, tuple(shape)) if tuple(shape) != x.shape else x


def _slice_axis(b: Builder, x: Value, axis: int, item: slice) -> Value:
    size = x.shape[axis]
    if item == slice(None):
        return x
    if isinstance(size, Size):
        if item == slice(None, None, -1):
            return b.flip(x, (axis,))
        raise TraceError(f"axis {axis} has the symbolic batch size {size} and can only be taken whole")
    start, stop, step = item.indices(size)
    positions = range(start, stop, step)
    if not positions:
        start, stop, step = 0, 0, 1
    elif step < 0:
        start, stop, step = positions[-1], positions[0] + 1, -step
    starts = [start if k == axis else 0 for k in range(len(x.shape))]
    limits = [stop if k == axis else dim for k, dim in enumerate(x.shape)]
    strides = [step if k == axis else 1 for k in range(len(x.shape))]
    taken = b.slice(x, starts, limits, strides)
    return b.flip(taken, (axis,)) if positions and positions.step < 0 else taken


def _pick(b: Builder, x: Value, axis: int, position: int) -> Value:
    """One position of an axis, which keeps size 1."""
    size = x.shape[axis]
    if isinstance(size, int):
        if not -size <= position < size:
            raise ShapeError(f"index {position} is outside axis {axis} of size {size}")
        return _slice_axis(b, x, axis, slice(position % size, position % size + 1))
    place = b.constant(position, INT64)
    if position < 0:
        place = b.add(place, b.extent(size))
    return take(b, x, b.reshape(place, (1,)), axis)


def take(b: Builder, x: Value, indices: Value, axis: int) -> Value:
    """``x`` at the given positions of an axis, which is replaced by the axes of ``indices``."""
    rank, inner = len(x.shape), len(indices.shape)
    front = [axis, *(k for k in range(rank) if k != axis)]
    taken = b.gather(x if axis == 0 else b.transpose(x, front), indices)
    if axis == 0:
        return taken
    before = [inner + k for k in range(axis)]
    after = [inner + k for k in range(axis, rank - 1)]
    return b.transpose(taken, [*before, *range(inner), *after])
