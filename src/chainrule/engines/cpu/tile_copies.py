"""Copies of operands that tiles can read: with a border of zeros, in whole vectors, or with rows side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chainrule.core.dtypes import DType
from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.cuts import Axes, Axis, boxes_of
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of, chunks_text
from chainrule.engines.cpu.nests import Task, around, at_places, cut_range, write_loops
from chainrule.engines.cpu.scalars import C_TYPES
from chainrule.engines.cpu.sides import LANE, Side
from chainrule.engines.cpu.tile_plan import Border, Operand, Plan, Product, bordered
from chainrule.ir.graph import Value
from chainrule.ir.sizes import Dim, Shape, Size, product

# The two parts of the copy of one item of a batch: the zeros, which stay, and what is within.
Copy = tuple[list[Box], list[Box]]


def border_at_once(
    body: Callable[[], Body], value: Value, border: Border, target: str, sums: Sequence[Side] = ()
) -> list[Box]:
    """A copy of all of an operand, with zeros around: in boxes over the first axis, where that has no border. ``sums`` of the operand
    are added up."""
    shape = bordered(value.shape, border)
    if border[0][0] != 0 or border[1][0] != 0 or shape[0] == 1:
        assert not sums, "an operand that is added up has rows without a border"
        return [_guarded(body(), value, border, target)]
    first = Var("i0", shape[0])
    within = _within(body, value, border, target, shape, first, sums, at_once=True)
    return [*within, *_zeros(border, value.shape, shape, target, [first])]


def _guarded(body: Body, value: Value, border: Border, target: str) -> Box:
    shape = bordered(value.shape, border)
    vars = [Var(f"i{axis}", size) for axis, size in enumerate(shape)]
    inner = [variable(var) - before for var, before in zip(vars, border[0], strict=True)]
    guard = body.both(*(body.inside(i, size) for i, size in zip(inner, value.shape, strict=True)))
    element = body.read(value, Position(value.shape, tuple(inner)), guard)
    if guard is not None and body.pointer(value) is None:
        element = body.emit(C_TYPES[value.dtype], f"{guard} ? {element} : 0")
    at = linear([variable(var) for var in vars], shape)
    return box_of([var for var in vars if var.extent != 1], body, [Store(target, at, element, product(shape))])


def border_of_item(
    body: Callable[[], Body], value: Value, border: Border, target: str, item: Var, sums: Sequence[Side] = ()
) -> Copy:
    """The copy of one item, the axis of which is the first; ``sums`` of the operand are added up."""
    shape = (1, *bordered(value.shape, border)[1:])
    inside = _within(body, value, border, target, shape, item, sums, at_once=False)
    zeros = _zeros(border, value.shape, shape, target, [])
    for box in (*zeros, *inside):
        box.merge()
    return zeros, inside


def _within(
    body: Callable[[], Body],
    value: Value,
    border: Border,
    target: str,
    shape: Shape,
    item: Var,
    sums: Sequence[Side],
    *,
    at_once: bool,
) -> list[Box]:
    """What is within the border, for one item in a copy of this shape, or in loops over all items."""
    whole = tuple(Axis((Var(f"i{axis}", size),)) for axis, size in enumerate(value.shape) if axis and size != 1)

    def build(body: Body, axes: Axes) -> Box:
        position = at_places(value.shape, [axis.index for axis in axes])
        assert position.indices is not None, "loops give coordinates"
        element = body.read(value, position)
        places = [low + i for low, i in zip(position.indices[1:], border[0][1:], strict=True)]
        places.insert(0, variable(item) if at_once else Index())
        stores = [Store(target, linear(places, shape), element, product(shape))]
        stores += [side.store(body, position.linear(), variable(LANE)) for side in sums]
        vars = [var for axis in (axes if at_once else axes[1:]) for var in axis.vars]
        return box_of(vars, body, stores, [item, LANE])

    return boxes_of(body, (Axis((item,)), *whole), build)


def _zeros(border: Border, size: Shape, shape: Shape, target: str, loops: Sequence[Var]) -> list[Box]:
    """The zeros around, without a loop over the first axis or in ``loops`` over it."""
    found = []
    for axis in range(1, len(shape)):
        low, high = border[0][axis], border[1][axis]
        for start, length in ((0, low), (low + size[axis], high)):
            if length != 0:
                vars = [Var(f"i{k}", length if k == axis else n) for k, n in enumerate(shape)][1:]
                places = [variable(loops[0]) if loops else Index()]
                places += [variable(var) + (start if k == axis else 0) for k, var in enumerate(vars, 1)]
                store = Store(target, linear(places, shape), "0", product(shape))
                found.append(Box([*loops, *(var for var in vars if var.extent != 1)], [], [store]))
    return found


@dataclass(slots=True)
class Packing:
    """A copy in whole vectors: for every column of them its vectors in the order of the sum."""

    source: Operand
    target: str
    kept: list[Var]
    column: Var
    steps: list[Var]
    vector: Var
    lanes: int
    dtype: DType

    @property
    def shape(self) -> Shape:
        vars = (*self.kept, self.column, *self.steps)
        return (*(var.extent for var in vars if var.extent is not None), self.lanes)

    @property
    def count(self) -> Dim:
        return product(self.shape)

    def place(self, lane: Index) -> Index:
        return linear([*map(variable, (*self.kept, self.column, *self.steps)), lane], self.shape)

    @property
    def operand(self) -> Operand:
        return Operand(self.target, self.place(Index()), self.count)

    def task(self, body: Body) -> Task:
        """The whole copy, in parallel."""
        vars = self._loops()
        w = Writer()
        if not vars:
            self._inner(w, body)
            return Task(w.text, comment=self.comment)
        # The longest loop around is divided.
        first = max(
            vars, key=lambda var: (isinstance(var.extent, Size), var.extent if isinstance(var.extent, int) else 0)
        )
        assert first.extent is not None, "a loop has an end"
        chunks = chunks_text(self.count * 2, first.extent)
        cut_range(w, c_size(first.extent), chunks)
        rest = [var for var in vars if var is not first]
        around(w, [first, *rest], lambda: self._inner(w, body), first=("low", "high"))
        return Task(w.text, chunks, comment=self.comment)

    def write(self, w: Writer, body: Body) -> None:
        """The copy as part of a task."""
        around(w, self._loops(), lambda: self._inner(w, body))

    @property
    def comment(self) -> str:
        return f"{self.source.pointer} in vectors of {self.lanes}"

    def _across(self) -> Var | None:
        """The index of the sum along which the source is contiguous: the copy transposes blocks."""
        at = self.source.at
        return next((var for var in self.steps if at.coefficient(var) == 1 and isinstance(var.extent, int)), None)

    def _loops(self) -> list[Var]:
        across = self._across()
        return [var for var in (*self.kept, self.column, *self.steps) if var.extent != 1 and var != across]

    def _inner(self, w: Writer, body: Body) -> None:
        across, source, n = self._across(), self.source, self.lanes
        column = variable(self.column) * n
        if across is not None:
            start = Var("start")
            known = {self.vector: column, across: Index(((start, 1),))}
            to = self.place(Index()).replace({across: Index(((start, 1),))})
            step = c_size(self.place(Index()).coefficient(across))
            from_step = c_size(source.at.coefficient(self.vector))
            prove(source.pointer, source.at, source.size)
            prove(self.target, self.place(variable(Var("lane", n))), self.count)
            rows = f"cr_least({n}, {self.vector.extent} - ({column}))"
            columns = f"cr_least({n}, {across.extent} - start)"
            with w.block(f"for (long start = 0; start < {across.extent}; start += {n})"):
                w.line(
                    f"cr_transpose_{self.dtype}x{n}({self.target} + ({to}), {step}, "
                    f"{source.pointer} + ({source.at.replace(known)}), {from_step}, {columns}, {rows});"
                )
            return
        lane = Var("lane", n)
        place = column + variable(lane)
        assert self.vector.extent is not None, "an index in vectors has an extent"
        guard = body.inside(place, self.vector.extent)
        source_at = source.at.replace({self.vector: place})
        element = body.element(source.pointer, source_at, source.size, C_TYPES[self.dtype], guard)
        store = Store(self.target, self.place(variable(lane)), element, self.count)
        write_loops(w, Box([lane], list(body.statements), [store]))


def packing_of(p: Product, source: Operand, vector: Var, column: Var, fixed: Sequence[Var], target: str) -> Packing:
    """How an operand is copied so that it can be read in vectors; ``fixed`` indices are those of loops around the copy."""
    used = [var for var in (*p.kept, *p.summed) if source.at.coefficient(var) != 0 and var not in (*fixed, vector)]
    kept = [var for var in p.kept if var in used]
    steps = [var for var in p.summed if var in used]
    return Packing(source, target, kept, column, steps, vector, p.way.lanes, p.dtype)


def pack_rows(body: Body, plan: Plan, target: str) -> tuple[Box, Operand, Dim]:
    """x with the elements of a tile's rows for one step of the sum side by side: the copy, what it is then, its elements."""
    (row, most), x = plan.rows[0], plan.x
    extent = row.extent
    assert isinstance(extent, int), "only rows of a constant number are copied"
    tiles = -(-extent // most)
    tile, lane = Var("tile", tiles), Var("lane", most)
    vars = [v for v in plan.outer if x.at.coefficient(v) != 0]
    steps = [v for v in (*plan.summed, *(v for v, _ in plan.unrolled)) if x.at.coefficient(v) != 0]
    order = [*vars, tile, *steps, lane]
    shape = tuple(var.extent for var in order if var.extent is not None)
    packed = linear([variable(var) for var in order], shape)
    # The last tile has as many rows as any: where one has fewer, the next row follows.
    first = Var(body.emit("const long", variable(tile), f" * {extent} / {tiles}"), extent - most + 1)
    place = variable(first) + variable(lane)
    element = body.element(x.pointer, x.at.replace({row: place}), x.size, C_TYPES[plan.dtype])
    store = Store(target, packed, element, product(shape))
    # Steps of such sums lie pages apart, and the rows of each side by side.
    box = box_of([v for v in (*vars, *steps, tile, lane) if v.extent != 1], body, [store])
    packed = packed.replace({lane: variable(Var("row_in_tile", most))})
    return box, Operand(target, packed, product(shape), x.in_vectors), product(shape)
