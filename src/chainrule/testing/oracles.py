"""A second definition of every primitive, written element by element in plain Python.

It shares nothing with the engines: no NumPy arithmetic, no strides, no broadcasting, only loops over positions and Python numbers
(floats of 64 bits, integers of any size that are wrapped at the end). It is slow and meant for small arrays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import BOOL, FLOATS, INTEGERS, DType, is_float, to_numpy
from chainrule.ir.contraction import Affine
from chainrule.ir.graph import ArrayType, Graph, Node
from chainrule.testing.case import at_batch

NDArray = np.ndarray[Any, Any]
Attributes = Mapping[str, Any]
Numbers = dict[tuple[int, ...], Any]
Oracle = Callable[[Sequence[NDArray], Attributes, Sequence[ArrayType]], list[NDArray]]


def interpret(graph: Graph, arrays: Sequence[NDArray], batch: int = 1) -> list[NDArray]:
    """Run a graph by these definitions, node after node."""
    fixed = at_batch(graph, batch)
    known = dict(zip(fixed.inputs, arrays, strict=True))
    for node in fixed.nodes:
        known.update(zip(node.outputs, apply(node, [known[value] for value in node.inputs]), strict=True))
    return [known[value] for value in fixed.outputs]


def apply(node: Node, arrays: Sequence[NDArray]) -> list[NDArray]:
    """Run one node of constant sizes."""
    return ORACLES[node.primitive.name](arrays, node.attributes, [value.type for value in node.outputs])


def _array(type: ArrayType, number_at: Callable[[tuple[int, ...]], Any]) -> NDArray:
    """An array from a function of the position; integers wrap around."""
    result = np.zeros([int(size) for size in type.shape], to_numpy(type.dtype))
    for place in np.ndindex(result.shape):
        result[place] = _fitted(number_at(place), type.dtype)
    return result


def _fitted(number: Any, dtype: DType) -> Any:
    if dtype in FLOATS or dtype == BOOL:
        return number
    bits = np.iinfo(dtype).bits
    wrapped = int(number) % 2**bits
    return wrapped - 2**bits if np.iinfo(dtype).min < 0 and wrapped >= 2 ** (bits - 1) else wrapped


def _map(function: Callable[..., Any]) -> Oracle:
    def run(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
        return [_array(types[0], lambda place: function(*(x[place].item() for x in arrays)))]

    return run


def _one(function: Callable[[Sequence[NDArray], Attributes, tuple[int, ...]], Any]) -> Oracle:
    """A primitive whose elements are a function of the operands, the attributes and the position."""

    def run(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
        return [_array(types[0], lambda place: function(arrays, attributes, place))]

    return run


def _cast(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    number = arrays[0][place].item()
    if attributes["dtype"] == BOOL:
        return bool(number)
    if attributes["dtype"] not in INTEGERS or not isinstance(number, float):
        return number
    # Python compares floats and integers exactly.
    ends = np.iinfo(attributes["dtype"])
    if math.isnan(number):
        return 0
    return ends.min if number < ends.min else ends.max if number > ends.max else int(number)


def _elements(x: NDArray, axes: Sequence[int], place: tuple[int, ...]) -> list[Any]:
    """The elements that a reduction folds into one position, in order."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    return [x[i].item() for i in np.ndindex(x.shape) if tuple(i[axis] for axis in kept) == place]


def _reduce_sum(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    elements = _elements(arrays[0], attributes["axes"], place)
    return math.fsum(elements) if is_float(arrays[0].dtype) else sum(elements)


def _argmax(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    elements = _elements(arrays[0], (attributes["axis"],), place)
    return elements.index(max(elements))


def _at(index_map: Sequence[Affine], point: Sequence[int]) -> tuple[int, ...]:
    return tuple(c.offset + sum(factor * point[index] for index, factor in c.terms) for c in index_map)


def _inside(place: Sequence[int], shape: Sequence[int]) -> bool:
    return all(0 <= k < size for k, size in zip(place, shape, strict=True))


def _contract(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
    spec, (a, b) = attributes["spec"], arrays
    terms: dict[tuple[int, ...], list[Any]] = {}
    for point in itertools.product(*(range(extent) for extent in spec.extents)):
        to, left, right = (_at(index_map, point) for index_map in (spec.out, spec.a, spec.b))
        if _inside(to, spec.shape) and _inside(left, a.shape) and _inside(right, b.shape):
            terms.setdefault(to, []).append(a[left].item() * b[right].item())
    add = math.fsum if is_float(a.dtype) else sum
    return [_array(types[0], lambda place: add(terms.get(place, [0])))]


def _reshape(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
    flat = iter([arrays[0][place].item() for place in np.ndindex(arrays[0].shape)])
    return [_array(types[0], lambda place: next(flat))]


def _transpose(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    source = dict(zip(attributes["order"], place, strict=True))
    return arrays[0][tuple(source[axis] for axis in range(len(place)))]


def _slice(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    return arrays[0][tuple(s + k * step for k, s, step in zip(place, attributes["starts"], attributes["strides"]))]


def _pad(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    source = []
    for k, low, inner, size in zip(place, attributes["low"], attributes["inner"], arrays[0].shape, strict=True):
        position, rest = divmod(k - low, inner + 1)
        if rest or not 0 <= position < size:
            return attributes["value"]
        source.append(position)
    return arrays[0][tuple(source)]


def _flip(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    sizes = arrays[0].shape
    return arrays[0][tuple(sizes[n] - 1 - k if n in attributes["axes"] else k for n, k in enumerate(place))]


def _concatenate(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    axis, rest = attributes["axis"], list(place)
    for x in arrays:
        if rest[axis] < x.shape[axis]:
            return x[tuple(rest)]
        rest[axis] -= x.shape[axis]
    raise AssertionError("the position lies in one of the operands")


def _gather(arrays: Sequence[NDArray], attributes: Attributes, place: tuple[int, ...]) -> Any:
    (x, indices), lead = arrays, attributes["batch"]
    position = indices[place[: indices.ndim]].item()
    source = (*place[:lead], position, *place[indices.ndim :])
    return x[source] if 0 <= position < x.shape[lead] else 0


def _scatter_add(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
    (x, indices), lead = arrays, attributes["batch"]
    totals: Numbers = {}
    for place in np.ndindex(x.shape):
        target = (*place[:lead], indices[place[: indices.ndim]].item(), *place[indices.ndim :])
        totals[target] = totals.get(target, 0) + x[place].item()
    return [_array(types[0], lambda place: totals.get(place, 0))]


def _rotated(word: int, count: int) -> int:
    return (word << count | word >> 32 - count) % 2**32


def threefry2x32(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """One block of Threefry-2x32-20 on Python integers; Salmon et al., SC 2011."""
    words = [key[0], key[1], 0x1BD11BDA ^ key[0] ^ key[1]]
    x = [(counter[0] + words[0]) % 2**32, (counter[1] + words[1]) % 2**32]
    rotations = [13, 15, 26, 6, 17, 29, 16, 24]
    for number in range(20):
        x[0] = (x[0] + x[1]) % 2**32
        x[1] = _rotated(x[1], rotations[number % 8]) ^ x[0]
        if number % 4 == 3:
            group = number // 4 + 1
            x = [(x[0] + words[group % 3]) % 2**32, (x[1] + words[(group + 1) % 3] + group) % 2**32]
    return x[0], x[1]


def _random_bits(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
    (first, second), stream = arrays[0].tolist(), arrays[1].item()
    numbers = itertools.count()

    def bits(place: tuple[int, ...]) -> int:
        block, half = divmod(next(numbers), 2)
        return threefry2x32((first, second), (block, stream))[half]

    return [_array(types[0], bits)]


def _scan(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
    consts, carries, length = attributes["consts"], attributes["carries"], attributes["length"]
    fixed, carry, steps = arrays[:consts], list(arrays[consts : consts + carries]), arrays[consts + carries :]
    rows: list[list[NDArray]] = [[] for _ in types[carries:]]
    for t in sorted(range(length), reverse=attributes["reverse"]):
        results = interpret(attributes["body"], [*fixed, *carry, *(x[t] for x in steps)])
        carry = results[:carries]
        for row, result in zip(rows, results[carries:], strict=True):
            row.append(result)
    ordered = [list(reversed(row)) if attributes["reverse"] else row for row in rows]
    return [*carry, *(_stacked(row, type) for row, type in zip(ordered, types[carries:], strict=True))]


def _stacked(rows: Sequence[NDArray], type: ArrayType) -> NDArray:
    return _array(type, lambda place: rows[place[0]][place[1:]])


def _fixed_point(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
    fixed, state = arrays[: attributes["consts"]], list(arrays[attributes["consts"] :])
    for count in range(1, attributes["max_iterations"] + 1):
        before, state = state, interpret(attributes["body"], [*fixed, *state])
        moves = [
            abs(new[place].item() - old[place].item()) / (1 + abs(new[place].item()))
            for new, old in zip(state, before, strict=True)
            for place in np.ndindex(new.shape)
        ]
        if max(moves, default=0.0) <= attributes["tolerance"]:
            return [*state, np.asarray(count)]
    return [*state, np.asarray(attributes["max_iterations"])]


def _call(arrays: Sequence[NDArray], attributes: Attributes, types: Sequence[ArrayType]) -> list[NDArray]:
    return interpret(attributes["body"], arrays)


ORACLES: Mapping[str, Oracle] = {
    "neg": _map(lambda x: -x),
    "abs": _map(abs),
    "sign": _map(lambda x: (x > 0) - (x < 0)),
    "floor": _map(math.floor),
    "exp": _map(math.exp),
    "expm1": _map(math.expm1),
    "log": _map(math.log),
    "log1p": _map(math.log1p),
    "sqrt": _map(math.sqrt),
    "sin": _map(math.sin),
    "cos": _map(math.cos),
    "tanh": _map(math.tanh),
    "logistic": _map(lambda x: 1 / (1 + math.exp(-x))),
    "erf": _map(math.erf),
    "logical_not": _map(lambda x: not x),
    "is_finite": _map(math.isfinite),
    "add": _map(lambda x, y: x + y),
    "sub": _map(lambda x, y: x - y),
    "mul": _map(lambda x, y: x * y),
    "div": _map(lambda x, y: x / y),
    "floor_div": _map(lambda x, y: x // y if y else 0),
    "remainder": _map(lambda x, y: x % y if y else 0),
    "pow": _map(lambda x, y: x**y),
    "maximum": _map(max),
    "minimum": _map(min),
    "logical_and": _map(lambda x, y: x and y),
    "logical_or": _map(lambda x, y: x or y),
    "eq": _map(lambda x, y: x == y),
    "ne": _map(lambda x, y: x != y),
    "lt": _map(lambda x, y: x < y),
    "le": _map(lambda x, y: x <= y),
    "select": _map(lambda condition, x, y: x if condition else y),
    "cast": _one(_cast),
    "reduce_sum": _one(_reduce_sum),
    "reduce_max": _one(lambda arrays, attributes, place: max(_elements(arrays[0], attributes["axes"], place))),
    "argmax": _one(_argmax),
    "contract": _contract,
    "reshape": _reshape,
    "transpose": _one(_transpose),
    "broadcast": _one(lambda arrays, attributes, place: arrays[0][tuple(place[axis] for axis in attributes["axes"])]),
    "slice": _one(_slice),
    "pad": _one(_pad),
    "flip": _one(_flip),
    "concatenate": _one(_concatenate),
    "gather": _one(_gather),
    "scatter_add": _scatter_add,
    "constant": _one(lambda arrays, attributes, place: attributes["value"][place]),
    "iota": _one(lambda arrays, attributes, place: place[attributes["axis"]]),
    "extent": _one(lambda arrays, attributes, place: attributes["size"]),
    "random_bits": _random_bits,
    "scan": _scan,
    "fixed_point": _fixed_point,
    "stop_gradient": _map(lambda x: x),
    "call": _call,
}
