"""The tiled contraction: one register-blocked loop for matrix products, convolutions and their gradients alike.

    out[o, r, v] = Σ_k  x[o, r, k] · y[o, k, v]

``v``, the index along which the output is contiguous, runs in vectors; ``r`` in rows. A tile of rows × vectors of the output stays in
registers for the whole sum; each step of the sum loads a few vectors of y and multiplies them by broadcast elements of x. x and y
are read where they lie, unless reads leave the operand (a copy with a border of zeros is made) or y is not contiguous along v or does
not fill whole vectors (it is copied into panels). What follows the contraction elementwise is computed on the finished tile.

A long sum into few results is split into parts, added up in order. Their number depends on sizes alone, so that results do not
depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.indexing import Index, Var, at_least, c_size, linear, variable
from chainrule.engines.cpu.lattice import Piece, margins
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of
from chainrule.engines.cpu.nests import Region, Task, cut_range, regions_of, write_box, write_loops
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.sides import LANE, Side, end_of
from chainrule.engines.cpu.tile_kernel import KernelWriter
from chainrule.engines.cpu.tile_plan import (
    MOST_SPLIT,
    PARTS,
    Operand,
    Plan,
    aliases,
    classify,
    merged,
    part_count,
    sum_order,
    tile_chunks,
    tile_shape,
    units_of,
    work_of_tiles,
)
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Shape, Size, divide, product

BLOCK = 32
# Fewer items than this cannot be divided well among threads.
FEWEST_SLABS = 8

Border = tuple[list[Dim], list[Dim]]


class TileWriter:
    """Writes the tasks of one contraction node whose pieces can all be tiled (or are zero)."""

    def __init__(
        self,
        node: Node,
        pieces: Sequence[Piece],
        vector_bytes: int,
        body: Callable[[], Body],
        name: Callable[[Value], str],
        roots: Sequence[Value],
        keeps_result: bool,
        sides: Sequence[Side] = (),
    ) -> None:
        assert not sides or len(pieces) == 1, "sums run along with the only piece"
        self.sides = sides
        self.node, self.pieces, self.vector_bytes = node, pieces, vector_bytes
        self.body, self.name, self.roots, self.keeps_result = body, name, roots, keeps_result
        self.type = C_TYPES[node.output.dtype]
        self.regions: list[Region] = []
        self.tasks: list[Task] = []
        self.slab: Var | None = None
        self.kernel = KernelWriter(node, body, name, roots, keeps_result, sides)
        self.slab_border, self.slab_units = Writer(), Writer()
        self.slab_copy: Box | None = None
        self.slab_work: Dim = 0

    def write(self) -> list[Task]:
        sides = ("a", "b")
        borders = [self._border_of(value, [getattr(p, side) for p in self._summing]) for side, value in self._operands]
        self.slab = self.kernel.slab = self._find_slab(borders)
        operands: list[tuple[str, Shape, list[Dim]]] = []
        for (side, value), border in zip(self._operands, borders, strict=True):
            if border is None:
                operands.append((self.name(value), value.shape, [0] * len(value.shape)))
            elif self.slab is not None:
                operands.append((f"border_{side}", self._border_in_slab(value, border, side), border[0]))
            else:
                operands.append((f"border_{side}", self._border_at_once(value, border, side), border[0]))
        for number, piece in enumerate(self.pieces):
            out = linear(piece.out, self.node.output.shape)
            if piece.is_zero:
                self._zero(piece, out)
                continue
            places = []
            for side, (pointer, shape, low) in zip(sides, operands, strict=True):
                place = linear([i + n for i, n in zip(getattr(piece, side), low, strict=True)], shape)
                if self.slab is not None and pointer == f"border_{side}":
                    place = place.replace({self.slab: Index()})
                places.append(Operand(pointer, place, product(shape)))
            self._piece(piece, out, places[0], places[1], number)
        if self.slab is not None:
            self._slab_task()
        for task in self.tasks:
            task.regions = list({region.name: region for region in (*self.regions, *task.regions)}.values())
        return self.tasks

    @property
    def _operands(self) -> list[tuple[str, Value]]:
        return list(zip(("a", "b"), self.node.inputs, strict=True))

    @property
    def _summing(self) -> list[Piece]:
        return [piece for piece in self.pieces if not piece.is_zero]

    def _border_of(self, value: Value, places: Sequence[tuple[Index, ...]]) -> Border | None:
        """How far the reads of all pieces go beyond the operand on each axis, or None if they never do."""
        low: list[Dim] = [0] * len(value.shape)
        high: list[Dim] = [0] * len(value.shape)
        for indices in places:
            for axis, (index, size) in enumerate(zip(indices, value.shape, strict=True)):
                if not index.within(size):
                    found = margins(index, size)
                    assert found is not None, "only operands with known margins are tiled"
                    low[axis], high[axis] = _most(low[axis], found[0]), _most(high[axis], found[1])
        return (low, high) if any(d != 0 for d in (*low, *high)) else None

    def _find_slab(self, borders: Sequence[Border | None]) -> Var | None:
        """The batch index, if the one operand with a border can be copied item by item, to be used while still in cache."""
        if (borders[0] is None) == (borders[1] is None):
            return None
        which = 0 if borders[0] is not None else 1
        side, value = self._operands[which]
        border = borders[which]
        assert border is not None, "chosen above"
        places: list[Index] = [getattr(piece, side)[0] for piece in self._summing]
        first = places[0]
        few = isinstance(value.shape[0], int) and value.shape[0] < FEWEST_SLABS
        if few or border[0][0] != 0 or border[1][0] != 0 or len(first.terms) != 1:
            return None
        slab, factor = first.terms[0]
        if factor != 1 or any(place != variable(slab) for place in places) or slab.extent != value.shape[0]:
            return None
        found = [classify(self.node, piece, self.vector_bytes) for piece in self._summing]
        if any(classes is None or slab in classes[:2] for classes in found):
            return None
        if all(slab in piece.kept for piece in self._summing):
            return slab
        summed = len(self.pieces) == 1 and not isinstance(product(self.node.output.shape), Size)
        return slab if summed and slab in self.pieces[0].summed else None

    def _border_box(self, value: Value, border: Border, side: str, skip: int) -> tuple[Shape, Box]:
        low, high = border
        shape = tuple(before + size + after for before, size, after in zip(low, value.shape, high, strict=True))
        body = self.body()
        vars = [Var(f"i{axis}", size) for axis, size in enumerate(shape)]
        indices = [variable(var) for var in vars]
        if skip:
            assert self.slab is not None, "only axis 0 is skipped, for slabs"
            indices[0], shape = variable(self.slab), (1, *shape[1:])
        inner = [index - before for index, before in zip(indices, low, strict=True)]
        guard = body.both(*(body.inside(i, size) for i, size in zip(inner, value.shape, strict=True)))
        element = body.load(value, linear(inner, value.shape), guard)
        at = linear([Index() if axis < skip else i for axis, i in enumerate(indices)], shape)
        store = Store(f"border_{side}", at, element, product(shape))
        slabs = [self.slab] if self.slab is not None else []
        box = box_of([var for var in vars[skip:] if var.extent != 1], body, [store], slabs)
        return shape, box

    def _border_at_once(self, value: Value, border: Border, side: str) -> Shape:
        shape, box = self._border_box(value, border, side, 0)
        self.regions.append(Region(f"border_{side}", value.dtype, product(shape)))
        self.tasks.append(write_box(box, comment=f"{self.name(value)} with a border of zeros"))
        return shape

    def _border_in_slab(self, value: Value, border: Border, side: str) -> Shape:
        shape, box = self._border_box(value, border, side, 1)
        w = self.slab_border
        w.line(
            f"{self.type} *restrict const border_{side} = cr_scratch({c_size(product(shape))} * sizeof({self.type}));"
        )
        box.merge()
        self.slab_copy = box
        return shape

    def _slab_task(self) -> None:
        """All pieces for one item after another, each with a copy of the bordered operand that stays in cache."""
        slab = self.slab
        assert slab is not None, "asked for slabs"
        assert slab.extent is not None, "a batch index has an extent"
        summed = slab in self.pieces[0].summed
        w = Writer()
        if summed:
            chunks = part_count(self.slab_work, slab)
            count = c_size(product(self.node.output.shape))
            w.line(f"memset(parts + chunk * {count}, 0, {count} * sizeof *parts);")
        else:
            chunks = tile_chunks(self.slab_work, c_size(slab.extent))
        cut_range(w, c_size(slab.extent), chunks)
        if not summed:
            self._begin_sides(w)
        w.lines.extend(self.slab_border.lines)
        with w.loop(slab, "low", "high"):
            assert self.slab_copy is not None, "slabs have a border"
            write_loops(w, self.slab_copy)
            w.lines.extend("    " + line for line in self.slab_units.lines)
        self.tasks.append(Task(w.text, chunks, after="" if summed else end_of(self.sides)))
        if summed:
            self._add_parts(chunks)

    def _piece(self, piece: Piece, out: Index, a: Operand, b: Operand, number: int) -> None:
        found = classify(self.node, piece, self.vector_bytes)
        assert found is not None, "only pieces that can be tiled come here"
        vector, row, swapped = found
        x, y = (b, a) if swapped else (a, b)
        fixed = (vector, row, *([self.slab] if self.slab is not None else []))
        places, kept, summed = merged([out, x.at, y.at], piece.kept, piece.summed, fixed)
        out, x.at, y.at = places
        width = self.vector_bytes // BYTES[self.node.output.dtype]
        vectors, most = tile_shape(vector, row, width)
        outer = [var for var in kept if var not in (vector, row)]
        order = sum_order(summed, x.at, y.at)
        plan = Plan(vector, row, outer, order, width, vectors, most, x, y, out, self.node.output.dtype)
        if y.pointer.startswith("border_") and self.slab is not None:
            packs = y.at.coefficient(vector) != 1 or not plan.full
            assert not packs, "a bordered operand inside a slab is read where it lies"
        if y.at.coefficient(vector) != 1 or not plan.full or (aliases(plan, y.at) and self.slab is None):
            self._pack(plan, number)
        else:
            self._point_at_panel(plan)
        if self.slab is not None:
            self._main_in_slab(plan)
            return
        if aliases(plan, plan.x.at) and plan.x.at.coefficient(row) == 1 and not isinstance(row.extent, Size):
            self._pack_rows(plan, number)
        self._main(plan)

    def _pack_rows(self, plan: Plan, number: int) -> None:
        """x copied so that the elements of a tile's rows for one step of the sum lie together."""
        x = plan.x
        extent = plan.row.extent
        assert isinstance(extent, int), "only rows of a constant number are copied"
        tiles = -(-extent // plan.most_rows)
        tile, lane = Var("tile", tiles), Var("lane", plan.most_rows)
        vars = [v for v in plan.outer if x.at.coefficient(v) != 0]
        steps = [v for v in plan.summed if x.at.coefficient(v) != 0]
        order = [*vars, tile, *steps, lane]
        shape = tuple(var.extent for var in order if var.extent is not None)
        region = f"rows_{number}"
        self.regions.append(Region(region, plan.dtype, product(shape)))
        packed = linear([variable(var) for var in order], shape)
        body = self.body()
        first = Var(body.emit("const long", variable(tile), f" * {extent} / {tiles}"))
        # The last element again where a tile has fewer rows.
        row = Var(body.emit("const long", "cr_least(", variable(first) + variable(lane), f", {extent - 1})"), extent)
        element = body.element(x.pointer, x.at.replace({plan.row: variable(row)}), x.size, self.type)
        loops = [var for var in (*vars, tile, *steps, lane) if var.extent != 1]
        box = box_of(loops, body, [Store(region, packed, element, product(shape))])
        self.tasks.append(write_box(box, comment=f"{x.pointer} in tiles of {plan.most_rows} rows"))
        plan.x = Operand(region, packed.replace({lane: variable(Var("row_in_tile"))}), product(shape))
        plan.rows_packed = True

    def _point_at_panel(self, plan: Plan) -> None:
        panel = Var("panel", plan.panels)
        plan.y = Operand(plan.y.pointer, plan.y.at.replace({plan.vector: variable(panel) * plan.panel}), plan.y.size)

    def _pack(self, plan: Plan, number: int) -> None:
        """y copied into panels: for each panel its vectors one after another in the order of the sum."""
        y = plan.y
        panel, lane = Var("panel", plan.panels), Var("lane", plan.panel)
        vars = [*(v for v in plan.outer if y.at.coefficient(v) != 0), panel]
        steps = [v for v in plan.summed if y.at.coefficient(v) != 0]
        shape = tuple(var.extent for var in (*vars, *steps, lane) if var.extent is not None)
        region = f"panels_{number}"
        self.regions.append(Region(region, plan.dtype, product(shape)))
        order = [*vars, *steps, lane]
        packed = linear([variable(var) if var is not lane else Index(((lane, 1),)) for var in order], shape)
        body = self.body()
        place = variable(panel) * plan.panel + variable(lane)
        assert plan.vector.extent is not None, "the vector index has an extent"
        guard = body.inside(place, plan.vector.extent)
        source = y.at.replace({plan.vector: place})
        element = body.element(y.pointer, source, y.size, self.type, guard)
        box = box_of(order, body, [Store(region, packed, element, product(shape))])
        inner = [*steps, lane]
        if steps and y.at.coefficient(steps[-1]) == 1:
            inner = [lane, *steps]
            size = steps[-1].extent
            if isinstance(size, int) and size % BLOCK == 0 and size > BLOCK:
                # A transposition, in blocks of which the lines stay in the first cache.
                block, step = Var("step_block", size // BLOCK), Var("step", BLOCK)
                box.replace({steps[-1]: variable(block) * BLOCK + variable(step)})
                inner = [*steps[:-1], block, lane, step]
        box.vars = [var for var in (*vars, *inner) if var.extent != 1]
        self.tasks.append(write_box(box, comment=f"{y.pointer} in panels of {plan.panel} columns"))
        plan.y = Operand(region, packed.replace({lane: Index()}), product(shape))

    # The main loop.

    def _main(self, plan: Plan) -> None:
        split = self._split_sum(plan)
        w = Writer()
        units = units_of(plan)
        work = work_of_tiles(plan)
        if split is not None:
            assert split.extent is not None, "an index of a sum has an extent"
            chunks = part_count(work, split)
            w.line(f"const long chunks = {chunks};")
            w.line(f"const long first_{split.name} = cr_cut({c_size(split.extent)}, chunk, chunks);")
            w.line(f"const long last_{split.name} = cr_cut({c_size(split.extent)}, chunk + 1, chunks);")
            w.line(f"const long low = 0, high = {units};")
        else:
            chunks = tile_chunks(work, units)
            cut_range(w, units, chunks)
            self._begin_sides(w)
        self.kernel.units(w, plan, split)
        self.tasks.append(Task(w.text, chunks, after="" if split is not None else end_of(self.sides)))
        if split is not None:
            self._add_parts(chunks)

    def _begin_sides(self, w: Writer) -> None:
        for side in self.sides:
            side.begin(w)
        self.regions += regions_of(self.sides)

    def _main_in_slab(self, plan: Plan) -> None:
        """The loops of one piece within the loop over the slabs."""
        slab = self.slab
        assert slab is not None, "asked for slabs"
        self.slab_work = self.slab_work + work_of_tiles(plan)
        split = slab if slab in plan.summed else None
        plan.outer = [var for var in plan.outer if var != slab]
        plan.summed = [var for var in plan.summed if var != slab]
        with self.slab_units.block(""):
            self.slab_units.line(f"const long low = 0, high = {units_of(plan)};")
            self.kernel.units(self.slab_units, plan, split)

    def _split_sum(self, plan: Plan) -> Var | None:
        """The index of the sum to split into parts, where there are too few outputs to divide among threads."""
        sizes = [var.extent for var in (*plan.outer, plan.row)]
        if any(isinstance(size, Size) for size in sizes) or len(self.pieces) > 1:
            return None
        outputs = product(self.node.output.shape)
        split = plan.summed[0]
        long_sum = isinstance(plan.depth, Size) or plan.depth >= 1024
        divisible = isinstance(split.extent, Size) or (split.extent or 0) >= 32
        return split if long_sum and divisible and outputs <= MOST_SPLIT else None

    def _zero(self, piece: Piece, out: Index) -> None:
        """Where nothing is summed."""
        body = self.body()
        body.preset(self.node.output, Position(self.node.output.shape, None, out), "0")
        stores = (
            [Store(self.name(self.node.output), out, "0", product(self.node.output.shape))] if self.keeps_result else []
        )
        stores += self.kernel.root_stores(body, out)
        box = box_of([var for var in piece.kept if var.extent != 1], body, stores)
        self.tasks.append(write_box(box, comment="nothing is summed here"))

    def _add_parts(self, chunks: str) -> None:
        """The parts of a split sum, added up in their order, and what follows."""
        size = product(self.node.output.shape)
        self.regions.append(Region("parts", self.node.output.dtype, size * PARTS))
        # The results of each sum need an index for themselves; those of one are a part of those of the next.
        counts = sorted({1, *(side.count for side in self.sides)}, reverse=True)
        extents = [divide(outer, inner) for outer, inner in zip([size, *counts], counts)]
        shape = tuple(extent for extent in extents if extent is not None)
        assert len(shape) == len(extents), "sums keep whole trailing axes"
        vars = [Var(f"i{axis}", extent) for axis, extent in enumerate(shape)]
        at = linear([variable(var) for var in vars], shape)
        body = self.body()
        total = body.element("parts", at, self.regions[-1].count, self.type)
        body.preset(self.node.output, Position(self.node.output.shape, None, at), total)
        stores = [Store(self.name(self.node.output), at, total, size)] if self.keeps_result else []
        stores += self.kernel.root_stores(body, at)
        stores += [side.store(body, at, variable(LANE)) for side in self.sides]
        box = box_of([var for var in vars if var.extent != 1], body, stores, [LANE] if self.sides else [])
        box.merge()
        step = c_size(product(var.extent for var in box.vars[1:] if var.extent is not None))
        first = Writer()
        first.line(f"const long count = {chunks};")
        with first.block("for (long part = 1; part < count; part++)"):
            first.line("CR_INDEPENDENT")
            loop = f"for (long k = low * {step}; k < high * {step}; k++)"
            first.line(f"{loop} parts[k] += parts[part * {c_size(size)} + k];")
        self.tasks.append(write_box(box, comment="the parts of the sum", first=first.lines, sides=self.sides))


def _most(x: Dim, y: Dim) -> Dim:
    return y if at_least(y - x, 0) else x
