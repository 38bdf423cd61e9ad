"""Typing rules: from the operand types and attributes of a primitive to its result types.

Every rule either returns the result types or raises :class:`ShapeError` or :class:`DTypeError` with both types in the message.

Bfloat16 is for storage. A map of it is computed in float32 and rounded once to its result; what adds elements up (``reduce_sum``,
``contract``, ``scatter_add``) does so in float32 and returns that, so that nothing is lost until a ``cast`` says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import (
    ALL,
    BOOL,
    FLOATS,
    INT64,
    INTEGERS,
    NUMBERS,
    UINT32,
    WIDE_FLOATS,
    accumulator,
    dtype_name,
)
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.ir.contraction import Contraction
from chainrule.ir.graph import ArrayType, Graph
from chainrule.ir.sizes import Dim, Size, product

Types = Sequence[ArrayType]
Attributes = Mapping[str, Any]
Result = tuple[ArrayType, ...]


def _require(type: ArrayType, dtypes: Collection[str], what: str) -> None:
    if type.dtype not in dtypes:
        raise DTypeError(f"{what} are needed, not {type}")


def _same(types: Types) -> ArrayType:
    first = types[0]
    for other in types[1:]:
        if other != first:
            raise ShapeError(f"operands must have one type, not {first} and {other}")
    return first


def _map(dtypes: Collection[str], what: str, types: Types) -> Result:
    _require(types[0], dtypes, what)
    return (_same(types),)


def map_numbers(types: Types, attributes: Attributes) -> Result:
    return _map(NUMBERS, "numbers", types)


def map_floats(types: Types, attributes: Attributes) -> Result:
    return _map(FLOATS, "floating-point numbers", types)


def map_integers(types: Types, attributes: Attributes) -> Result:
    return _map(INTEGERS, "integers", types)


def map_bools(types: Types, attributes: Attributes) -> Result:
    return _map({BOOL}, "booleans", types)


def keep(types: Types, attributes: Attributes) -> Result:
    return _map(ALL, "arrays", types)


def floats_to_bool(types: Types, attributes: Attributes) -> Result:
    _require(types[0], FLOATS, "floating-point numbers")
    return (ArrayType(types[0].shape, BOOL),)


def compare(types: Types, attributes: Attributes) -> Result:
    return (ArrayType(_same(types).shape, BOOL),)


def compare_ordered(types: Types, attributes: Attributes) -> Result:
    _require(types[0], NUMBERS, "numbers")
    return compare(types, attributes)


def select(types: Types, attributes: Attributes) -> Result:
    condition, *choices = types
    _require(condition, {BOOL}, "boolean conditions")
    chosen = _same(choices)
    if condition.shape != chosen.shape:
        raise ShapeError(f"the condition {condition} and the choices {chosen} must have one shape")
    return (chosen,)


def cast(types: Types, attributes: Attributes) -> Result:
    if attributes["dtype"] not in ALL:
        raise DTypeError(f"there is no element type {attributes['dtype']!r}")
    return (ArrayType(types[0].shape, attributes["dtype"]),)


def check_axes(axes: Sequence[int], rank: int) -> None:
    if list(axes) != sorted(set(axes)) or any(not 0 <= axis < rank for axis in axes):
        raise ShapeError(f"axes {tuple(axes)} are not distinct ascending axes of an array of rank {rank}")


def _without(type: ArrayType, axes: Sequence[int], dtype: str) -> Result:
    check_axes(axes, type.rank)
    return (ArrayType(tuple(d for axis, d in enumerate(type.shape) if axis not in axes), dtype),)


def reduce_sum(types: Types, attributes: Attributes) -> Result:
    _require(types[0], NUMBERS, "numbers")
    return _without(types[0], attributes["axes"], accumulator(types[0].dtype))


def reduce_any(types: Types, attributes: Attributes) -> Result:
    if any(types[0].shape[axis] == 0 for axis in attributes["axes"] if axis < types[0].rank):
        raise ShapeError(f"the largest element of the empty array {types[0]} is not defined")
    return _without(types[0], attributes["axes"], types[0].dtype)


def argmax(types: Types, attributes: Attributes) -> Result:
    axis = attributes["axis"]
    if 0 <= axis < types[0].rank and types[0].shape[axis] == 0:
        raise ShapeError(f"the largest element of the empty array {types[0]} is not defined")
    return _without(types[0], (axis,), INT64)


def contract(types: Types, attributes: Attributes) -> Result:
    spec: Contraction = attributes["spec"]
    a, b = types
    _require(a, NUMBERS, "numbers")
    if a.dtype != b.dtype:
        raise DTypeError(f"a contraction needs operands of one element type, not {a} and {b}")
    if len(spec.a) != a.rank or len(spec.b) != b.rank:
        raise ShapeError(f"contraction {spec} does not fit operands {a} and {b}")
    return (ArrayType(spec.shape, accumulator(a.dtype)),)


def reshape(types: Types, attributes: Attributes) -> Result:
    shape = attributes["shape"]
    if product(types[0].shape) != product(shape):
        raise ShapeError(f"{types[0]} has {product(types[0].shape)} elements and cannot take the shape {shape}")
    return (ArrayType(tuple(shape), types[0].dtype),)


def transpose(types: Types, attributes: Attributes) -> Result:
    order = attributes["order"]
    if sorted(order) != list(range(types[0].rank)):
        raise ShapeError(f"{tuple(order)} is not an order of the {types[0].rank} axes of {types[0]}")
    return (ArrayType(tuple(types[0].shape[axis] for axis in order), types[0].dtype),)


def broadcast(types: Types, attributes: Attributes) -> Result:
    shape, axes = attributes["shape"], attributes["axes"]
    if len(axes) != types[0].rank:
        raise ShapeError(f"broadcasting {types[0]} needs a place for each of its axes, not {axes}")
    check_axes(axes, len(shape))
    for size, axis in zip(types[0].shape, axes, strict=True):
        if shape[axis] != size:
            raise ShapeError(
                f"{types[0]} cannot be broadcast to {shape} along axes {axes}: {size} is not {shape[axis]}"
            )
    return (ArrayType(tuple(shape), types[0].dtype),)


def slice_(types: Types, attributes: Attributes) -> Result:
    starts, limits, strides = attributes["starts"], attributes["limits"], attributes["strides"]
    if not len(starts) == len(limits) == len(strides) == types[0].rank:
        raise ShapeError(f"a slice of {types[0]} needs a start, limit and stride for each axis")
    shape = tuple(
        _slice_size(size, *bounds) for size, *bounds in zip(types[0].shape, starts, limits, strides, strict=True)
    )
    return (ArrayType(shape, types[0].dtype),)


def _slice_size(size: Dim, start: int, limit: Dim, stride: int) -> Dim:
    if stride < 1 or start < 0:
        raise ShapeError(f"a slice needs a start of at least 0 and a stride of at least 1, not {start} and {stride}")
    if isinstance(size, Size) or isinstance(limit, Size):
        if limit != size or start != 0 or stride != 1:
            raise ShapeError(f"an axis of symbolic size {size} can only be taken whole")
        return size
    if not start <= limit <= size:
        raise ShapeError(f"the slice {start}:{limit} does not lie within an axis of size {size}")
    return -(-(limit - start) // stride)


def pad(types: Types, attributes: Attributes) -> Result:
    low, high, inner = attributes["low"], attributes["high"], attributes["inner"]
    if not len(low) == len(high) == len(inner) == types[0].rank:
        raise ShapeError(f"padding {types[0]} needs low, high and inner amounts for each axis")
    if min((*low, *high, *inner), default=0) < 0:
        raise ShapeError("padding amounts must not be negative")
    shape: list[Dim] = []
    for size, before, after, between in zip(types[0].shape, low, high, inner, strict=True):
        spread = size + between * (size - 1) if size != 0 else size
        shape.append(before + spread + after)
    return (ArrayType(tuple(shape), types[0].dtype),)


def flip(types: Types, attributes: Attributes) -> Result:
    check_axes(attributes["axes"], types[0].rank)
    return (types[0],)


def concatenate(types: Types, attributes: Attributes) -> Result:
    axis = attributes["axis"]
    if not types:
        raise ShapeError("nothing to concatenate")
    first = types[0]
    check_axes((axis,), first.rank)
    total: Dim = 0
    for type in types:
        rest = type.shape[:axis] + type.shape[axis + 1 :]
        if type.dtype != first.dtype or rest != first.shape[:axis] + first.shape[axis + 1 :]:
            raise ShapeError(f"{first} and {type} cannot be concatenated along axis {axis}")
        total = total + type.shape[axis]
    return (ArrayType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype),)


def gather(types: Types, attributes: Attributes) -> Result:
    x, indices, batch = types[0], types[1], attributes["batch"]
    _require(indices, INTEGERS, "integer indices")
    if not (batch < x.rank and batch <= indices.rank) or x.shape[:batch] != indices.shape[:batch]:
        raise ShapeError(f"gathering from {x} with indices {indices} needs {batch} equal leading axes and one more")
    return (ArrayType((*indices.shape, *x.shape[batch + 1 :]), x.dtype),)


def scatter_add(types: Types, attributes: Attributes) -> Result:
    x, indices, batch = types[0], types[1], attributes["batch"]
    _require(indices, INTEGERS, "integer indices")
    _require(x, NUMBERS, "numbers")
    if indices.rank < batch or x.shape[: indices.rank] != indices.shape:
        raise ShapeError(f"scattering {x} by indices {indices} needs the leading axes of both to be equal")
    shape = (*indices.shape[:batch], attributes["size"], *x.shape[indices.rank :])
    return (ArrayType(shape, accumulator(x.dtype)),)


def constant(types: Types, attributes: Attributes) -> Result:
    value: np.ndarray[Any, Any] = attributes["value"]
    return (ArrayType(tuple(value.shape), dtype_name(value.dtype)),)


def iota(types: Types, attributes: Attributes) -> Result:
    check_axes((attributes["axis"],), len(attributes["shape"]))
    if attributes["dtype"] not in NUMBERS:
        raise DTypeError(f"iota counts in numbers, not {attributes['dtype']}")
    return (ArrayType(tuple(attributes["shape"]), attributes["dtype"]),)


def extent(types: Types, attributes: Attributes) -> Result:
    return (ArrayType((), INT64),)


def random_bits(types: Types, attributes: Attributes) -> Result:
    key, stream = types
    if key != ArrayType((2,), UINT32) or stream != ArrayType((), UINT32):
        raise ShapeError(f"random bits need a key u32[2] and a stream u32[], not {key} and {stream}")
    return (ArrayType(tuple(attributes["shape"]), UINT32),)


def _fits_body(body: Graph, given: Types, what: str) -> None:
    if tuple(given) != body.input_types:
        expected = ", ".join(map(str, body.input_types))
        raise ShapeError(f"the body of {what} takes ({expected}), not ({', '.join(map(str, given))})")


def scan(types: Types, attributes: Attributes) -> Result:
    body: Graph = attributes["body"]
    length, consts, carries = attributes["length"], attributes["consts"], attributes["carries"]
    outer, stacked = types[: consts + carries], types[consts + carries :]
    for type in stacked:
        if type.rank == 0 or type.shape[0] != length:
            raise ShapeError(f"a scan of length {length} cannot step through {type}")
    steps = [ArrayType(type.shape[1:], type.dtype) for type in stacked]
    _fits_body(body, [*outer, *steps], "scan")
    if min(len(body.outputs), len(types) - consts) < carries:
        raise ShapeError(f"a scan with {carries} carries needs as many operands and results of its body")
    for before, after in zip(types[consts : consts + carries], body.output_types[:carries], strict=True):
        if before != after:
            raise ShapeError(f"the body of a scan must keep the type of its carry: {before} became {after}")
    collected = body.output_types[carries:]
    return (*body.output_types[:carries], *(ArrayType((length, *t.shape), t.dtype) for t in collected))


def fixed_point(types: Types, attributes: Attributes) -> Result:
    body: Graph = attributes["body"]
    _fits_body(body, types, "fixed_point")
    state = tuple(types[attributes["consts"] :])
    if state != body.output_types:
        raise ShapeError("the body of a fixed point must keep the types of its state")
    for type in state:
        _require(type, WIDE_FLOATS, "floating-point states of 32 or 64 bits")
    return (*state, ArrayType((), INT64))


def call(types: Types, attributes: Attributes) -> Result:
    body: Graph = attributes["body"]
    _fits_body(body, types, f"operation {attributes['label']!r}")
    backward: Graph | None = attributes["backward"]
    if backward is not None:
        expected = (*body.input_types, *body.output_types, *body.output_types)
        _fits_body(backward, expected, f"the backward rule of {attributes['label']!r}")
        if backward.output_types != body.input_types:
            raise ShapeError(f"the backward rule of {attributes['label']!r} must return a cotangent like each operand")
    return body.output_types
