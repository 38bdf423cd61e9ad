"""The contraction on NumPy: strided views of the operands, one matrix product, and a placement of the result.

An affine read becomes a strided view of the (zero-padded, where reads fall outside) operand, so any contraction turns into a
product summed over the indices that the output does not use. An affine write becomes strided additions into a padded result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chainrule.ir.contraction import Affine, Contraction
from chainrule.ir.sizes import at, shape_at

NDArray = np.ndarray[Any, Any]
Labels = tuple[int, ...]
Move = Callable[[NDArray], NDArray]


def plan_contraction(
    spec: Contraction, a_shape: Sequence[int], b_shape: Sequence[int], batch: int
) -> Callable[..., NDArray]:
    """Everything that can be decided before the operands are there; returns the function of the two operands."""
    extents = tuple(at(extent, batch) for extent in spec.extents)
    shape = shape_at(spec.shape, batch)
    if 0 in extents or 0 in shape:
        return lambda a, b: np.zeros(shape, a.dtype)
    a_view, a_labels = _plan_read(spec.a, tuple(a_shape), extents)
    b_view, b_labels = _plan_read(spec.b, tuple(b_shape), extents)
    wanted = _labels(spec.out)
    multiply = _plan_product(a_labels, b_labels, wanted, extents)
    place = _plan_write(spec.out, shape, wanted, extents)
    return lambda a, b: place(multiply(a_view(a), b_view(b)))


def _labels(index_map: tuple[Affine, ...]) -> Labels:
    """The box indices that a map uses, in order of first use."""
    return tuple(dict.fromkeys(index for coordinate in index_map for index, _ in coordinate.terms))


def _is_plain(index_map: tuple[Affine, ...], shape: tuple[int, ...], extents: tuple[int, ...]) -> bool:
    indices = [coordinate.plain for coordinate in index_map]
    return len(set(indices)) == len(indices) and all(
        index is not None and extents[index] == size for index, size in zip(indices, shape, strict=True)
    )


def _margins(coordinate: Affine, size: int, extents: tuple[int, ...]) -> tuple[int, int]:
    """How far a coordinate reaches below 0 and beyond the size."""
    low = coordinate.offset + sum(min(0, c * (extents[i] - 1)) for i, c in coordinate.terms)
    high = coordinate.offset + sum(max(0, c * (extents[i] - 1)) for i, c in coordinate.terms)
    return max(0, -low), max(0, high - size + 1)


def _plan_read(index_map: tuple[Affine, ...], shape: tuple[int, ...], extents: tuple[int, ...]) -> tuple[Move, Labels]:
    labels = _labels(index_map)
    if _is_plain(index_map, shape, extents):
        return lambda x: x, labels
    margins = [_margins(c, size, extents) for c, size in zip(index_map, shape, strict=True)]
    padded = any(low or high for low, high in margins)
    corner = tuple(slice(c.offset + low, None) for c, (low, _) in zip(index_map, margins, strict=True))
    coefficients = [
        [(axis, c) for axis, m in enumerate(index_map) for i, c in m.terms if i == label] for label in labels
    ]
    view_shape = tuple(extents[label] for label in labels)

    def read(x: NDArray) -> NDArray:
        base = np.pad(x, margins) if padded else x
        strides = tuple(sum(c * base.strides[axis] for axis, c in terms) for terms in coefficients)
        return np.lib.stride_tricks.as_strided(base[corner], view_shape, strides, writeable=False)

    return read, labels


def _plan_product(
    a: Labels, b: Labels, wanted: Labels, extents: tuple[int, ...]
) -> Callable[[NDArray, NDArray], NDArray]:
    """The product of two labelled arrays, summed over the labels that are not wanted, in the order wanted."""
    both = set(a) & set(b)
    lone_a = tuple(axis for axis, i in enumerate(a) if i not in both and i not in wanted)
    lone_b = tuple(axis for axis, i in enumerate(b) if i not in both and i not in wanted)
    a_kept = tuple(i for i in a if i in both or i in wanted)
    b_kept = tuple(i for i in b if i in both or i in wanted)
    repeat = math.prod(extents[i] for i in range(len(extents)) if i not in (*a, *b, *wanted))
    core = _plan_matmul(a_kept, b_kept, wanted, extents)
    shape = tuple(extents[i] for i in wanted)

    def multiply(x: NDArray, y: NDArray) -> NDArray:
        if lone_a:
            x = x.sum(lone_a, dtype=x.dtype)
        if lone_b:
            y = y.sum(lone_b, dtype=y.dtype)
        result = core(x, y)
        if repeat != 1:
            result = result * result.dtype.type(repeat)
        return result if result.shape == shape else np.array(np.broadcast_to(result, shape))

    return multiply


def _plan_matmul(
    a: Labels, b: Labels, wanted: Labels, extents: tuple[int, ...]
) -> Callable[[NDArray, NDArray], NDArray]:
    """Labels of both operands that are wanted are batch axes, the others of both are summed: a batched matrix product."""
    # In the order of the box, so that the order of summation does not depend on how the operands are laid out.
    summed = sorted(i for i in a if i in b and i not in wanted)
    if not summed:
        return _plan_elementwise(a, b, wanted)
    batch = [i for i in wanted if i in a and i in b]
    rows = [i for i in wanted if i in a and i not in b]
    columns = [i for i in wanted if i in b and i not in a]
    present = [i for i in wanted if i in a or i in b]
    # Put the operand that owns the last wanted index on the right, so that the product comes out nearly in order.
    swapped = bool(rows) and present[-1] in rows
    if swapped:
        a, b, rows, columns = b, a, columns, rows
    a_order = [a.index(i) for i in (*batch, *rows, *summed)]
    b_order = [b.index(i) for i in (*batch, *summed, *columns)]
    sizes = [math.prod(extents[i] for i in group) for group in (batch, rows, summed, columns)]
    a_shape = (sizes[1], sizes[2]) if not batch else (sizes[0], sizes[1], sizes[2])
    b_shape = (sizes[2], sizes[3]) if not batch else (sizes[0], sizes[2], sizes[3])
    labels = [*batch, *rows, *columns]
    full = tuple(extents[i] for i in labels)
    order = [labels.index(i) for i in present]
    final = tuple(extents[i] if i in present else 1 for i in wanted)
    in_order = order == list(range(len(order))) and final == full

    def multiply(x: NDArray, y: NDArray) -> NDArray:
        if swapped:
            x, y = y, x
        product: NDArray = np.matmul(x.transpose(a_order).reshape(a_shape), y.transpose(b_order).reshape(b_shape))
        if in_order:
            return product.reshape(full)
        return product.reshape(full).transpose(order).reshape(final)

    return multiply


def _plan_elementwise(a: Labels, b: Labels, wanted: Labels) -> Callable[[NDArray, NDArray], NDArray]:
    def spread(labels: Labels) -> Move:
        order = [labels.index(i) for i in wanted if i in labels]
        index = tuple(slice(None) if i in labels else np.newaxis for i in wanted)
        return lambda x: x.transpose(order)[index]

    spread_a, spread_b = spread(a), spread(b)
    return lambda x, y: np.asarray(np.multiply(spread_a(x), spread_b(y)))


def _plan_write(
    index_map: tuple[Affine, ...], shape: tuple[int, ...], labels: Labels, extents: tuple[int, ...]
) -> Move:
    if _is_plain(index_map, shape, extents):
        return lambda result: result
    margins = [_margins(c, size, extents) for c, size in zip(index_map, shape, strict=True)]
    padded_shape = tuple(size + low + high for size, (low, high) in zip(shape, margins, strict=True))
    crop = tuple(slice(low, low + size) for size, (low, _) in zip(shape, margins, strict=True))
    kept = _injective(index_map, extents)
    looped = [label for label in labels if label not in kept]
    rest = [label for label in labels if label in kept]
    coefficients = [[(axis, c) for axis, m in enumerate(index_map) for i, c in m.terms if i == label] for label in rest]
    view_shape = tuple(extents[label] for label in rest)
    steps = []
    for point in itertools.product(*(range(extents[label]) for label in looped)):
        fixed = dict(zip(looped, point, strict=True))
        corner = tuple(
            slice(m.offset + low + sum(c * fixed.get(i, 0) for i, c in m.terms), None)
            for m, (low, _) in zip(index_map, margins, strict=True)
        )
        source = tuple(fixed.get(label, slice(None)) for label in labels)
        steps.append((corner, source))

    def write(result: NDArray) -> NDArray:
        out = np.zeros(padded_shape, result.dtype)
        strides = tuple(sum(c * out.strides[axis] for axis, c in terms) for terms in coefficients)
        for corner, source in steps:
            target = np.lib.stride_tricks.as_strided(out[corner], view_shape, strides)
            np.add(target, result[source], out=target)
        return out[crop]

    return write


def _injective(index_map: tuple[Affine, ...], extents: tuple[int, ...]) -> set[int]:
    """Indices over which the writes never meet: at most one new index, the largest, for each coordinate.

    Given the indices kept before it, each coordinate determines its own new index, so distinct points are distinct places.
    """
    kept: set[int] = set()
    for coordinate in index_map:
        fresh = [index for index, _ in coordinate.terms if index not in kept]
        if fresh:
            kept.add(max(fresh, key=lambda index: extents[index]))
    return kept
