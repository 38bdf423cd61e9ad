"""The loops over tiles and the tile itself: sums in registers, the steps of the sum, and what is done with a finished tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Box, Store, Writer
from chainrule.engines.cpu.scalars import C_TYPES
from chainrule.engines.cpu.sides import LANE, Side
from chainrule.engines.cpu.tile_plan import Plan, goes_by_rows, row_blocks, row_tiles
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Size, product


class KernelWriter:
    """Writes the loops of one contraction node. ``slab`` is the batch index whose items are taken one by one, if any."""

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
        self.slab: Var | None = None

    def units(self, w: Writer, plan: Plan, split: Var | None) -> None:
        tiles, rows_text = row_tiles(plan)
        units_of_rows, per_unit = row_blocks(plan, tiles)
        with w.block("for (long unit = low; unit < high; unit++)"):
            self._decode(w, plan, units_of_rows)
            w.line(f"const long tiles = {rows_text};")
            w.line(f"const long last_tile = cr_least((block + 1) * {per_unit}, tiles);")
            with w.block(f"for (long tile = block * {per_unit}; tile < last_tile; tile++)"):
                self._tile_variants(w, plan, split)

    def _decode(self, w: Writer, plan: Plan, units_of_rows: str) -> None:
        w.line("long rest = unit;")
        order = [("block", units_of_rows), ("panel", str(plan.panels))]
        for name, extent in reversed(order) if goes_by_rows(plan) else order:
            if extent == "1":
                w.line(f"const long {name} = 0;")
            else:
                w.line(f"const long {name} = rest % {extent};")
                w.line(f"rest /= {extent};")
        for position, var in enumerate(reversed(plan.outer)):
            assert var.extent is not None, "an outer index has an extent"
            if position == len(plan.outer) - 1:
                w.line(f"const long {var.name} = rest;")
            else:
                w.line(f"const long {var.name} = rest % {c_size(var.extent)};")
                w.line(f"rest /= {c_size(var.extent)};")

    def _tile_variants(self, w: Writer, plan: Plan, split: Var | None) -> None:
        extent = plan.row.extent
        if not isinstance(extent, Size):
            assert extent is not None, "the row index has an extent"
            tiles = -(-extent // plan.most_rows)
            sizes = sorted({extent // tiles, -(-extent // tiles)})
            w.line(f"const long {plan.row.name} = tile * {extent} / tiles;")
            if len(sizes) == 1:
                self._tile(w, plan, sizes[0], split)
                return
            with w.block(f"if ((tile + 1) * {extent} / tiles - {plan.row.name} == {sizes[0]})", "} else {"):
                self._tile(w, plan, sizes[0], split)
            w.depth += 1
            self._tile(w, plan, sizes[1], split)
            w.depth -= 1
            w.line("}")
            return
        w.line(f"const long first_row = tile * {plan.most_rows};")
        w.line(f"const long row_end = cr_least(first_row + {plan.most_rows}, {c_size(extent)});")
        w.line(f"long {plan.row.name} = first_row;")
        size = plan.most_rows
        while size:
            head = "if" if size == plan.most_rows else "while"
            with w.block(f"{head} (row_end - {plan.row.name} >= {size})"):
                self._tile(w, plan, size, split)
                w.line(f"{plan.row.name} += {size};")
            size //= 2

    def _tile(self, w: Writer, plan: Plan, rows: int, split: Var | None) -> None:
        vector_type = f"cr_{plan.dtype}_vector"
        names = [[f"c{r}_{v}" for v in range(plan.vectors)] for r in range(rows)]
        for row in names:
            w.line(f"{vector_type} " + ", ".join(f"{name} = {{0}}" for name in row) + ";")
        _prove_tile(plan)
        x, y = plan.x.at, plan.y.at
        step = plan.x.at.coefficient(plan.row) if not plan.rows_packed else 1
        x = x.replace({Var("row_in_tile"): Index()})
        sums = set(plan.summed)
        w.line(f"const {self.type} *const x = {plan.x.pointer} + ({_without(x, sums)});")
        w.line(f"const {self.type} *const y = {plan.y.pointer} + ({_without(y, sums)});")
        self._sum_loops(
            w, plan, plan.summed, split, lambda: self._step(w, plan, names, _only(x, sums), _only(y, sums), step)
        )
        self._finish(w, plan, names, split)

    def _sum_loops(
        self, w: Writer, plan: Plan, vars: Sequence[Var], split: Var | None, inner: Callable[[], None]
    ) -> None:
        if not vars:
            inner()
            return
        var = vars[0]
        bounds = (f"first_{var.name}", f"last_{var.name}") if var is split else ("0", None)
        with w.loop(var, *bounds):
            self._sum_loops(w, plan, vars[1:], split, inner)

    def _step(self, w: Writer, plan: Plan, names: list[list[str]], x: Index, y: Index, step: Dim) -> None:
        vector_type = f"cr_{plan.dtype}_vector"
        for v in range(plan.vectors):
            w.line(f"const {vector_type} y{v} = *(const {vector_type}_anywhere *)(y + {y + v * plan.width});")
        for r, row in enumerate(names):
            w.line(f"const {self.type} x{r} = x[{x + step * r}];")
            for v, name in enumerate(row):
                w.line(f"{name} += x{r} * y{v};")

    def _finish(self, w: Writer, plan: Plan, names: list[list[str]], split: Var | None) -> None:
        """Store the tile, or compute what follows from it."""
        vector_type = f"cr_{plan.dtype}_vector"
        if split is not None:
            target = f"parts + chunk * {c_size(product(self.node.output.shape))}"
        else:
            target = self.name(self.node.output) if self.keeps_result else ""
        plain = split is not None or not (self.roots or self.sides)
        first = variable(Var("panel", plan.panels)) * plan.panel
        if plain and plan.full:
            prove(target, plan.out, product(self.node.output.shape))
            for r, row in enumerate(names):
                for v, name in enumerate(row):
                    at = plan.out.replace({plan.vector: first}) + (plan.out.coefficient(plan.row) * r + v * plan.width)
                    sign = "+=" if split is not None and split is self.slab else "="
                    w.line(f"*({vector_type}_anywhere *)({target} + {at}) {sign} {name};")
            return
        w.line(f"{self.type} finished[{len(names) * plan.panel}] __attribute__((aligned(64)));")
        for r, row in enumerate(names):
            for v, name in enumerate(row):
                w.line(f"*({vector_type} *)(finished + {r * plan.panel + v * plan.width}) = {name};")
        box = self._epilogue(plan, target, plain, split)
        with w.block(f"for (long r = 0; r < {len(names)}; r++)"):
            if plan.full:
                self._epilogue_row(w, plan, box, str(plan.panel), plan.row.name)
            else:
                w.line(f"const long width = cr_least({plan.panel}, {plan.vector.extent} - panel * {plan.panel});")
                self._epilogue_row(w, plan, box, "width", plan.row.name)

    def _epilogue_row(self, w: Writer, plan: Plan, box: Box, limit: str, row: str) -> None:
        w.line(f"const long this_row = {row} + r;")
        w.line("CR_INDEPENDENT")
        with w.block(f"for (long l = 0; l < {limit}; l++)"):
            w.line(f"const long column = panel * {plan.panel} + l;")
            box.write(w)
            box.write_stores(w)

    def _epilogue(self, plan: Plan, target: str, plain: bool, split: Var | None) -> Box:
        row, column = Var("this_row", plan.row.extent), Var("column", plan.vector.extent)
        out = plan.out.replace({plan.row: variable(row), plan.vector: variable(column)})
        body = self.body()
        element = body.emit(self.type, f"finished[r * {plan.panel} + l]")
        if split is not None and split is self.slab:
            element = body.emit(self.type, f"{element} + ({target})[", out, "]")
        size = product(self.node.output.shape)
        stores = [Store(f"({target})", out, element, size)] if plain or self.keeps_result else []
        if not plain:
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
    """All that a tile reads: elements of x in its rows, and vectors of y."""
    row = variable(Var("row_in_tile", plan.most_rows))
    prove(plan.x.pointer, plan.x.at.replace({Var("row_in_tile"): row}), plan.x.size)
    prove(plan.y.pointer, plan.y.at + variable(Var("lane", plan.panel)), plan.y.size)


def _without(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v not in vars), index.offset)


def _only(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v in vars))
