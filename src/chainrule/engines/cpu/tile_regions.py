"""Large products of matrices in regions: blocks of the result whose sums stay in the second cache of a core, block by block of the sum.

A region is a task. For every block of steps it copies its rows of x and its columns of y for these steps into memory of the thread,
in the order in which tiles read them, and adds their products to its sums; after the last block each finished tile is handed to what
follows. So steps that lie pages apart, or fall on the same sets of the caches, or whose number is the batch size, cost the same as
others, and main memory is read once for every region. While a block is multiplied, the next one is fetched.

    sums[r, v] += Σ_k x_block[r, k] · y_block[k, v]        for every block of k

Sizes alone decide which products run so, and into how many regions and blocks they are cut (blocking as by Goto and van de Geijn,
"Anatomy of high-performance matrix multiplication", 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import MOST_CHUNKS, Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_kernel import Cut, KernelWriter
from chainrule.engines.cpu.tile_plan import COPY, TRANSPOSE, Operand, Plan, Product, merged
from chainrule.engines.cpu.tile_shape import NOMINAL, Axis, choose_shape
from chainrule.engines.cpu.tile_units import SECOND_CACHE
from chainrule.ir.sizes import Dim, Size, at, divide

# Bytes of the sums of a region, and of what it copies of both operands for a block of steps.
SUMS, COPIES = 1 << 18, 1 << 18
# Smaller results have too few regions, and short sums nothing to cut into blocks.
FEWEST_REGIONS, FEWEST_ALONG = 8, 256
# Bytes of a weight that a batch's rows are multiplied by: smaller ones are better laid out once (``layouts.py``) and read by all rows.
LARGE_WEIGHT = 1 << 24
# The same, and steps of the sum at least, where it lies across the vectors: laying it out would be a pass over memory of its own.
LARGE_ACROSS, FEWEST_ACROSS = 3 << 19, 64
# Regions at least, about, of a short batch.
SHORT_REGIONS = 16
# Elements that keep copies which are read together off the same sets of a cache; steps that are copied while lines of them are near.
APART, NEAR = 16, 8


def plan_in_regions(p: Product, registers: int) -> tuple[Plan, float] | None:
    """The plan of a large product of two matrices, and its cost in cycles; None for other contractions."""
    way, vector = p.way, p.column
    if vector is None or p.x.at.coefficient(way.vector) != 0:
        return None
    column = {way.vector: variable(vector) * way.lanes}
    places, kept = merged([p.out, p.x.at.replace(column), p.y.at.replace(column)], p.kept, p.apart)
    places, summed = merged(places, p.summed)
    if len(kept) != 1 or len(summed) != 1:
        return None
    (row,), (step,) = kept, summed
    out, x, y = places
    width, size = way.vector.extent, BYTES[p.dtype]
    if row.extent is None or step.extent is None or not isinstance(width, int):
        return None
    across = y.coefficient(vector) != way.lanes
    if isinstance(row.extent, Size):
        elements, least = step.extent * width, LARGE_ACROSS if across else LARGE_WEIGHT
    else:
        elements, least = row.extent * width, FEWEST_REGIONS * SUMS
    if isinstance(elements, Size) or elements * size < least:
        return None
    if not isinstance(step.extent, Size) and step.extent * width * size <= SECOND_CACHE:
        return None  # all rows find y in the second cache
    if not isinstance(step.extent, Size) and step.extent < (FEWEST_ACROSS if across else FEWEST_ALONG):
        return None
    if {var for var, _ in x.terms} != {row, step} or {var for var, _ in y.terms} != {vector, step}:
        return None
    if x.coefficient(step) != 1 and (x.coefficient(row) != 1 or isinstance(row.extent, Size)):
        return None
    if not (y.coefficient(vector) == way.lanes or y.coefficient(step) == 1):
        return None
    shape = choose_shape(
        (Axis(0 if isinstance(row.extent, Size) else row.extent, 1, 0),),
        Axis(way.vectors, 0, way.lanes),
        (Axis(0, 16, way.lanes * 4),),
        False,
        way.lanes,
        way.lanes * size,
        registers,
    )
    if len(shape.rows) != 1:
        return None
    rows = [(row, shape.rows[0][1])]
    plan = Plan(
        out,
        Operand(p.x.pointer, x, p.x.size, False),
        Operand(p.y.pointer, y, p.y.size),
        [],
        rows,
        vector,
        shape.vectors,
        [step],
        [],
        width,
        way.lanes,
        p.dtype,
        in_regions=True,
    )
    cut = Regions(plan)
    depth, known = at(step.extent, NOMINAL), at(row.extent, NOMINAL)
    copied = COPY * cut.across * known + (COPY if cut.y_in_order else TRANSPOSE) * -(-known // cut.side) * width
    return plan, depth * (shape.cost / NOMINAL + copied)


@dataclass(frozen=True, slots=True)
class Regions:
    """How a plan is cut: ``down`` × ``across`` regions, and the memory of a thread that one of them needs."""

    plan: Plan

    @property
    def most(self) -> int:
        """Rows of a tile at most."""
        return self.plan.rows[0][1]

    @property
    def rows(self) -> Dim:
        extent = self.plan.rows[0][0].extent
        assert extent is not None, "an index of rows has an extent"
        return extent

    @property
    def tiles(self) -> str:
        """Tiles from the first row to the last, as C."""
        if isinstance(self.rows, Size):
            return f"(({c_size(self.rows)} + {self.most - 1}) / {self.most})"
        return str(-(-self.rows // self.most))

    @property
    def side(self) -> int:
        """Rows and columns of a region, about."""
        return isqrt(SUMS // BYTES[self.plan.dtype])

    @property
    def tiles_in_region(self) -> int:
        """Tiles of a region from its first row to its last, at most."""
        if isinstance(self.rows, Size):
            return self.side // self.most
        tiles = -(-self.rows // self.most)
        return -(-tiles // min(tiles, -(-self.rows // self.side)))

    @property
    def down(self) -> str:
        """Regions from the first row to the last, as C."""
        if isinstance(self.rows, Size):
            return f"(({self.tiles} + {self.tiles_in_region - 1}) / {self.tiles_in_region})"
        return str(min(int(self.tiles), -(-self.rows // self.side)))

    @property
    def across(self) -> int:
        """Regions from the first column to the last, at least."""
        return min(self.plan.panels, -(-self.plan.width // self.side))

    @property
    def narrow(self) -> str:
        """The same as C: more where a batch is so short that there would be few regions."""
        if not isinstance(self.rows, Size):
            return str(self.across)
        return f"cr_least({self.plan.panels}, {self.across} + {SHORT_REGIONS} / ({self.down} + 1))"

    @property
    def panels_in_region(self) -> int:
        return -(-self.plan.panels // self.across)

    @property
    def block(self) -> int:
        """Steps of a block at most."""
        return COPIES // (2 * self.side * BYTES[self.plan.dtype])

    @property
    def x_in_order(self) -> bool:
        """Whether rows lie side by side in x, and not the steps of the sum."""
        return self.plan.x.at.coefficient(self.plan.rows[0][0]) == 1

    @property
    def y_in_order(self) -> bool:
        assert self.plan.column is not None, "regions have columns"
        return self.plan.y.at.coefficient(self.plan.column) == self.plan.lanes

    @property
    def x_tile(self) -> int:
        """Elements of the copy of a tile's rows."""
        return self.most * self.block + APART if self.x_in_order else self.most * self.x_row

    @property
    def x_row(self) -> int:
        """From one row to the next in the copy of a tile's rows, where steps lie side by side."""
        return self.block + APART

    @property
    def y_panel(self) -> int:
        """Elements of the copy of a panel."""
        return self.plan.panel * self.block + APART

    @property
    def tile(self) -> int:
        """Elements of the sums of a tile."""
        return self.most * self.plan.panel

    @property
    def buffers(self) -> list[tuple[str, Dim]]:
        """The names and elements of what a thread keeps."""
        tiles, panels = self.tiles_in_region, self.panels_in_region
        return [
            ("sums", tiles * panels * self.tile),
            ("x_block", tiles * self.x_tile),
            ("y_block", panels * self.y_panel),
        ]

    @property
    def copied(self) -> Plan:
        """The plan of a tile that reads the copies."""
        most, lanes, panel = self.most, self.plan.lanes, self.plan.panel
        assert self.plan.column is not None, "regions have columns"
        buffers = dict(self.buffers)
        steps, row = Var("step", self.block), Var("row_in_tile", most)
        tile, strip = Var("x_tile", self.tiles_in_region), Var("y_panel", self.panels_in_region)
        across, along = (1, most) if self.x_in_order else (self.x_row, 1)
        x = Index(((tile, self.x_tile), (row, across), (steps, along)))
        column = Var(self.plan.column.name, self.plan.vectors)
        y = Index(((strip, self.y_panel), (column, lanes), (steps, panel)))
        prove("x_block", x, buffers["x_block"])
        prove("y_block", y + variable(Var("lane", lanes)), buffers["y_block"])
        slot = Index(((strip, self.tiles_in_region * self.tile), (tile, self.tile)))
        prove("sums", slot + variable(Var("sum", self.tile)), buffers["sums"])
        return replace(
            self.plan,
            x=Operand("x_block", x, buffers["x_block"], False),
            y=Operand("y_block", y.replace({column: Index(((self.plan.column, 1),))}), buffers["y_block"]),
            summed=[steps],
            rows_packed=True,
        )


class RegionWriter:
    """Writes the loops over regions, blocks and tiles of one plan."""

    def __init__(self, w: Writer, plan: Plan, kernel: KernelWriter) -> None:
        self.w, self.plan, self.kernel, self.cut = w, plan, kernel, Regions(plan)
        self.type, self.bytes = C_TYPES[plan.dtype], BYTES[plan.dtype]
        ((self.row, self.most),) = plan.rows
        (self.step,) = plan.summed
        assert plan.column is not None, "regions have columns"
        self.column = plan.column
        assert self.step.extent is not None, "an index of a sum has an extent"
        self.depth = c_size(self.step.extent)

    @property
    def chunks(self) -> str:
        """The number of chunks as C."""
        if isinstance(self.cut.rows, Size):
            return f"cr_chunks({self.cut.down} * {self.cut.narrow}, 1, {MOST_CHUNKS})"
        return str(min(MOST_CHUNKS, int(self.cut.down) * self.cut.across))

    def write(self) -> None:
        """All regions of a chunk."""
        w, cut = self.w, self.cut
        plan = self.plan
        prove(plan.x.pointer, plan.x.at, plan.x.size)
        lane = plan.y.at.replace({self.column: Index()}) + Index(((Var("place", plan.width), self._y_step),))
        prove(plan.y.pointer, lane, plan.y.size)
        w.line(f"const long tiles = {cut.tiles}, down = {cut.down}, across = {cut.narrow}, chunks = {self.chunks};")
        w.line(
            "const long low = cr_cut(down * across, chunk, chunks), high = cr_cut(down * across, chunk + 1, chunks);"
        )
        w.line(f"const long blocks = ({self.depth} - 1) / {cut.block} + 1;")
        with w.block("for (long region = low; region < high; region++)"):
            for name, place, count, whole in (
                ("tile", "region / across", "tiles", "down"),
                ("panel", "region % across", str(plan.panels), "across"),
            ):
                w.line(f"const long first_{name} = cr_cut({count}, {place}, {whole});")
                w.line(f"const long last_{name} = cr_cut({count}, {place} + 1, {whole});")
            w.line(f"const long first_row = {self._row_of('first_tile')}, last_row = {self._row_of('last_tile')};")
            w.line(f"const long first_place = {self._place_of('first_panel')};")
            w.line(f"const long last_place = cr_least({self._place_of('last_panel')}, {plan.width});")
            w.line("const long calls = (last_tile - first_tile) * (last_panel - first_panel);")
            with w.block("for (long block = 0; block < blocks; block++)"):
                self._block()

    @property
    def _y_step(self) -> Dim:
        found = divide(self.plan.y.at.coefficient(self.column), self.plan.lanes)
        assert found is not None, "a vector takes as many steps as it has lanes"
        return found

    def _row_of(self, tile: str) -> str:
        rows = self.cut.rows
        if isinstance(rows, Size):
            return f"cr_least({tile} * {self.most}, {c_size(rows)})"
        return f"{tile} * {rows} / {self.cut.tiles}"

    def _place_of(self, panel: str) -> str:
        return f"{panel} * {self.column.extent} / {self.plan.panels} * {self.plan.lanes}"

    def _block(self) -> None:
        w = self.w
        w.line(f"const long start = cr_cut({self.depth}, block, blocks);")
        w.line(f"const long steps = cr_cut({self.depth}, block + 1, blocks) - start;")
        w.line("const _Bool fresh = block == 0, ends = block == blocks - 1;")
        self._copy_x()
        self._copy_y()
        w.line("const long after = start + steps;")
        w.line(f"const long more = ends ? 0 : cr_cut({self.depth}, block + 2, blocks) - after;")
        w.line(f"const long x_lines = {'more' if self.cut.x_in_order else 'more ? last_row - first_row : 0'};")
        w.line(f"const long y_lines = {'more' if self.cut.y_in_order else 'more ? last_place - first_place : 0'};")
        w.line("long call = 0, x_fetched = 0, y_fetched = 0;")
        with w.block("for (long panel = first_panel; panel < last_panel; panel++)"):
            column = self._column()
            with w.block("for (long tile = first_tile; tile < last_tile; tile++)"):
                row = self._rows()
                self._fetch()
                slot = self.cut.tiles_in_region * self.cut.tile
                place = f"(panel - first_panel) * {slot} + (tile - first_tile) * {self.cut.tile}"
                w.line(f"{self.type} *const finished = sums + (blocks > 1 ? {place} : 0);")
                w.line("const long x_tile = tile - first_tile, y_panel = panel - first_panel;")
                self.kernel.region_tile(w, self.plan, self.cut.copied, [row, column])

    def _rows(self) -> Cut:
        """The first row of a tile, and how many it has; tiles at the end of a batch are computed whole, and used as far as they go."""
        if isinstance(self.cut.rows, Size):
            self.w.line(f"const long {self.row.name} = tile * {self.most};")
            self.w.line(f"const long count_rows = cr_least({self.most}, {c_size(self.cut.rows)} - {self.row.name});")
            return Cut([self.most], "count_rows")
        return self.kernel.evenly(self.w, self.row, self.most, "tile")

    def _column(self) -> Cut:
        return self.kernel.columns(self.w, self.plan)

    # Copies.

    def _copy_x(self) -> None:
        """The rows of the region, tile by tile."""
        w, source = self.w, self.plan.x
        here = "x_block + (tile - first_tile) * " + str(self.cut.x_tile)
        if self.cut.x_in_order:
            with (
                w.block(f"for (long near = 0; near < steps; near += {NEAR})"),
                w.block("for (long tile = first_tile; tile < last_tile; tile++)"),
            ):
                cut = self._rows()
                with w.block(f"for (long k = near; k < cr_least(near + {NEAR}, steps); k++)"):
                    place = source.at.replace({self.step: variable(Var("start")) + variable(Var("k"))})
                    self._copy(f"{here} + k * {self.most}", f"{source.pointer} + ({place})", cut.count, cut.sizes)
            return
        with w.block("for (long tile = first_tile; tile < last_tile; tile++)"):
            cut = self._rows()
            with w.block(f"for (long k = 0; k < {cut.count}; k++)"):
                place = source.at.replace(
                    {self.row: variable(self.row) + variable(Var("k")), self.step: variable(Var("start"))}
                )
                size = f"(size_t)steps * {self.bytes}"
                w.line(f"memcpy({here} + k * {self.cut.x_row}, {source.pointer} + ({place}), {size});")

    def _copy_y(self) -> None:
        """The columns of the region, panel by panel, with zeros in the lanes beyond the last."""
        w, source, plan = self.w, self.plan.y, self.plan
        here = f"y_block + (panel - first_panel) * {self.cut.y_panel}"
        if self.cut.y_in_order:
            with (
                w.block(f"for (long near = 0; near < steps; near += {NEAR})"),
                w.block("for (long panel = first_panel; panel < last_panel; panel++)"),
            ):
                cut = self._column()
                sizes, width = [size * plan.lanes for size in cut.sizes], f"{cut.count} * {plan.lanes}"
                tail = plan.width % plan.lanes
                if tail:
                    sizes += [size - plan.lanes + tail for size in sizes]
                    width = f"cr_least({width}, {plan.width} - {variable(self.column) * plan.lanes})"
                w.line(f"const long width = {width};")
                with w.block(f"for (long k = near; k < cr_least(near + {NEAR}, steps); k++)"):
                    place = source.at.replace({self.step: variable(Var("start")) + variable(Var("k"))})
                    to = f"{here} + k * {plan.panel}"
                    self._copy(to, f"{source.pointer} + ({place})", "width", sizes)
                    if tail:
                        w.line(f"for (long l = width; l < {plan.panel}; l++) ({to})[l] = 0;")
            return
        with w.block("for (long panel = first_panel; panel < last_panel; panel++)"):
            cut = self._column()
            with (
                w.block(f"for (long k = 0; k < {cut.count}; k++)"),
                w.block(f"for (long near = 0; near < steps; near += {plan.lanes})"),
            ):
                known = {
                    self.column: variable(self.column) + variable(Var("k")),
                    self.step: variable(Var("start")) + variable(Var("near")),
                }
                rows = f"cr_least({plan.lanes}, {plan.width} - ({known[self.column] * plan.lanes}))"
                w.line(
                    f"cr_transpose_{plan.dtype}x{plan.lanes}({here} + k * {plan.lanes} + near * {plan.panel}, "
                    f"{plan.panel}, {source.pointer} + ({source.at.replace(known)}), {c_size(self._y_step)}, "
                    f"cr_least({plan.lanes}, steps - near), {rows});"
                )

    def _copy(self, to: str, source: str, count: str, sizes: Sequence[int]) -> None:
        """Copy as many elements as ``count`` says, one of ``sizes``: constants, so that vectors are moved."""
        for number, size in enumerate(sizes):
            test = f"if ({count} == {size}) " if number < len(sizes) - 1 else ""
            self.w.line(f"{'else ' if number else ''}{test}memcpy({to}, {source}, {size * self.bytes});")

    def _fetch(self) -> None:
        """A share of the next block of both operands."""
        w, line = self.w, LINE_BYTES // self.bytes
        w.line("call++;")
        after, near = variable(Var("after")), variable(Var("l"))
        x, y = self.plan.x, self.plan.y.at.replace({self.column: Index()}) + Index(((Var("place"), self._y_step),))
        for side, pointer, index, var, in_order, bounds in (
            ("x", x.pointer, x.at, self.row, self.cut.x_in_order, ("first_row", "last_row")),
            ("y", self.plan.y.pointer, y, Var("place"), self.cut.y_in_order, ("first_place", "last_place")),
        ):
            done = variable(Var(f"{side}_fetched"))
            known = (
                {var: near, self.step: after + done}
                if in_order
                else {var: variable(Var(bounds[0])) + done, self.step: after + near}
            )
            low, high = bounds if in_order else ("0", "more")
            with w.block(f"for (; {side}_fetched < {side}_lines * call / calls; {side}_fetched++)"):
                w.line(f"for (long l = {low}; l < {high}; l += {line}) CR_FETCH({pointer} + ({index.replace(known)}));")
