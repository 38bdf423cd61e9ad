"""The loops over tiles, and what follows from a finished one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Box, Store, Writer
from chainrule.engines.cpu.scalars import C_TYPES
from chainrule.engines.cpu.sides import LANE, Side
from chainrule.engines.cpu.tile_function import TileFunction
from chainrule.engines.cpu.tile_plan import Plan
from chainrule.engines.cpu.tile_units import Units
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
        self.functions: dict[str, str] = {}

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
        """Call the function of the tile, and compute what follows from it."""
        _prove_tile(plan)
        size = product(self.node.output.shape)
        whole = plan.out.replace({plan.column: Index()}) if plan.column is not None else plan.out
        prove("result", whole + variable(Var("place", plan.width)), size)
        follows = self.target is None and bool(self.roots or self.sides)
        adds = self.target is not None
        name, text = TileFunction(plan, counts, adds, follows, split).write()
        self.functions[name] = text
        inside = {*plan.summed, *(var for var, _ in plan.unrolled)}
        inside |= {var for var, _ in plan.x.at.terms if var.name == "row_in_tile"}
        sources = [f"{operand.pointer} + ({_without(operand.at, inside)})" for operand in (plan.x, plan.y)]
        bounds = f"first_{split.name}, last_{split.name}" if split is not None else "0, 0"
        last = f"{plan.column.name} + {counts[-1]} == {plan.column.extent}" if plan.column and plan.panels > 1 else "1"
        rest = f"{bounds}, {'fresh' if adds else '1'}, {last}, B"
        if not follows:
            target = self.target if self.target is not None else self.name(self.node.output)
            w.line(f"{name}({', '.join(sources)}, {target} + ({plan.out}), {rest});")
            return
        panel = plan.lanes * counts[-1] if plan.column is not None else 1
        rows = prod(counts[: len(plan.rows)])
        w.line(f"{self.type} finished[{rows * panel}] __attribute__((aligned(64)));")
        w.line(f"{name}({', '.join(sources)}, finished, {rest});")
        self._epilogue_loops(w, plan, counts, panel)

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
