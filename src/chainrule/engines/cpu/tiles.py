"""The tiled contraction: one register-blocked loop for matrix products, convolutions and their gradients alike.

    out[o, r, v] = Σ_k  x[o, r, k] · y[o, k, v]

``v``, the index along which the output is contiguous, runs in vectors; ``r``, one or two indices, in rows. A tile of rows ×
vectors of the output stays in registers for the whole sum. Each step of the sum may unroll up to two of its indices; a distinct
element of x is loaded once in it, broadcast, and multiplied by vectors of y. Where x and y are contiguous along the sum, and there
is too little of ``v``, vectors lie along the sum instead.

x and y are read where they lie, unless reads leave the operand (a copy with a border of zeros is made) or y is not contiguous
along v or does not fill whole vectors (it is copied into such). Copies that follow the batch are made item by item, by the
thread that uses them at once, unless there are too few steps of a sum in an item for the results that it is added to; an
operand that is copied may be computed on the way (``tile_items.py``). What follows the contraction elementwise is computed on
the finished tile.

Large products of two matrices run in regions, for which blocks of both operands are copied (``tile_regions.py``), others in panels
of one that threads copy for themselves (``tile_panels.py``); updates run while the next tile is summed (``tile_trailing.py``). A long
sum into few results is split into parts, added up in order. Their number depends on sizes alone, so that results do not depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.lattice import Piece
from chainrule.engines.cpu.loops import Writer, box_of
from chainrule.engines.cpu.nests import (
    Region,
    Task,
    declare_scratch,
    regions_of,
    write_box,
    write_boxes,
    write_loops,
    write_together,
)
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.sides import LANE, Side, end_of
from chainrule.engines.cpu.tile_ahead import Ahead, streams_of
from chainrule.engines.cpu.tile_copies import Copy, Packing, border_at_once, border_of_item, pack_rows, packing_of
from chainrule.engines.cpu.tile_fetches import RowsAhead
from chainrule.engines.cpu.tile_items import is_per_item, items_of
from chainrule.engines.cpu.tile_kernel import KernelWriter
from chainrule.engines.cpu.tile_panels import PanelWriter, plan_in_panels
from chainrule.engines.cpu.tile_parts import fetch_first, parts_of, split_index
from chainrule.engines.cpu.tile_plan import (
    COPY,
    FEWEST_ALIASED,
    TRANSPOSE,
    Border,
    Operand,
    Plan,
    Product,
    Way,
    aliases,
    border_of,
    bordered,
    needs_copy,
    no_border,
    plan_of,
    registers_of,
    ways,
)
from chainrule.engines.cpu.tile_regions import RegionWriter, plan_in_regions
from chainrule.engines.cpu.tile_shape import NOMINAL
from chainrule.engines.cpu.tile_trailing import TrailingWriter
from chainrule.engines.cpu.tile_units import TILE_GRAIN, Units, tile_chunks
from chainrule.ir.sizes import Dim, at, divide, product

# Parts of a sum over items at most.
PARTS = 16


@dataclass(slots=True)
class Layout:
    """One way to run a contraction: borders of the operands, the loops over items around it, and a plan for every piece."""

    way: Way
    borders: list[Border | None]
    items: list[Var]
    plans: list[tuple[Plan, list[Packing]] | None]
    cost: float


class TileWriter:
    """Writes the tasks of one contraction node whose pieces can all be tiled (or are zero)."""

    def __init__(
        self,
        kernel: KernelWriter,
        pieces: Sequence[Piece],
        vector_bytes: int,
        computed: frozenset[int] = frozenset(),
        operand_sums: Mapping[int, Sequence[Side]] | None = None,
    ) -> None:
        """``kernel`` knows the node and writes tiles and what follows from them; ``computed`` are the numbers of the operands that
        are not in memory: their copies compute them, and add up the ``operand_sums`` of each."""
        assert not kernel.sides or len(pieces) == 1, "sums run along with the only piece"
        self.kernel, self.pieces, self.vector_bytes, self.computed = kernel, pieces, vector_bytes, computed
        self.operand_sums = operand_sums or {}
        self.node, self.roots, self.sides, self.type = kernel.node, kernel.roots, kernel.sides, kernel.type
        self.regions: list[Region] = []
        self.tasks: list[Task] = []

    def layout(self) -> Layout:
        """The cheapest way to run it."""
        found = [self._layout(way) for way in ways(self.node, self.pieces, self.vector_bytes)]
        return min(found, key=lambda one: one.cost)

    def write(self) -> list[Task]:
        layout = self.layout()
        copies = [self._border(layout, number) for number in (0, 1)]
        for piece in self.pieces:
            if piece.is_zero:
                self._zero(piece)
        inside = [copy for copy in copies if copy is not None]
        if layout.items:
            self._items(layout, inside)
        else:
            for number, planned in enumerate(layout.plans):
                if planned is not None:
                    self._piece(planned[0], planned[1], number)
        for task in self.tasks:
            task.functions = self.kernel.functions
            task.regions = list({region.name: region for region in (*self.regions, *task.regions)}.values())
        return self.tasks

    # How it runs.

    def _layout(self, way: Way) -> Layout:
        summing = [piece for piece in self.pieces if not piece.is_zero]
        places = [[piece.a for piece in summing], [piece.b for piece in summing]]
        found = self._in_regions(way)
        if found is not None:
            return found
        borders = [border_of(value, some, way) for value, some in zip(self.node.inputs, places, strict=True)]
        items = items_of(self.node, self.pieces, way, borders)
        for number in self.computed:
            borders[number] = borders[number] or no_border(self.node.inputs[number])
        cost = sum(
            COPY * at(product(bordered(value.shape, border)), NOMINAL)
            for value, border in zip(self.node.inputs, borders, strict=True)
            if border is not None
        )
        plans: list[tuple[Plan, list[Packing]] | None] = []
        for number, piece in enumerate(self.pieces):
            if piece.is_zero:
                plans.append(None)
                continue
            plan, packings, price = self._plan(way, borders, items, piece, number)
            plans.append((plan, packings))
            cost += price
        return Layout(way, borders, items, plans, cost)

    def _in_regions(self, way: Way) -> Layout | None:
        """Blocks of the operands copied for one region after another, or panels of one, for large products of two matrices."""
        piece, *others = self.pieces
        if others or piece.is_zero or self.computed or way.along_sum:
            return None
        read = [(indices, value.shape) for indices, value in zip((piece.a, piece.b), self.node.inputs, strict=True)]
        if not all(index.within(size) for indices, shape in read for index, size in zip(indices, shape, strict=True)):
            return None
        p = self._product(way, [None, None], [], piece)
        p.column = Var("column", way.vectors)
        p.kept.remove(way.vector)
        p.out = p.out.replace({way.vector: variable(p.column) * way.lanes})
        registers = registers_of(self.vector_bytes)
        found = plan_in_regions(p, registers) or plan_in_panels(p, registers)
        return Layout(way, [None, None], [], [(found[0], [])], found[1]) if found is not None else None

    def _product(self, way: Way, borders: Sequence[Border | None], items: Sequence[Var], piece: Piece) -> Product:
        """A piece with its operands where they lie in memory, with borders if they have any."""
        operands = []
        for k, (value, indices, border) in enumerate(zip(self.node.inputs, (piece.a, piece.b), borders, strict=True)):
            pointer = f"border_{'ab'[k]}" if border is not None else self.kernel.name(value)
            low = border[0] if border is not None else [0] * len(value.shape)
            place = linear([i + n for i, n in zip(indices, low, strict=True)], bordered(value.shape, border))
            if border is not None and is_per_item(self.node, self.pieces, items, k, border):
                place = place.replace({items[0]: Index()})
            size = product(bordered(value.shape, border))
            operands.append(Operand(pointer, place, size, place.coefficient(way.vector) != 0))
        y, x = operands if way.swapped else operands[::-1]
        out = linear(piece.out, self.node.output.shape)
        p = Product(way, out, x, y, list(piece.kept), list(piece.summed), None, self.node.output.dtype)
        p.apart = [side.count for side in self.sides if not side.in_lanes]
        return p

    def _plan(
        self, way: Way, borders: Sequence[Border | None], items: Sequence[Var], piece: Piece, number: int
    ) -> tuple[Plan, list[Packing], float]:
        p = self._product(way, borders, items, piece)
        packings: list[Packing] = []
        price = 0.0
        if way.along_sum:
            assert isinstance(way.vector.extent, int), "an index in vectors has a constant extent"
            whole, p.tail = divmod(way.vector.extent, way.lanes)
            steps = Var(f"{way.vector.name}_vector", whole)
            known = {way.vector: Index(((steps, way.lanes),)) if whole != 1 or p.tail else Index()}
            p.x.at, p.y.at = p.x.at.replace(known), p.y.at.replace(known)
            p.summed = [steps if var == way.vector else var for var in p.summed]
            p.summed = [var for var in p.summed if var.extent != 1 or (p.tail and var == steps)]
            if p.tail:
                p.last = steps
        else:
            p.column = Var("column", way.vectors)
            p.kept.remove(way.vector)
            column = {way.vector: variable(p.column) * way.lanes}
            p.out = p.out.replace(column)
            order = [*p.summed]
            for side in ("y", "x"):
                operand: Operand = getattr(p, side)
                step = operand.at.coefficient(way.vector)
                if step == 0 or (step == 1 and not (side == "y" and not items and aliases(p))):
                    operand.at = operand.at.replace(column)
                    continue
                packing = packing_of(p, operand, way.vector, p.column, items, f"vectors_{side}_{number}")
                packings.append(packing)
                setattr(p, side, packing.operand)
                across = any(operand.at.coefficient(var) == 1 for var in packing.steps)
                around = product(var.extent for var in items if var.extent is not None)
                used = around if any(operand.at.coefficient(var) != 0 for var in items) else 1
                price += (TRANSPOSE if across else 1.0) * at(packing.count * used, NOMINAL)
            assert order == p.summed, "copies leave the sum as it is"
        plan, cost = plan_of(p, items, registers_of(self.vector_bytes))
        return plan, packings, cost + price

    # Copies.

    def _border(self, layout: Layout, number: int) -> tuple[str, Dim, Copy] | None:
        """Copy an operand with a border now, or say how an item of it is copied."""
        border, value = layout.borders[number], self.node.inputs[number]
        if border is None:
            return None
        target, sums = f"border_{'ab'[number]}", self.operand_sums.get(number, ())
        shape = bordered(value.shape, border)
        if is_per_item(self.node, self.pieces, layout.items, number, border):
            copy = border_of_item(self.kernel.body, value, border, target, layout.items[0], sums)
            return target, product(shape[1:]), copy
        self.regions.append(Region(target, value.dtype, product(shape)))
        what = "the first operand" if number == 0 else "the second operand"
        what = what if number in self.computed else self.kernel.name(value)
        boxes = border_at_once(self.kernel.body, value, border, target, sums)
        self.tasks.append(write_boxes(boxes, comment=f"{what} with a border of zeros", sides=sums))
        return None

    def _pack(self, packings: Sequence[Packing]) -> None:
        for packing in packings:
            self.regions.append(Region(packing.target, packing.dtype, packing.count))
            self.tasks.append(packing.task(self.kernel.body()))

    # Item by item.

    def _items(self, layout: Layout, borders: Sequence[tuple[str, Dim, Copy]]) -> None:
        """All pieces for one item after another, each with copies that stay in cache."""
        items, w, added = layout.items, Writer(), [side for sides in self.operand_sums.values() for side in sides]
        summed = items[0] in self.pieces[0].summed
        extent = product(var.extent for var in items if var.extent is not None)
        buffers = [(name, count) for name, count, _ in borders]
        plans: list[tuple[Plan, Units]] = []
        inner: list[list[Packing]] = []
        work: Dim = 0
        for planned in layout.plans:
            if planned is None:
                continue
            plan, packings = planned
            own = [packing for packing in packings if follows(packing, items, [name for name, _, _ in borders])]
            self._pack([packing for packing in packings if packing not in own])
            buffers += [(packing.target, packing.count) for packing in own]
            inner.append(own)
            plans.append((plan, Units(plan)))
        for _, units in plans:
            work = work + units.work * extent
        least = plans[0][1].count
        ranges = f"cr_chunks({c_size(work)}, {TILE_GRAIN}, {c_size(extent)})"
        # One thread runs all of a slab, and copies an item once.
        ranges = f"cr_least({ranges}, {PARTS})" if summed else f"(in_slab ? 1 : {ranges})"
        chunks = self._shares(w, ranges, work, least)
        size = c_size(product(self.node.output.shape))
        w.line(
            f"const long first = cr_cut({c_size(extent)}, range, ranges), last = cr_cut({c_size(extent)}, range + 1, ranges);"
        )
        if summed:
            self._target(w, size, "first == last")
            for side in added:
                side.begin(w)
        else:
            self._begin_sides(w)
        declare_scratch(w, self.node.output.dtype, buffers)
        for _, _, (zeros, _) in borders:
            for box in zeros:
                write_loops(w, box)
        streams = streams_of([inside for _, _, (_, inside) in borders], items[0]) if len(items) == 1 else []
        with w.block("for (long item = first; item < last; item++)"):
            if summed:
                w.line("const _Bool fresh = item == first;")
            self._item_indices(w, items)
            for _, _, (_, inside) in borders:
                write_together(w, inside)
            before = 0.0
            for (plan, units), own in zip(plans, inner, strict=True):
                for packing in own:
                    packing.write(w, self.kernel.body())
                share = at(units.work * extent, NOMINAL) / at(work, NOMINAL)
                self.kernel.ahead = Ahead.of(streams, plan, units, before, share)
                before += share
                with w.block(""):
                    w.line(f"const long units = {units.count};")
                    w.line("const long low = cr_cut(units, share, shares), high = cr_cut(units, share + 1, shares);")
                    if self.kernel.ahead is not None:
                        self.kernel.ahead.declare(w)
                    self.kernel.units(w, plan, units, None)
        self.kernel.ahead = None
        after = end_of(added, ranges) if summed else end_of(self.sides)
        self.tasks.append(Task(w.text, chunks, after=after))
        if summed:
            self.regions += regions_of(added)
            self._add_parts(ranges, PARTS, PARTS)

    def _item_indices(self, w: Writer, items: Sequence[Var]) -> None:
        w.line("long left = item;" if len(items) > 1 else f"const long {items[0].name} = item;")
        for var in reversed(items[1:]):
            assert var.extent is not None, "an item index has an extent"
            w.line(f"const long {var.name} = left % {c_size(var.extent)};")
            w.line(f"left /= {c_size(var.extent)};")
        if len(items) > 1:
            w.line(f"const long {items[0].name} = left;")

    def _shares(self, w: Writer, ranges: str, work: Dim, units: str) -> str:
        """Decode a chunk into a range of items (or of the sum) and a share of the units; the number of chunks."""
        shares = f"(in_slab ? 1 : cr_shares({c_size(work)}, {TILE_GRAIN}, {ranges}, {units}))"
        w.line(f"const long ranges = {ranges}, shares = {shares};")
        w.line("const long range = chunk / shares, share = chunk % shares;")
        return f"{ranges} * {shares}"

    def _target(self, w: Writer, size: str, empty: str) -> None:
        """Where the part of a sum goes: straight to the result if it is the only one and nothing follows."""
        if self.roots or self.sides:
            w.line(f"{self.type} *const target = parts + range * {size};")
        else:
            result = self.kernel.name(self.node.output)
            w.line(f"{self.type} *const target = ranges > 1 ? parts + range * {size} : {result};")
        w.line(f"if ({empty} && !share) memset(target, 0, (size_t)({size}) * sizeof *target);")
        self.kernel.target = "target"

    # All at once.

    def _piece(self, plan: Plan, packings: Sequence[Packing], number: int) -> None:
        if plan.in_regions:
            self._regions(plan)
            return
        if plan.in_panels:
            self._panels(plan)
            return
        self._pack(packings)
        if self._gathers_rows(plan):
            region = f"rows_{number}"
            box, plan.x, count = pack_rows(self.kernel.body(), plan, region)
            plan.rows_packed = True
            self.regions.append(Region(region, plan.dtype, count))
            self.tasks.append(write_box(box, comment=f"{plan.x.pointer} in tiles of {plan.rows[0][1]} rows"))
        split = split_index(plan, product(self.node.output.shape)) if len(self.pieces) == 1 else None
        if split is not None:
            self._parts(plan, split)
            return
        w = Writer()
        if TrailingWriter.suits(plan, self.kernel):
            trailing = TrailingWriter(w, plan, self.kernel)
            trailing.write()
            self.tasks.append(Task(w.text, trailing.chunks))
            return
        units = Units(plan)
        chunks = tile_chunks(units.effort, units.count)
        w.line(f"const long chunks = {chunks}, units = {units.count};")
        w.line("const long low = cr_cut(units, chunk, chunks), high = cr_cut(units, chunk + 1, chunks);")
        self._begin_sides(w)
        self.kernel.rows_ahead = None if self.kernel.in_loop else RowsAhead.of(plan, units)
        self.kernel.units(w, plan, units, None)
        self.kernel.rows_ahead = None
        self.tasks.append(Task(w.text, chunks, after=end_of(self.sides)))

    def _regions(self, plan: Plan) -> None:
        w = Writer()
        regions = RegionWriter(w, plan, self.kernel)
        self._begin_sides(w)
        declare_scratch(w, self.node.output.dtype, regions.cut.buffers)
        regions.write()
        self.tasks.append(Task(w.text, str(regions.chunks), after=end_of(self.sides)))

    def _panels(self, plan: Plan) -> None:
        w = Writer()
        panels = PanelWriter(w, plan, self.kernel)
        self._begin_sides(w)
        declare_scratch(w, self.node.output.dtype, [panels.buffer])
        panels.write()
        self.tasks.append(Task(w.text, panels.chunks, after=end_of(self.sides)))

    def _begin_sides(self, w: Writer) -> None:
        for side in self.sides:
            side.begin(w)
        self.regions += regions_of(self.sides)

    def _parts(self, plan: Plan, split: Var) -> None:
        """The sum in parts, each of which goes block by block through all tiles."""
        assert split.extent is not None, "an index of a sum has an extent"
        outputs = product(self.node.output.shape)
        assert isinstance(outputs, int), "only a constant number of results is copied"
        parts = parts_of(plan, split, outputs)
        units = Units(plan, parts.by_rows)
        w = Writer()
        extent, ranges = c_size(split.extent), parts.ranges(units)
        w.line(f"const long ranges = {ranges}, shares = {parts.shares(units, 'ranges')};")
        w.line("const long range = chunk / shares, share = chunk % shares;")
        w.line(f"const long start = cr_cut({extent}, range, ranges), end = cr_cut({extent}, range + 1, ranges);")
        self._target(w, c_size(outputs), "start == end")
        w.line(f"const long units = {units.count};")
        w.line("const long low = cr_cut(units, share, shares), high = cr_cut(units, share + 1, shares);")
        w.line(f"const long step = (end - start) / ((end - start) / {parts.block} + 1) + 1;")
        fetch_first(w, plan, parts)
        first, last = f"first_{split.name}", f"last_{split.name}"
        with w.block(f"for (long {first} = start; {first} < end; {first} += step)"):
            w.line(f"const long {last} = cr_least({first} + step, end), ahead = {last} < end ? step : 0;")
            w.line(f"const _Bool fresh = {first} == start;")
            self.kernel.units(w, plan, units, split)
        self.tasks.append(Task(w.text, f"{ranges} * {parts.shares(units, ranges)}"))
        self._add_parts(ranges, parts.most, parts.typically)

    def _gathers_rows(self, plan: Plan) -> bool:
        """Whether rows side by side would help the steps of a long sum through x."""
        if len(plan.rows) != 1 or not plan.summed or plan.x.in_vectors:
            return False
        row, last = plan.rows[0][0], plan.summed[-1]
        if not isinstance(row.extent, int) or row.extent < FEWEST_ALIASED or plan.x.at.coefficient(row) != 1:
            return False
        uses = max(FEWEST_ALIASED, plan.width)
        return needs_copy(last, plan.x.at.coefficient(last), BYTES[plan.dtype], uses)

    # What is left.

    def _zero(self, piece: Piece) -> None:
        """Where nothing is summed."""
        out = linear(piece.out, self.node.output.shape)
        body = self.kernel.body()
        stores = self.kernel.stores(body, out, "0")
        box = box_of([var for var in piece.kept if var.extent != 1], body, stores)
        self.tasks.append(write_box(box, comment="nothing is summed here"))

    def _add_parts(self, ranges: str, most: int, typically: int) -> None:
        """The parts of a split sum, added up in their order, and what follows; so many at most, and of a batch of usual size."""
        size = product(self.node.output.shape)
        self.regions.append(Region("parts", self.node.output.dtype, size * most))
        # The results of each sum need an index for themselves; those of one are a part of those of the next.
        counts = sorted({1, *(side.count for side in self.sides)}, reverse=True)
        extents = [divide(outer, inner) for outer, inner in zip([size, *counts], counts)]
        shape = tuple(extent for extent in extents if extent is not None)
        assert len(shape) == len(extents), "sums keep whole trailing axes"
        vars = [Var(f"i{axis}", extent) for axis, extent in enumerate(shape)]
        place = linear([variable(var) for var in vars], shape)
        body = self.kernel.body()
        total = body.element("parts", place, self.regions[-1].count, self.type)
        stores = self.kernel.stores(body, place, total)
        box = box_of([var for var in vars if var.extent != 1], body, stores, [LANE] if self.sides else [])
        box.merge()
        step = c_size(product(var.extent for var in box.vars[1:] if var.extent is not None))
        first = Writer()
        first.line(f"const long count = {ranges};")
        with first.block("for (long part = 1; part < count; part++)"):
            first.line("CR_INDEPENDENT")
            loop = f"for (long k = low * {step}; k < high * {step}; k++)"
            first.line(f"{loop} parts[k] += parts[part * {c_size(size)} + k];")
        # A part comes from the cache of the core that computed it.
        before = 2 * (typically - 1)
        task = write_box(box, comment="the parts of the sum", first=first.lines, sides=self.sides, before=before)
        if not self.roots and not self.sides:
            # A single part is already the result.
            task.chunks = f"({ranges} > 1 ? {task.chunks} : 0)"
        self.tasks.append(task)


def follows(packing: Packing, items: Sequence[Var], copied: Sequence[str]) -> bool:
    """Whether a copy differs from item to item."""
    source = packing.source
    return source.pointer in copied or any(source.at.coefficient(var) != 0 for var in items)
