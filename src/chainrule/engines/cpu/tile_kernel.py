"""The loops over tiles, the sum of a tile, and what is done with a finished one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Box, Store, Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.sides import LANE, Side
from chainrule.engines.cpu.tile_body import Place, places_of, sum_name, write_step
from chainrule.engines.cpu.tile_plan import Plan
from chainrule.engines.cpu.tile_units import Units
from chainrule.engines.cpu.vectors import vector_type
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Size, divide, product


class KernelWriter:
    """Writes the loops of one contraction node.

    Tiles are stored in ``target``, if one is given: parts of sums, to which tiles are added unless the C variable ``fresh`` is true.
    Otherwise they are results, and what follows from them is computed as well.
    """

    def __init__(
        self,
        node: Node,
        body: Callable[[], Body],
        name: Callable[[Value], str],
        roots: Sequence[Value],
        keeps_result: bool,
        sides: Sequence[Side] = (),
    ) -> None:
        self.sides = sides
        self.node, self.body, self.name, self.roots, self.keeps_result = node, body, name, roots, keeps_result
        self.type = C_TYPES[node.output.dtype]
        self.target: str | None = None

    def units(self, w: Writer, plan: Plan, units: Units, split: Var | None) -> None:
        """The loop over the units [low, high); ``split`` is the index of the sum that has bounds of its own."""
        with w.block("for (long unit = low; unit < high; unit++)"):
            units.decode(w)
            self._columns(w, plan, units, split)

    # Tiles are cut evenly, so there are two sizes of them on every axis.

    def _columns(self, w: Writer, plan: Plan, units: Units, split: Var | None) -> None:
        if plan.column is None:
            self._rows(w, plan, units, [], split)
            return
        columns, panels = plan.column.extent, plan.panels
        assert isinstance(columns, int), "a number of vectors is constant"
        name = plan.column.name
        if columns == 1:
            self._rows(w, plan, units, [1], split)
            return
        w.line(f"const long {name} = {f'panel * {columns} / {panels}' if panels > 1 else 0};")
        sizes = sorted({columns // panels, -(-columns // panels)})
        if len(sizes) == 1:
            self._rows(w, plan, units, sizes, split)
            return
        with w.block(f"if ((panel + 1) * {columns} / {panels} - {name} == {sizes[0]})", "} else {"):
            self._rows(w, plan, units, sizes[:1], split)
        w.depth += 1
        self._rows(w, plan, units, sizes[1:], split)
        w.depth -= 1
        w.line("}")

    def _rows(self, w: Writer, plan: Plan, units: Units, vectors: Sequence[int], split: Var | None) -> None:
        def finish(counts: Sequence[int]) -> None:
            self._tile(w, plan, [*counts, *vectors], split)

        if not plan.rows:
            finish([])
            return
        (row, most), *others = units.rows
        order = {var: number for number, (var, _) in enumerate(plan.rows)}

        def inner(count: int) -> None:
            if not others:
                finish([count])
                return
            ((second, most_of_second),) = others

            def both(more: int) -> None:
                counts = sorted(((order[row], count), (order[second], more)))
                finish([n for _, n in counts])

            assert isinstance(second.extent, int), "only the first index of rows may be symbolic"
            tiles = -(-second.extent // most_of_second)
            if tiles == 1:
                w.line(f"const long {second.name} = 0;")
                both(second.extent)
                return
            with w.block(f"for (long tile_1 = 0; tile_1 < {tiles}; tile_1++)"):
                self._cut(w, second, tiles, "tile_1", both)

        with w.block(f"for (long tile = block * {units.per_unit}; tile < last_tile; tile++)"):
            if isinstance(row.extent, Size):
                self._symbolic(w, row, most, inner)
            else:
                assert row.extent is not None, "an index of rows has an extent"
                self._cut(w, row, -(-row.extent // most), "tile", inner)

    def _cut(self, w: Writer, var: Var, tiles: int, tile: str, inner: Callable[[int], None]) -> None:
        """A tile of one of the two sizes that there are."""
        extent = var.extent
        assert isinstance(extent, int), "cut evenly at compile time"
        sizes = sorted({extent // tiles, -(-extent // tiles)})
        w.line(f"const long {var.name} = {tile} * {extent} / {tiles};")
        if len(sizes) == 1:
            inner(sizes[0])
            return
        with w.block(f"if (({tile} + 1) * {extent} / {tiles} - {var.name} == {sizes[0]})", "} else {"):
            inner(sizes[0])
        w.depth += 1
        inner(sizes[1])
        w.depth -= 1
        w.line("}")

    def _symbolic(self, w: Writer, row: Var, most: int, inner: Callable[[int], None]) -> None:
        """Whole tiles, and halves, quarters and so on of one for the rows that are left."""
        extent = row.extent
        assert isinstance(extent, Size), "the number of rows is known at run time"
        if divide(extent, most) is not None:
            w.line(f"const long {row.name} = tile * {most};")
            inner(most)
            return
        w.line(f"const long row_end = cr_least(tile * {most} + {most}, {c_size(extent)});")
        w.line(f"long {row.name} = tile * {most};")
        size = most
        while size:
            head = "if" if size == most else "while"
            with w.block(f"{head} (row_end - {row.name} >= {size})"):
                inner(size)
                w.line(f"{row.name} += {size};")
            size //= 2

    # One tile.

    def _tile(self, w: Writer, plan: Plan, counts: Sequence[int], split: Var | None) -> None:
        places = places_of(counts)
        vector = vector_type(plan.dtype, plan.lanes)
        w.line(f"{vector} " + ", ".join(f"{sum_name(place)} = {{0}}" for place in places) + ";")
        if self.target is not None and plan.column is not None:
            with w.block("if (!fresh)"):
                for place in places:
                    self._move(w, plan, place, counts, stores=False)
        _prove_tile(plan)
        inside = {*plan.summed, *(var for var, _ in plan.unrolled)}
        inside |= {var for var, _ in plan.x.at.terms if var.name == "row_in_tile"}
        for side, operand in (("x", plan.x), ("y", plan.y)):
            w.line(f"const {self.type} *const {side} = {operand.pointer} + ({_without(operand.at, inside)});")
        self._sum_loops(w, plan, counts, plan.summed, split)
        self._finish(w, plan, counts)

    def _sum_loops(self, w: Writer, plan: Plan, counts: Sequence[int], vars: Sequence[Var], split: Var | None) -> None:
        moving = set(plan.summed)
        x, y = _only(plan.x.at, moving), _only(plan.y.at, moving)
        if plan.tail and len(vars) == 1:
            (var,) = vars
            if var.extent != 0:
                with w.loop(var):
                    write_step(w, plan, counts, x, y)
            end = {var: Index((), var.extent or 0)}
            with w.block(""):
                write_step(w, plan, counts, x.replace(end), y.replace(end), plan.tail)
            return
        if not vars:
            with w.block(""):
                write_step(w, plan, counts, x, y)
            return
        bounds = (f"first_{vars[0].name}", f"last_{vars[0].name}") if vars[0] is split else ("0", None)
        with w.loop(vars[0], *bounds):
            if len(vars) > 1:
                self._sum_loops(w, plan, counts, vars[1:], split)
            else:
                write_step(w, plan, counts, x, y)

    def _move(self, w: Writer, plan: Plan, place: Place, counts: Sequence[int], stores: bool) -> None:
        """Store or load one vector of the tile, or the part of it that there is."""
        vector, name = vector_type(plan.dtype, plan.lanes), sum_name(place)
        target = self.target if self.target is not None else self.name(self.node.output)
        address = f"{target} + ({self._at(plan, place)})"
        whole = f"*({vector}_anywhere *)({address})"
        text = f"{whole} = {name};" if stores else f"{name} = {whole};"
        rest = plan.width % plan.lanes
        if rest and place[-1] == counts[-1] - 1:
            bytes = rest * BYTES[plan.dtype]
            part = f"memcpy({address}, &{name}, {bytes});" if stores else f"memcpy(&{name}, {address}, {bytes});"
            condition = self._is_last(plan, counts)
            text = part if condition is None else f"if ({condition}) {part} else {text}"
        w.line(text)

    def _is_last(self, plan: Plan, counts: Sequence[int]) -> str | None:
        """Whether the tile has the last vectors of all; None if it always has."""
        assert plan.column is not None, "along the output"
        if plan.panels == 1:
            return None
        return f"{plan.column.name} + {counts[-1]} == {plan.column.extent}"

    def _at(self, plan: Plan, place: Place) -> Index:
        dims = [*(var for var, _ in plan.rows), *([plan.column] if plan.column is not None else [])]
        at = plan.out
        for var, k in zip(dims, place, strict=True):
            at = at + plan.out.coefficient(var) * k
        return at

    def _finish(self, w: Writer, plan: Plan, counts: Sequence[int]) -> None:
        """Store the tile, or compute what follows from it."""
        places = places_of(counts)
        whole = plan.out.replace({plan.column: Index()}) if plan.column is not None else plan.out
        prove("result", whole + variable(Var("place", plan.width)), product(self.node.output.shape))
        if self.target is not None or not (self.roots or self.sides):
            if plan.column is not None:
                for place in places:
                    self._move(w, plan, place, counts, stores=True)
                return
            target = self.target if self.target is not None else self.name(self.node.output)
            for place in places:
                at = self._at(plan, place)
                before = f"(fresh ? 0 : {target}[{at}]) + " if self.target is not None else ""
                w.line(f"{target}[{at}] = {before}{self._across(plan, place)};")
            return
        panel = plan.lanes * counts[-1] if plan.column is not None else 1
        w.line(f"{self.type} finished[{len(places) // (counts[-1] if plan.column is not None else 1) * panel}]")
        w.lines[-1] += " __attribute__((aligned(64)));"
        for number, place in enumerate(places):
            if plan.column is not None:
                vector = vector_type(plan.dtype, plan.lanes)
                w.line(f"*({vector} *)(finished + {number * plan.lanes}) = {sum_name(place)};")
            else:
                w.line(f"finished[{number}] = {self._across(plan, place)};")
        self._epilogue_loops(w, plan, counts, panel)

    def _across(self, plan: Plan, place: Place) -> str:
        return f"cr_sum_{plan.dtype}x{plan.lanes}({sum_name(place)})"

    def _epilogue_loops(self, w: Writer, plan: Plan, counts: Sequence[int], panel: int) -> None:
        rows = [(var, count) for (var, _), count in zip(plan.rows, counts)]
        known: dict[Var, Index] = {}
        number = Index()
        opened = 0
        for k, (var, count) in enumerate(rows):
            w.line(f"for (long r{k} = 0; r{k} < {count}; r{k}++) {{")
            w.depth += 1
            opened += 1
            w.line(f"const long this_{var.name} = {var.name} + r{k};")
            known[var] = variable(Var(f"this_{var.name}", var.extent))
            number = number * count + variable(Var(f"r{k}"))
        if plan.column is None:
            box = self._epilogue(plan.out.replace(known), number)
            if self.sides:
                w.line("const long l = 0;")
            box.write(w)
            box.write_stores(w)
        else:
            place = Var("place", plan.width)
            known[plan.column] = Index()
            box = self._epilogue(plan.out.replace(known) + variable(place), number * panel + variable(Var("l")))
            limit = str(panel)
            if plan.width % plan.lanes:
                limit = f"cr_least({panel}, {plan.width} - ({variable(plan.column) * plan.lanes}))"
                w.line(f"const long width = {limit};")
                limit = "width"
            w.line("CR_INDEPENDENT")
            with w.block(f"for (long l = 0; l < {limit}; l++)"):
                w.line(f"const long place = {variable(plan.column) * plan.lanes + variable(Var('l'))};")
                box.write(w)
                box.write_stores(w)
        for _ in range(opened):
            w.depth -= 1
            w.line("}")

    def _epilogue(self, out: Index, finished: Index) -> Box:
        body = self.body()
        element = body.emit(self.type, "finished[", finished, "]")
        size = product(self.node.output.shape)
        stores = [Store(self.name(self.node.output), out, element, size)] if self.keeps_result else []
        body.preset(self.node.output, Position(self.node.output.shape, None, out), element)
        stores += self.root_stores(body, out)
        stores += [side.store(body, out, variable(LANE)) for side in self.sides]
        return Box([], list(body.statements), stores)

    def root_stores(self, body: Body, out: Index) -> list[Store]:
        return [
            Store(self.name(root), out, body.read(root, Position(root.shape, None, out)), product(root.shape))
            for root in self.roots
        ]


def _prove_tile(plan: Plan) -> None:
    """All that a tile reads of both operands."""
    for operand in (plan.x, plan.y):
        at = operand.at
        if plan.tail:
            last = plan.summed[-1]
            assert isinstance(last.extent, int), "vectors along a sum are counted"
            at = at.replace({last: Index()}) + variable(Var("element", last.extent * plan.lanes + plan.tail))
        elif operand.in_vectors:
            at = at + variable(Var("lane", plan.lanes))
        prove(operand.pointer, at, operand.size)


def _without(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v not in vars), index.offset)


def _only(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v in vars))
