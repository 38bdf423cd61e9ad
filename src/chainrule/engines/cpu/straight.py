"""Straight-line C for a single example: every element of every value is a local variable, and nothing is a loop.

Loops over one example of a small network cost more than the arithmetic in them. Written out, compilers keep everything in
registers and the state is loaded and stored once. Sums are those of one example, so their order is not that of the loops over a
batch; but the same batch size always runs the same code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import BOOL, FLOAT32, DType
from chainrule.engines.cpu.formula import harmless
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.memory import Memory
from chainrule.engines.cpu.scalars import (
    C_TYPES,
    EXPRESSIONS,
    STORED,
    Expression,
    add_text,
    cast,
    literal,
    lowest,
    mul_text,
)
from chainrule.ir.contraction import IndexMap
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import at, shape_at

# Elements of values: names of locals, or literals.
Names = np.ndarray[Any, Any]

# With more operations than this, loops over vectors take less time than the operations one by one.
MOST_OPERATIONS = 3000
# A longer sum is several sums, which do not wait for each other.
_SHORT_SUM = 8
_PARTIAL_SUMS = 4


def is_small(graph: Graph) -> bool:
    """Whether a graph at batch size 1 is few enough operations to be written out."""
    total = 0
    for value in graph.inputs:
        total += _count(value)
    for node in graph.nodes:
        if node.primitive.name not in WRITERS:
            return False
        total += _operations(node)
        if total > MOST_OPERATIONS:
            return False
    return True


def write_straight(graph: Graph, memory: Memory, name: str) -> str:
    """The function ``name(char **arrays, const cr_repetition *how)``: a small graph at batch size 1, for one step or many.

    Operands that results are written over stay in locals from step to step. So the repetition must be in place.
    """
    over = set(memory.written_over.values())
    lines = _Lines(graph)
    w = Writer()
    with w.block(f"static __attribute__((noinline)) void {name}(char **arrays, const cr_repetition *how)"):
        for slot in range(len(graph.inputs) + len(graph.outputs)):
            w.line(f"char *const a{slot} = arrays[{slot}];")
            w.line(f"const int64_t b{slot} = how->bytes[{slot}];")
        for slot, value in enumerate(graph.inputs):
            if slot in over:
                for statement in lines.loaded(value, f"a{slot}"):
                    w.line(statement)
        with w.block("for (long step = 0; step < how->steps; step++)"):
            w.line("const int64_t row = how->rows ? how->rows[step] : step;")
            for slot, value in enumerate(graph.inputs):
                if slot not in over:
                    lines.lines += lines.loaded(value, f"(a{slot} + row * b{slot})")
            for node in graph.nodes:
                lines.node(node)
            for number, value in enumerate(graph.outputs):
                if number not in memory.written_over:
                    slot = len(graph.inputs) + number
                    lines.lines += lines.stored(value, f"(a{slot} + step * b{slot})")
            # No new state is the old one of another, so these do not depend on their order.
            for number, slot in memory.written_over.items():
                new, old = (lines.values[value].flat for value in (graph.outputs[number], graph.inputs[slot]))
                lines.lines += [f"{x} = {y};" for x, y in zip(old, new, strict=True) if x != y]
            for line in lines.lines:
                w.line(line)
        for slot, value in enumerate(graph.inputs):
            if slot in over:
                for statement in lines.stored(value, f"a{slot}"):
                    w.line(statement)
    return f"/* One example: {harmless(graph.name)}, element by element. */\n{w.text}"


def _count(value: Value) -> int:
    return int(np.prod(shape_at(value.shape, 1), dtype=np.int64))


def _operations(node: Node) -> int:
    name = node.primitive.name
    if name == "contract":
        return int(np.prod([at(extent, 1) for extent in node.attributes["spec"].extents], dtype=np.int64))
    if name == "scatter_add":
        return _count(node.inputs[0]) * at(node.attributes["size"], 1)
    if name == "gather":
        return _count(node.output) * at(node.inputs[0].shape[node.attributes["batch"]], 1)
    return max(_count(value) for value in (*node.inputs[:1], node.output))


class _Lines:
    """Statements under construction, and the elements of the values so far."""

    def __init__(self, graph: Graph) -> None:
        self.lines: list[str] = []
        self.values: dict[Value, Names] = {}
        self._made = 0
        self._place = ""
        self._waiting = _to_be_added(graph)

    def node(self, node: Node) -> None:
        """Write a node. A product that only an addition reads is written there: its sum begins with what is added."""
        if node.output in self._waiting and node.primitive.name == "contract":
            return
        place = f"{node.origin.path or 'step'} {node.origin.phase}"
        if place != self._place:
            self.lines.append(f"/* {harmless(place)} */")
            self._place = place
        shape = shape_at(node.output.shape, 1)
        product = next((value for value in node.inputs if value in self._waiting), None)
        if product is not None:
            other = node.inputs[1] if node.inputs[0] is product else node.inputs[0]
            made = _contract(self, self._waiting[product], self._operands(self._waiting[product]), self.values[other])
        else:
            made = WRITERS[node.primitive.name](self, node, self._operands(node))
        self.values[node.output] = np.asarray(made, object).reshape(shape)

    def _operands(self, node: Node) -> list[Names]:
        return [self.values[value] for value in node.inputs]

    def _name(self) -> str:
        self._made += 1
        return f"v{self._made}"

    def emit(self, dtype: DType, text: str) -> str:
        """The name of a new local."""
        name = self._name()
        self.lines.append(f"const {C_TYPES[dtype]} {name} = {text};")
        return name

    def loaded(self, value: Value, address: str) -> list[str]:
        """Statements that load every element of an operand into locals."""
        test = " != 0" if value.dtype == BOOL else ""
        names = [self._name() for _ in range(_count(value))]
        self.values[value] = _names(shape_at(value.shape, 1), names)
        pointer = f"((const {STORED[value.dtype]} *){address})"
        return [f"{C_TYPES[value.dtype]} {name} = {pointer}[{k}]{test};" for k, name in enumerate(names)]

    def stored(self, value: Value, address: str) -> list[str]:
        pointer = f"(({STORED[value.dtype]} *){address})"
        return [f"{pointer}[{k}] = {name};" for k, name in enumerate(self.values[value].flat)]

    def sum(self, dtype: DType, terms: Sequence[str]) -> str:
        """``terms[0] + terms[1] + ...``, long sums in several parts that are added up at the end."""
        if not terms:
            return literal(0, dtype)
        if len(terms) >= _SHORT_SUM:
            return self.sum(dtype, [self.sum_in_order(dtype, terms[k::_PARTIAL_SUMS]) for k in range(_PARTIAL_SUMS)])
        return self.sum_in_order(dtype, terms)

    def sum_in_order(self, dtype: DType, terms: Sequence[str]) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self.emit(dtype, add_text(dtype, total, term))
        return total


def _names(shape: Sequence[int], names: Any) -> Names:
    return np.array(list(names), object).reshape(shape)


Write = Callable[[_Lines, Node, Sequence[Names]], Names]


def _alone(name: str) -> Expression:
    """The form of a function that is written for one element, where there is one."""
    return lambda x, dtype: f"cr_alone_{name}_f32({x[0]})" if dtype == FLOAT32 else EXPRESSIONS[name](x, dtype)


_EXPRESSIONS: Mapping[str, Expression] = {**EXPRESSIONS, **{name: _alone(name) for name in ("exp", "logistic", "tanh")}}


def _map(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    write, given, made = _EXPRESSIONS[node.primitive.name], node.inputs[0].dtype, node.output.dtype
    rows = zip(*(operand.flat for operand in operands), strict=True)
    return _names(operands[0].shape, (lines.emit(made, write(row, given)) for row in rows))


def _cast(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    given, made = node.inputs[0].dtype, node.output.dtype
    return _names(operands[0].shape, (lines.emit(made, cast(x, given, made)) for x in operands[0].flat))


def _same(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    return operands[0]


def _broadcast(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    axes = node.attributes["axes"]
    shape = shape_at(node.output.shape, 1)
    widened = [1] * len(shape)
    for axis, size in zip(axes, operands[0].shape, strict=True):
        widened[axis] = size
    return np.broadcast_to(operands[0].reshape(widened), shape)


def _slice(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    starts, limits, strides = (node.attributes[k] for k in ("starts", "limits", "strides"))
    return operands[0][tuple(slice(a, at(b, 1), c) for a, b, c in zip(starts, limits, strides, strict=True))]


def _pad(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    fill = literal(node.attributes["value"], node.output.dtype)
    result: Names = np.full(shape_at(node.output.shape, 1), fill, object)
    for place in np.ndindex(operands[0].shape):
        moved = [
            low + index * (inner + 1)
            for low, index, inner in zip(node.attributes["low"], place, node.attributes["inner"], strict=True)
        ]
        if all(0 <= index < size for index, size in zip(moved, result.shape, strict=True)):
            result[tuple(moved)] = operands[0][place]
    return result


def _reduce_sum(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    return _along(node.attributes["axes"], operands[0], lambda terms: lines.sum(node.output.dtype, terms))


def _reduce_max(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    dtype = node.output.dtype

    def largest(terms: Sequence[str]) -> str:
        best = terms[0] if terms else lowest(dtype)
        for term in terms[1:]:
            best = lines.emit(
                dtype, f"{best} | {term}" if dtype == BOOL else EXPRESSIONS["maximum"]((best, term), dtype)
            )
        return best

    return _along(node.attributes["axes"], operands[0], largest)


def _along(axes: Sequence[int], x: Names, reduce: Callable[[Sequence[str]], str]) -> Names:
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), math.prod(x.shape[k] for k in axes))
    return _names(rows.shape[:-1], (reduce(list(rows[place])) for place in np.ndindex(rows.shape[:-1])))


def _argmax(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    """The first position of the largest element; the first NaN counts as the largest."""
    dtype = node.inputs[0].dtype

    def search(terms: Sequence[str]) -> str:
        best, place = terms[0], literal(0, node.output.dtype)
        for k, term in enumerate(terms[1:], 1):
            nan = f" || ({term} != {term} && {best} == {best})" if dtype.startswith("float") else ""
            larger = lines.emit(BOOL, f"{term} > {best}{nan}")
            best = lines.emit(dtype, f"{larger} ? {term} : {best}")
            place = lines.emit(node.output.dtype, f"{larger} ? {k} : {place}")
        return place

    return _along([node.attributes["axis"]], operands[0], search)


def _to_be_added(graph: Graph) -> dict[Value, Node]:
    """The products whose only use is as one operand of an addition."""
    uses: dict[Value, list[Node | None]] = {value: [None] for value in graph.outputs}
    for node in graph.nodes:
        for value in node.inputs:
            uses.setdefault(value, []).append(node)
    found: dict[Value, Node] = {}
    for node in graph.nodes:
        users = uses.get(node.output, [])
        user = users[0] if len(users) == 1 and node.primitive.name == "contract" else None
        if user is not None and user.primitive.name == "add" and found.keys().isdisjoint(user.inputs):
            found[node.output] = node
    return found


def _contract(lines: _Lines, node: Node, operands: Sequence[Names], first: Names | None = None) -> Names:
    """Reads outside an operand give zero, writes outside the result are dropped. ``first`` is added to the sums."""
    spec, (a, b) = node.attributes["spec"], operands
    shape = shape_at(node.output.shape, 1)
    terms = {place: [] if first is None else [str(first[place])] for place in np.ndindex(shape)}

    def place_in(index_map: IndexMap, box: Sequence[int]) -> tuple[int, ...]:
        return tuple(c.offset + sum(factor * box[index] for index, factor in c.terms) for c in index_map)

    for box in itertools.product(*(range(at(extent, 1)) for extent in spec.extents)):
        to, left, right = (place_in(index_map, box) for index_map in (spec.out, spec.a, spec.b))
        if to in terms and _inside(left, a.shape) and _inside(right, b.shape):
            terms[to].append(f"({mul_text(node.inputs[0].dtype, a[left], b[right])})")
    return _names(shape, (_product_sum(lines, node.output.dtype, terms[place]) for place in np.ndindex(shape)))


def _product_sum(lines: _Lines, dtype: DType, terms: Sequence[str]) -> str:
    return lines.emit(dtype, terms[0]) if len(terms) == 1 else lines.sum(dtype, terms)


def _inside(place: Sequence[int], shape: Sequence[int]) -> bool:
    return all(0 <= index < size for index, size in zip(place, shape, strict=True))


def _gather(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    """Zero where the index is outside."""
    x, indices = operands
    batch = node.attributes["batch"]
    result: Names = np.empty(shape_at(node.output.shape, 1), object)
    for place in np.ndindex(result.shape):
        index = indices[place[: indices.ndim]]
        found = literal(0, node.output.dtype)
        for row in range(x.shape[batch]):
            element = x[(*place[:batch], row, *place[indices.ndim :])]
            found = lines.emit(node.output.dtype, f"{index} == {row} ? {element} : {found}")
        result[place] = found
    return result


def _scatter_add(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    x, indices = operands
    batch, dtype = node.attributes["batch"], node.output.dtype
    result: Names = np.full(shape_at(node.output.shape, 1), literal(0, dtype), object)
    for place in np.ndindex(x.shape):
        index = indices[place[: indices.ndim]]
        for row in range(result.shape[batch]):
            to = (*place[:batch], row, *place[indices.ndim :])
            added = f"({add_text(dtype, str(result[to]), str(x[place]))})"
            result[to] = lines.emit(dtype, f"{index} == {row} ? {added} : {result[to]}")
    return result


def _constant(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    value = np.asarray(node.attributes["value"])
    return _names(value.shape, (literal(x, node.output.dtype) for x in value.flat))


def _iota(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    shape = shape_at(node.output.shape, 1)
    return _names(shape, (literal(place[node.attributes["axis"]], node.output.dtype) for place in np.ndindex(shape)))


def _extent(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    return _names((), [literal(at(node.attributes["size"], 1), node.output.dtype)])


def _random_bits(lines: _Lines, node: Node, operands: Sequence[Names]) -> Names:
    (low, high), which = operands[0], operands[1][()]
    return _names(
        shape_at(node.output.shape, 1),
        (
            lines.emit(node.output.dtype, f"cr_random_word({low}, {high}, {place}, {which})")
            for place in range(_count(node.output))
        ),
    )


# Loops over bodies are not written out.
WRITERS: Mapping[str, Write] = {
    **dict.fromkeys(EXPRESSIONS, _map),
    "cast": _cast,
    "stop_gradient": _same,
    "reshape": lambda lines, node, operands: operands[0].reshape(shape_at(node.output.shape, 1)),
    "transpose": lambda lines, node, operands: operands[0].transpose(node.attributes["order"]),
    "broadcast": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "flip": lambda lines, node, operands: np.flip(operands[0], node.attributes["axes"]),
    "concatenate": lambda lines, node, operands: np.concatenate(operands, node.attributes["axis"]),
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "argmax": _argmax,
    "contract": _contract,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "constant": _constant,
    "iota": _iota,
    "extent": _extent,
    "random_bits": _random_bits,
}
