"""The body of a loop nest: values written out as straight-line C at one position, views and elementwise maps expanded in place.

A value is read either from its buffer or, if it has none, by computing it from its operands at the position wanted. Views only move
the position. Reads that a pad, a concatenation or a gather may send outside are guarded by a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from chainrule.core.dtypes import BOOL
from chainrule.engines.cpu.bounds import Fact, never, prove
from chainrule.engines.cpu.indexing import Index, Var, at_least, c_size, linear, split, variable
from chainrule.engines.cpu.nest import same_bytes
from chainrule.engines.cpu.scalars import C_TYPES, EXPRESSIONS, cast, literal
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import BATCH, Dim, Shape, product

Part = str | Index
Guard = str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """``type name = parts``; the parts are text and index expressions, which can still be rewritten."""

    type: str
    name: str
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Position:
    """A place in an array of some shape: by its coordinates, by its number in row-major order, or both."""

    shape: Shape
    indices: tuple[Index, ...] | None = None
    number: Index | None = None

    def linear(self) -> Index:
        if self.number is None:
            assert self.indices is not None, "a position has coordinates or a number"
            self.number = linear(self.indices, self.shape)
        return self.number


@dataclass(slots=True)
class Body:
    """Statements under construction. ``pointer`` names the buffer of a value, or says that it has none here.

    ``facts`` has what holds wherever a guard is true, so that every access can be proved to stay within its buffer. ``rows`` has the
    buffers that hold one part of their value only: where it begins, and its size. ``divisors`` notes by what a loop
    variable would have to be divided, ``steps`` that only every so many values of one meet an element.
    """

    maker: Callable[[Value], Node | None]
    pointer: Callable[[Value], str | None]
    statements: list[Statement] = field(default_factory=list)
    known: dict[object, str] = field(default_factory=dict)
    prefix: str = "v"
    facts: dict[str, tuple[Fact, ...]] = field(default_factory=dict)
    rows: Mapping[str, tuple[Index, Dim]] = field(default_factory=dict)
    divisors: dict[Var, int] = field(default_factory=dict)
    steps: dict[Var, int] = field(default_factory=dict)

    def emit(self, type: str, *parts: Part) -> str:
        """The name of a new local constant, or of an earlier one with the same definition."""
        key = (type, tuple(_key(part) if isinstance(part, Index) else part for part in parts))
        if key not in self.known:
            self.known[key] = f"{self.prefix}{len(self.statements)}"
            self.statements.append(Statement(type, self.known[key], parts))
        return self.known[key]

    def preset(self, value: Value, position: Position, text: str) -> None:
        """Let a value at a position be this text."""
        self.known[value, _key(position.linear()), None] = text

    def load(self, value: Value, at: Index, guard: Guard = None) -> str:
        """An element of a value's buffer; 0 where the guard does not hold."""
        pointer = self.pointer(value)
        assert pointer is not None, "only a stored value can be loaded"
        start, size = self.rows.get(pointer, (Index(), product(value.shape)))
        return self.element(pointer, at - start, size, C_TYPES[value.dtype], guard, is_bool=value.dtype == BOOL)

    def element(
        self, pointer: str, at: Index, size: Dim, type: str, guard: Guard = None, *, is_bool: bool = False
    ) -> str:
        """An element of a buffer of so many; 0 where the guard does not hold."""
        prove(pointer, at, size, self.facts.get(guard, ()) if guard else ())
        parts: tuple[Part, ...] = (pointer, "[", at, "]", *((" != 0",) if is_bool else ()))
        return self.emit(type, *((guard, " ? ", *parts, " : 0") if guard else parts))

    def quotient(self, index: Index, divisor: Dim, extent: Dim, guard: Guard) -> Var:
        """An index divided by a size, as a variable below an extent wherever the guard holds."""
        self.imply(index, extent * divisor, guard)
        return Var(self.emit("const long", "(", index, f") / {c_size(divisor)}"), extent)

    def imply(self, index: Index, size: Dim, guard: Guard) -> None:
        """Check that the guard, if there is one, says that an index lies in [0, size)."""
        prove("position", index, size, self.facts.get(guard, ()) if guard else ())

    def read(self, value: Value, position: Position, guard: Guard = None) -> str:
        """The value at a position: the name of a local, or a literal."""
        if 0 in value.shape:  # in loops that never run
            return literal(0, value.dtype)
        key = (value, _key(position.linear()), guard)
        if key not in self.known:
            if guard is not None and (value, key[1], None) in self.known:
                return self.known[value, key[1], None]
            if self.pointer(value) is not None:
                self.known[key] = self.load(value, position.linear(), guard)
            else:
                self.known[key] = self._compute(value, position, guard)
        return self.known[key]

    def _compute(self, value: Value, position: Position, guard: Guard) -> str:
        node = self.maker(value)
        assert node is not None, f"nothing computes {value}"
        name = node.primitive.name
        if same_bytes(node):
            return _renamed(self, node, position, guard)
        if name in _SPECIAL:
            return _SPECIAL[name](self, node, position, guard)
        operands = [self.read(x, Position(x.shape, position.indices, position.linear()), guard) for x in node.inputs]
        if name == "cast":
            return self.emit(C_TYPES[value.dtype], cast(operands[0], node.inputs[0].dtype, value.dtype))
        return self.emit(C_TYPES[value.dtype], EXPRESSIONS[name](operands, node.inputs[0].dtype))

    def coordinates(self, position: Position, guard: Guard = None) -> tuple[Index, ...]:
        """The coordinates of a position, with divisions where algebra cannot avoid them.

        Trailing axes come first: a bias at the end of a product needs the last coordinate alone, and rows that are counted through
        all leading axes are divided outside of the innermost loop.
        """
        if position.indices is None:
            shape = position.shape
            found = [Index()] * len(shape)
            axes = [axis for axis, size in enumerate(shape) if size != 1]
            rest = position.linear()
            while len(axes) > 1:
                parts = split(rest, shape[axes[-1]])
                if parts is None:
                    break
                rest, found[axes.pop()] = parts
            for number, axis in enumerate(axes[:-1]):
                stride = product(shape[other] for other in axes[number + 1 :])
                parts = split(rest, stride)
                if parts is None:
                    self._note_divisor(rest, stride)
                    quotient = self.quotient(rest, stride, shape[axis], guard)
                    below = rest - variable(quotient) * stride
                    parts = variable(quotient), variable(Var(self.emit("const long", below), stride))
                found[axis], rest = parts
            if axes:
                found[axes[-1]] = rest
            position.indices = tuple(found)
        return position.indices

    def _note_divisor(self, index: Index, divisor: Dim) -> None:
        for var, c in index.terms:
            if c == 1 and isinstance(var.extent, int) and isinstance(divisor, int) and not var.extent % divisor:
                self.divisors[var] = divisor

    def note_step(self, index: Index, step: int) -> None:
        mixed = [var for var, c in index.terms if not (isinstance(c, int) and c % step == 0)]
        if len(mixed) == 1 and isinstance(mixed[0].extent, int):
            self.steps[mixed[0]] = step

    def condition(self, *parts: Part) -> str:
        return self.emit("const _Bool", *parts)

    def both(self, *guards: Guard) -> Guard:
        present = list(dict.fromkeys(guard for guard in guards if guard is not None))
        if len(present) < 2:
            return present[0] if present else None
        condition = self.condition(" & ".join(present))
        self.facts[condition] = tuple(dict.fromkeys(fact for guard in present for fact in self.facts.get(guard, ())))
        return condition

    def inside(self, index: Index, size: Dim) -> Guard:
        """The condition that an index lies in [0, size), or None where it always does."""
        if index.within(size):
            return None
        bounds = index.bounds()
        checks = []
        if bounds is None or not at_least(bounds[0], 0):
            checks.append(self.condition("(", index, ") >= 0"))
        if bounds is None or not at_least(size - bounds[1], 1):
            checks.append(self.condition("(", index, f") < {c_size(size)}"))
        condition = self.both(*checks)
        assert condition is not None, "one of the bounds is not kept"
        self.facts[condition] = (*self.facts.get(condition, ()), (index, size))
        return condition


def _key(index: Index) -> tuple[object, object]:
    return frozenset(index.terms), index.offset


Special = Callable[[Body, Node, Position, Guard], str]


def _view(move: Callable[[Node, Sequence[Index]], Sequence[Index]]) -> Special:
    def read(body: Body, node: Node, position: Position, guard: Guard) -> str:
        (x,) = node.inputs
        return body.read(x, Position(x.shape, tuple(move(node, body.coordinates(position, guard)))), guard)

    return read


def _transposed(node: Node, indices: Sequence[Index]) -> Sequence[Index]:
    order = node.attributes["order"]
    return [indices[order.index(axis)] for axis in range(len(order))]


def _sliced(node: Node, indices: Sequence[Index]) -> Sequence[Index]:
    attributes = node.attributes
    return [i * stride + start for i, start, stride in zip(indices, attributes["starts"], attributes["strides"])]


def _flipped(node: Node, indices: Sequence[Index]) -> Sequence[Index]:
    shape, axes = node.output.shape, node.attributes["axes"]
    return [i * -1 + (shape[k] - 1) if k in axes else i for k, i in enumerate(indices)]


def _renamed(body: Body, node: Node, position: Position, guard: Guard) -> str:
    """The element of the same number; what is known of its coordinates stays known where only axes of size 1 come or go."""
    x, indices = node.inputs[0], None
    if position.indices is not None and _longer(x.shape) == _longer(position.shape):
        rest = iter([i for i, size in zip(position.indices, position.shape, strict=True) if size != 1])
        indices = tuple(Index() if size == 1 else next(rest) for size in x.shape)
    return body.read(x, Position(x.shape, indices, position.linear()), guard)


def _longer(shape: Shape) -> list[Dim]:
    return [size for size in shape if size != 1]


def _pad(body: Body, node: Node, position: Position, guard: Guard) -> str:
    (x,) = node.inputs
    fill = literal(node.attributes["value"], x.dtype)
    if 0 in x.shape:
        return fill
    conditions: list[Guard] = []
    indices = []
    places = body.coordinates(position, guard)
    for i, size, low, inner in zip(places, x.shape, node.attributes["low"], node.attributes["inner"], strict=True):
        shifted = i - low
        if never(shifted, (size - 1) * (inner + 1) + 1):
            return fill
        parts = split(shifted, inner + 1) if inner and size != 1 else None
        if parts is not None and not parts[1].terms:
            if parts[1].offset != 0:
                return fill
            conditions.append(body.inside(parts[0], size))
            indices.append(parts[0])
        elif inner and size != 1:
            body.note_step(shifted, inner + 1)
            conditions.append(body.inside(shifted, (size - 1) * (inner + 1) + 1))
            indices.append(variable(body.quotient(shifted, inner + 1, size, body.both(guard, conditions[-1]))))
            conditions.append(body.condition("(", shifted, f") % {inner + 1} == 0"))
        else:
            conditions.append(body.inside(shifted, size))
            indices.append(shifted)
    found = body.both(*conditions)
    inner_value = body.read(x, Position(x.shape, tuple(indices)), body.both(guard, found))
    if found is None:
        return inner_value
    return body.emit(C_TYPES[x.dtype], f"{found} ? {inner_value} : {fill}")


def _concatenate(body: Body, node: Node, position: Position, guard: Guard) -> str:
    axis, places = node.attributes["axis"], body.coordinates(position, guard)
    start: Index = Index()
    result: str | None = None
    for x in node.inputs:
        if x.shape[axis] == 0:
            continue
        moved = places[axis] - start
        start = start + x.shape[axis]
        if never(moved, x.shape[axis]):
            continue
        found = body.inside(moved, x.shape[axis])
        indices = (*places[:axis], moved, *places[axis + 1 :])
        element = body.read(x, Position(x.shape, indices), body.both(guard, found))
        result = element if result is None or found is None else f"({found} ? {element} : {result})"
    return body.emit(C_TYPES[node.output.dtype], result or "0")


def _gather(body: Body, node: Node, position: Position, guard: Guard) -> str:
    x, indices = node.inputs
    batch = node.attributes["batch"]
    if 0 in x.shape:
        return literal(0, x.dtype)
    places = body.coordinates(position, guard)
    found = body.read(indices, Position(indices.shape, places[: len(indices.shape)]), guard)
    row = Var(body.emit("const long", found))
    inside = body.condition(f"({row.name} >= 0) & ({row.name} < {c_size(x.shape[batch])})")
    body.facts[inside] = ((variable(row), x.shape[batch]),)
    where = (*places[:batch], variable(row), *places[len(indices.shape) :])
    return body.read(x, Position(x.shape, where), body.both(guard, inside))


def _constant(body: Body, node: Node, position: Position, guard: Guard) -> str:
    return literal(node.attributes["value"].reshape(-1)[0], node.output.dtype)


def _iota(body: Body, node: Node, position: Position, guard: Guard) -> str:
    index = body.coordinates(position, guard)[node.attributes["axis"]]
    type = C_TYPES[node.output.dtype]
    return body.emit(type, f"({type})(", index, ")")


def _extent(body: Body, node: Node, position: Position, guard: Guard) -> str:
    return body.emit("int64_t", c_size(node.attributes["size"]))


def _random_bits(body: Body, node: Node, position: Position, guard: Guard) -> str:
    key, stream = node.inputs
    words = [body.read(key, Position((2,), (Index((), n),))) for n in (0, 1)]
    which = body.read(stream, Position((), ()))
    # Slabs number the words of their rows from the first row on.
    of_row = product(node.output.shape[1:]) if node.output.shape[:1] == (BATCH,) else 0
    first = f" + frame->row * {c_size(of_row)}" if of_row else ""
    place = position.linear()
    return body.emit("uint32_t", f"cr_random_word({words[0]}, {words[1]}, (uint64_t)(", place, f"{first}), {which})")


_SPECIAL: dict[str, Special] = {
    "transpose": _view(_transposed),
    "broadcast": _view(lambda node, indices: [indices[axis] for axis in node.attributes["axes"]]),
    "slice": _view(_sliced),
    "flip": _view(_flipped),
    "pad": _pad,
    "concatenate": _concatenate,
    "gather": _gather,
    "constant": _constant,
    "iota": _iota,
    "extent": _extent,
    "random_bits": _random_bits,
}
