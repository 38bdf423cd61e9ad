"""The C of a nest that runs row by row: its stages one after another inside the loop over the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of, chunks_text, work_of
from chainrule.engines.cpu.nest import Nest
from chainrule.engines.cpu.nests import (
    Task,
    around,
    cost_of,
    cut_range,
    in_shape,
    regions_of,
    write_loops,
)
from chainrule.engines.cpu.reductions import Reduction, write_row
from chainrule.engines.cpu.scalars import BYTES, C_TYPES, STORED
from chainrule.engines.cpu.sides import LANE, LANES, Side, end_of
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Shape, product


@dataclass(slots=True)
class RowWriter:
    """``pointer`` names the memory of a value that is made elsewhere, ``name`` that of one that this nest writes."""

    nest: Nest
    sides: Sequence[Side]
    maker: Callable[[Value], Node | None]
    pointer: Callable[[Value], str | None]
    name: Callable[[Value], str]
    canonical: Callable[[Value], Value]
    outer: list[Var] = field(init=False)
    row: Index = field(init=False)
    scalars: dict[Value, str] = field(default_factory=dict)
    buffers: dict[Value, str] = field(default_factory=dict)
    done: set[Value] = field(default_factory=set)
    work: Dim = 0

    def write(self) -> Task:
        shape = self.nest.outer
        self.outer = [Var(f"i{axis}", size) for axis, size in enumerate(shape)]
        self.row = linear([variable(var) for var in self.outer], shape)
        inside = Writer()
        for number, member in enumerate(self.nest.members):
            self._stage(inside, member, number)
        w = Writer()
        first = self.outer[0].extent
        assert first is not None, "a loop has an end"
        chunks = chunks_text(self.work, first)
        cut_range(w, c_size(first), chunks)
        for side in self.sides:
            side.begin(w)
        self._declare_buffers(w)

        def rows() -> None:
            w.lines.extend("    " * w.depth + line if line else "" for line in inside.lines)

        around(w, self.outer, rows, ("low", "high"))
        return Task(w.text, chunks, after=end_of(self.sides), regions=regions_of(self.sides))

    def _declare_buffers(self, w: Writer) -> None:
        start = 0
        places = []
        for value, name in self.buffers.items():
            places.append((STORED[value.dtype], name, start))
            start += -(-self._length(value.shape) * BYTES[value.dtype] // 64) * 64
        if places:
            w.line(f"char *const buffers = cr_scratch({start});")
        for type, name, offset in places:
            w.line(f"{type} *restrict const {name} = ({type} *)(buffers + {offset});")

    def _length(self, shape: Shape) -> int:
        """The elements of a row of an array."""
        box = [size for size in shape if size != 1]
        length = product(box[len(self.outer) :])
        assert isinstance(length, int), "rows have a constant length"
        return length

    def _body(self, number: int) -> Body:
        body = Body(self.maker, self._pointer, prefix=f"s{number}_")
        body.rows = {
            name: (self.row * self._length(value.shape), self._length(value.shape))
            for value, name in self.buffers.items()
        }
        for value, text in self.scalars.items():
            body.preset(value, in_shape(value.shape, self.outer), text)
        return body

    def _pointer(self, value: Value) -> str | None:
        source = self.canonical(value)
        if source in self.scalars:
            return None
        if source in self.buffers:
            return self.buffers[source]
        return self.name(value) if source in self.done else self.pointer(value)

    def _stage(self, w: Writer, member: Nest, number: int) -> None:
        body = self._body(number)
        if member.node is not None:
            self._reduce(w, body, member.node, number)
        elif self._length(member.shape) == 1:
            self._once(w, body, member)
        else:
            self._map(w, body, member, number)

    def _reduce(self, w: Writer, body: Body, node: Node, number: int) -> None:
        """One result for the row."""
        (x,) = node.inputs
        inner = self._inner(x.shape)
        value = body.read(x, in_shape(x.shape, [*self.outer, *inner]))
        op = "sum" if node.primitive.name == "reduce_sum" else "max"
        box = box_of(inner, body, [Store("row", Index(), value, 1)], self.outer)
        reduction = Reduction(inner, frozenset(inner), body, value, "row", Index(), 1, x.dtype, op)
        self._count(box)
        result = f"row_{number}"
        w.line(f"{C_TYPES[x.dtype]} {result};")
        with w.block(""):
            write_row(w, reduction, box, result)
        self._finish_scalar(w, node.output, result)

    def _once(self, w: Writer, body: Body, member: Nest) -> None:
        """Maps over the rows: one element each."""
        texts = [(root, body.read(root, in_shape(root.shape, self.outer))) for root in member.roots]
        stores = []
        for side in self._sides_of(member):
            # The sum over all rows is kept in lanes, which the rows take in turns.
            turn = Var(body.emit("const long", "(", variable(self.outer[-1]), f") % {LANES}"), LANES)
            stores.append(side.store(body, self.row, variable(turn)))
        box = box_of([], body, stores, self.outer)
        self._count(box)
        box.write(w)
        for root, text in texts:
            self._finish_scalar(w, root, text)
        box.write_stores(w)

    def _map(self, w: Writer, body: Body, member: Nest, number: int) -> None:
        """Maps over the elements of the row."""
        inner = self._inner(member.shape)
        stores = []
        buffers: dict[Value, str] = {}
        for root in member.roots:
            length = self._length(root.shape)
            position = in_shape(root.shape, [*self.outer, *inner])
            value = body.read(root, position)
            if root in self.nest.private:
                buffers[root] = f"row_{number}_{len(self.buffers) + len(buffers)}"
                stores.append(Store(buffers[root], position.linear() - self.row * length, value, length))
            else:
                stores.append(Store(self.name(root), position.linear(), value, product(root.shape)))
        for side in self._sides_of(member):
            place = in_shape(side.node.inputs[0].shape, [*self.outer, *inner]).linear()
            stores.append(side.store(body, place, variable(LANE)))
        # From memory only by stages that follow: here it is written after all that is read.
        self.buffers.update(buffers)
        self.done.update(root for root in member.roots if root not in buffers)
        box = box_of(inner, body, stores, [*self.outer, LANE])
        box.merge()
        self._count(box)
        with w.block(""):
            write_loops(w, box)

    def _inner(self, shape: Shape) -> list[Var]:
        sizes = [size for size in shape if size != 1][len(self.outer) :]
        return [Var(f"j{axis}", size) for axis, size in enumerate(sizes)]

    def _sides_of(self, member: Nest) -> list[Side]:
        return [side for side in self.sides if side.node in member.sides]

    def _finish_scalar(self, w: Writer, value: Value, text: str) -> None:
        self.scalars[value] = text
        if value not in self.nest.private:
            at = in_shape(value.shape, self.outer)
            Box([], [], [Store(self.name(value), at.linear(), text, product(value.shape))]).write_stores(w)

    def _count(self, box: Box) -> None:
        self.work = self.work + work_of([*self.outer, *box.vars], cost_of(box))
