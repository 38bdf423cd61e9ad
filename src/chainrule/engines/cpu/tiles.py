"""The tiled contraction: one register-blocked loop for matrix products, convolutions and their gradients alike.

    out[o, r, v] = Σ_k  x[o, r, k] · y[o, k, v]

``v``, the index along which the output is contiguous, runs in vectors; ``r`` in rows. A tile of rows × vectors of the output stays in
registers for the whole sum; each step of the sum loads a few vectors of y and multiplies them by broadcast elements of x. x and y
are read where they lie, unless reads leave the operand (a copy with a border of zeros is made) or y is not contiguous along v or does
not fill whole vectors (it is copied into panels). What follows the contraction elementwise is computed on the finished tile.

The tile shapes follow measurements (see docs/decisions); splitting a long sum in a fixed number of parts, added up in order, keeps
results independent of the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chainrule.core.dtypes import FLOATS
from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.indexing import Index, Var, at_least, c_size, linear, variable
from chainrule.engines.cpu.lattice import Piece, margins
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of
from chainrule.engines.cpu.nests import Region, Task, cut_range, write_box, write_loops
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Shape, Size, product

# Fused multiplications and additions in one chunk at least, and in one unit (a row block of a panel) about.
_GRAIN = 1 << 18
_UNIT = 1 << 17
_PARTS = 8
_BLOCK = 32
# A sum is only split where its result is at most this many elements, because every part has a copy of it.
_MOST_SPLIT = 1 << 16
_RUNTIME_ROWS = 8


@dataclass(slots=True)
class Operand:
    """An operand in memory: its pointer and the place that it is read at."""

    pointer: str
    at: Index


Border = tuple[list[Dim], list[Dim]]


@dataclass(slots=True)
class Plan:
    """How one piece runs: its index classes, tile and operands (x is broadcast, y is loaded as vectors)."""

    vector: Var
    row: Var
    outer: list[Var]
    summed: list[Var]
    width: int
    vectors: int
    most_rows: int
    x: Operand
    y: Operand
    out: Index
    dtype: str
    rows_packed: bool = False

    @property
    def panel(self) -> int:
        return self.width * self.vectors

    @property
    def panels(self) -> int:
        assert isinstance(self.vector.extent, int), "the vector index has a constant extent"
        return -(-self.vector.extent // self.panel)

    @property
    def full(self) -> bool:
        return self.vector.extent == self.panels * self.panel

    @property
    def depth(self) -> Dim:
        return product(var.extent for var in self.summed if var.extent is not None)


def classify(node: Node, piece: Piece, vector_bytes: int) -> tuple[Var, Var, bool] | None:
    """The vector index, the row index, and whether the first operand is the one loaded as vectors; None if no tile pays."""
    if node.output.dtype not in FLOATS or piece.guards or piece.is_zero or not piece.summed:
        return None
    out = linear(piece.out, node.output.shape)
    a, b = (linear(i, v.shape) for i, v in zip((piece.a, piece.b), node.inputs, strict=True))
    vector = next((var for var in piece.kept if out.coefficient(var) == 1), None)
    if vector is None or not isinstance(vector.extent, int) or vector.extent < 4:
        return None
    in_a, in_b = a.coefficient(vector) != 0, b.coefficient(vector) != 0
    if in_a == in_b:
        return None
    x, y = (b, a) if in_a else (a, b)
    rows = [var for var in piece.kept if x.coefficient(var) != 0 and y.coefficient(var) == 0]
    if not rows:
        return None
    return vector, max(rows, key=lambda var: _row_score(var, x)), in_a


def can_tile(node: Node, pieces: Sequence[Piece] | None, vector_bytes: int) -> bool:
    """Whether every piece that sums anything can run in tiles."""
    if pieces is None or all(piece.is_zero for piece in pieces):
        return False
    if any(0 in value.shape for value in (*node.inputs, node.output)):
        return False
    for piece in pieces:
        if piece.is_zero:
            continue
        if classify(node, piece, vector_bytes) is None:
            return False
        for indices, value in zip((piece.a, piece.b), node.inputs, strict=True):
            if any(not i.within(n) and margins(i, n) is None for i, n in zip(indices, value.shape, strict=True)):
                return False
    return True


def _row_score(var: Var, x: Index) -> tuple[float, int]:
    """Constant extents that fill whole tiles come first, then the batch; of equals the one that takes the smaller steps."""
    if isinstance(var.extent, Size) or var.extent is None:
        return 0.8, 0
    tiles = -(-var.extent // 12)
    step = x.coefficient(var)
    return min(1.0, var.extent / tiles / 7), -abs(step) if isinstance(step, int) else -(1 << 60)


def tile_shape(vector: Var, row: Var, width: int) -> tuple[int, int]:
    """Vectors and most rows of a tile, so that the sums, a row of vectors and a broadcast fit in the registers."""
    registers = 32 if width * 4 >= 64 else 16
    assert isinstance(vector.extent, int), "the vector index has a constant extent"
    count = -(-vector.extent // width)
    choices = [2, 3, 4, 1] if registers == 32 else [2, 3, 1]
    vectors = min(choices, key=lambda n: (-(-count // n) * n - count) / count + (0.12 if n == 1 else 0.03 * (n > 2)))
    most = {1: 16, 2: 12, 3: 8, 4: 6}[vectors] if registers == 32 else {1: 8, 2: 6, 3: 4}[vectors]
    if isinstance(row.extent, Size):
        most = min(most, _RUNTIME_ROWS if registers == 32 else 4)
    return vectors, most


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
    ) -> None:
        self.node, self.pieces, self.vector_bytes = node, pieces, vector_bytes
        self.body, self.name, self.roots, self.keeps_result = body, name, roots, keeps_result
        self.type = C_TYPES[node.output.dtype]
        self.regions: list[Region] = []
        self.tasks: list[Task] = []
        self.slab: Var | None = None
        self.slab_border, self.slab_units = Writer(), Writer()
        self.slab_copy: Box | None = None
        self.slab_work: Dim = 0

    def write(self) -> list[Task]:
        sides = ("a", "b")
        borders = [self._border_of(value, [getattr(p, side) for p in self._summing]) for side, value in self._operands]
        self.slab = self._find_slab(borders)
        operands = []
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
                places.append(Operand(pointer, place))
            self._piece(piece, out, places[0], places[1], number)
        if self.slab is not None:
            self._slab_task()
        for task in self.tasks:
            task.regions = self.regions
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
        places = [getattr(piece, side)[0] for piece in self._summing]
        first = places[0]
        if not isinstance(value.shape[0], Size) or border[0][0] != 0 or border[1][0] != 0 or len(first.terms) != 1:
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
        box = box_of([var for var in vars[skip:] if var.extent != 1], body, [Store(f"border_{side}", at, element)])
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
            chunks = _part_count(self.slab_work, slab)
            count = c_size(product(self.node.output.shape))
            w.line(f"memset(parts + chunk * {count}, 0, {count} * sizeof *parts);")
        else:
            chunks = _chunks(self.slab_work, c_size(slab.extent))
        cut_range(w, c_size(slab.extent), chunks)
        w.lines.extend(self.slab_border.lines)
        with w.loop(slab, "low", "high"):
            assert self.slab_copy is not None, "slabs have a border"
            write_loops(w, self.slab_copy)
            w.lines.extend("    " + line for line in self.slab_units.lines)
        self.tasks.append(Task(w.text, chunks))
        if summed:
            self._add_parts(chunks)

    def _piece(self, piece: Piece, out: Index, a: Operand, b: Operand, number: int) -> None:
        found = classify(self.node, piece, self.vector_bytes)
        assert found is not None, "only pieces that can be tiled come here"
        vector, row, swapped = found
        x, y = (b, a) if swapped else (a, b)
        fixed = (vector, row, *([self.slab] if self.slab is not None else []))
        places, kept, summed = _merged([out, x.at, y.at], piece.kept, piece.summed, fixed)
        out, x.at, y.at = places
        width = self.vector_bytes // BYTES[self.node.output.dtype]
        vectors, most = tile_shape(vector, row, width)
        outer = [var for var in kept if var not in (vector, row)]
        order = _sum_order(summed, x.at, y.at)
        plan = Plan(vector, row, outer, order, width, vectors, most, x, y, out, self.node.output.dtype)
        if y.pointer.startswith("border_") and self.slab is not None:
            packs = y.at.coefficient(vector) != 1 or not plan.full
            assert not packs, "a bordered operand inside a slab is read where it lies"
        if y.at.coefficient(vector) != 1 or not plan.full or (_aliases(plan, y.at) and self.slab is None):
            self._pack(plan, number)
        else:
            self._point_at_panel(plan)
        if self.slab is not None:
            self._main_in_slab(plan)
            return
        if _aliases(plan, plan.x.at) and plan.x.at.coefficient(row) == 1 and not isinstance(row.extent, Size):
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
        row = Var(body.emit("const long", "cr_least(", variable(first) + variable(lane), f", {extent - 1})"))
        element = body.emit(self.type, x.pointer, "[", x.at.replace({plan.row: variable(row)}), "]")
        loops = [var for var in (*vars, tile, *steps, lane) if var.extent != 1]
        box = Box(loops, list(body.statements), [Store(region, packed, element)])
        self.tasks.append(write_box(box, comment=f"{x.pointer} in tiles of {plan.most_rows} rows"))
        plan.x = Operand(region, packed.replace({lane: variable(Var("row_in_tile"))}))
        plan.rows_packed = True

    def _point_at_panel(self, plan: Plan) -> None:
        panel = Var("panel", plan.panels)
        plan.y = Operand(plan.y.pointer, plan.y.at.replace({plan.vector: variable(panel) * plan.panel}))

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
        element = body.emit(
            self.type, *((guard, " ? ") if guard else ()), y.pointer, "[", source, "]", *((" : 0",) if guard else ())
        )
        box = Box([], list(body.statements), [Store(region, packed, element)])
        inner = [*steps, lane]
        if steps and y.at.coefficient(steps[-1]) == 1:
            inner = [lane, *steps]
            size = steps[-1].extent
            if isinstance(size, int) and size % _BLOCK == 0 and size > _BLOCK:
                # A transposition, in blocks of which the lines stay in the first cache.
                block, step = Var("step_block", size // _BLOCK), Var("step", _BLOCK)
                box.replace({steps[-1]: variable(block) * _BLOCK + variable(step)})
                inner = [*steps[:-1], block, lane, step]
        box.vars = [var for var in (*vars, *inner) if var.extent != 1]
        self.tasks.append(write_box(box, comment=f"{y.pointer} in panels of {plan.panel} columns"))
        plan.y = Operand(region, packed.replace({lane: Index()}))

    # The main loop.

    def _main(self, plan: Plan) -> None:
        split = self._split_sum(plan)
        w = Writer()
        units = _units_of(plan)
        work = _work(plan)
        if split is not None:
            assert split.extent is not None, "an index of a sum has an extent"
            chunks = _part_count(work, split)
            w.line(f"const long chunks = {chunks};")
            w.line(f"const long first_{split.name} = cr_cut({c_size(split.extent)}, chunk, chunks);")
            w.line(f"const long last_{split.name} = cr_cut({c_size(split.extent)}, chunk + 1, chunks);")
            w.line(f"const long low = 0, high = {units};")
        else:
            chunks = _chunks(work, units)
            cut_range(w, units, chunks)
        self._units(w, plan, split)
        self.tasks.append(Task(w.text, chunks))
        if split is not None:
            self._add_parts(chunks)

    def _main_in_slab(self, plan: Plan) -> None:
        """The loops of one piece within the loop over the slabs."""
        slab = self.slab
        assert slab is not None, "asked for slabs"
        self.slab_work = self.slab_work + _work(plan)
        split = slab if slab in plan.summed else None
        plan.outer = [var for var in plan.outer if var != slab]
        plan.summed = [var for var in plan.summed if var != slab]
        with self.slab_units.block(""):
            self.slab_units.line(f"const long low = 0, high = {_units_of(plan)};")
            self._units(self.slab_units, plan, split)

    def _units(self, w: Writer, plan: Plan, split: Var | None) -> None:
        tiles, rows_text = _row_tiles(plan)
        units_of_rows, per_unit = _row_blocks(plan, tiles)
        with w.block("for (long unit = low; unit < high; unit++)"):
            self._decode(w, plan, units_of_rows)
            w.line(f"const long tiles = {rows_text};")
            w.line(f"const long last_tile = cr_least((block + 1) * {per_unit}, tiles);")
            with w.block(f"for (long tile = block * {per_unit}; tile < last_tile; tile++)"):
                self._tile_variants(w, plan, split)

    def _split_sum(self, plan: Plan) -> Var | None:
        """The index of the sum to split into parts, where there are too few outputs to divide among threads."""
        sizes = [var.extent for var in (*plan.outer, plan.row)]
        if any(isinstance(size, Size) for size in sizes) or len(self.pieces) > 1:
            return None
        outputs = product(self.node.output.shape)
        split = plan.summed[0]
        long_sum = isinstance(plan.depth, Size) or plan.depth >= 1024
        divisible = isinstance(split.extent, Size) or (split.extent or 0) >= 32
        return split if long_sum and divisible and outputs <= _MOST_SPLIT else None

    def _decode(self, w: Writer, plan: Plan, units_of_rows: str) -> None:
        w.line("long rest = unit;")
        for name, extent in (("block", units_of_rows), ("panel", plan.panels)):
            if extent in (1, "1"):
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
        plain = split is not None or not self.roots
        first = variable(Var("panel", plan.panels)) * plan.panel
        if plain and plan.full:
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
        stores = [Store(f"({target})", out, element)] if plain or self.keeps_result else []
        if not plain:
            body.preset(self.node.output, Position(self.node.output.shape, None, out), element)
            stores += self._root_stores(body, out)
        return Box([], list(body.statements), stores)

    def _root_stores(self, body: Body, out: Index) -> list[Store]:
        return [Store(self.name(root), out, body.read(root, Position(root.shape, None, out))) for root in self.roots]

    def _zero(self, piece: Piece, out: Index) -> None:
        """Where nothing is summed."""
        body = self.body()
        body.preset(self.node.output, Position(self.node.output.shape, None, out), "0")
        stores = [Store(self.name(self.node.output), out, "0")] if self.keeps_result else []
        stores += self._root_stores(body, out)
        box = box_of([var for var in piece.kept if var.extent != 1], body, stores)
        self.tasks.append(write_box(box, comment="nothing is summed here"))

    def _add_parts(self, chunks: str) -> None:
        """The parts of a split sum, added in pairs, and what follows."""
        size = product(self.node.output.shape)
        self.regions.append(Region("parts", self.node.output.dtype, size * _PARTS))
        vars = [Var("i0", size)]
        at = variable(vars[0])
        body = self.body()
        count = body.emit("const long", chunks)
        parts = [body.emit(self.type, "parts[", at, "]")]
        parts += [body.emit(self.type, f"{count} > {n} ? parts[", at + size * n, "] : 0") for n in range(1, _PARTS)]
        while len(parts) > 1:
            parts = [body.emit(self.type, f"{x} + {y}") for x, y in zip(parts[::2], parts[1::2], strict=True)]
        body.preset(self.node.output, Position(self.node.output.shape, None, at), parts[0])
        stores = [Store(self.name(self.node.output), at, parts[0])] if self.keeps_result else []
        stores += self._root_stores(body, at)
        self.tasks.append(write_box(box_of(vars if size != 1 else [], body, stores), comment="the parts of the sum"))


def _most(x: Dim, y: Dim) -> Dim:
    return y if at_least(y - x, 0) else x


def _units_of(plan: Plan) -> str:
    outer = product(var.extent for var in plan.outer if var.extent is not None)
    blocks, _ = _row_blocks(plan, _row_tiles(plan)[0])
    return f"{c_size(outer * plan.panels)} * {blocks}"


def _work(plan: Plan) -> Dim:
    """Multiplications, those with padding included."""
    points = product(var.extent for var in (*plan.outer, plan.row) if var.extent is not None)
    return plan.depth * points * plan.panels * plan.panel


def _part_count(work: Dim, split: Var) -> str:
    assert split.extent is not None, "an index of a sum has an extent"
    return f"cr_least(cr_chunks({c_size(work)}, {_GRAIN}, {c_size(split.extent)}), {_PARTS})"


def _chunks(work: Dim, units: str) -> str:
    return f"cr_chunks({c_size(work)}, {_GRAIN}, {units})"


def _merged(
    places: list[Index], kept: Sequence[Var], summed: Sequence[Var], fixed: Sequence[Var]
) -> tuple[list[Index], list[Var], list[Var]]:
    """Indices that all three operands move through as through one become one; the tile's own indices stay."""

    def merge(vars: list[Var]) -> list[Var]:
        changed = True
        while changed:
            changed = False
            for outer in vars:
                for inner in vars:
                    if (
                        outer is inner
                        or outer in fixed
                        or inner in fixed
                        or outer.extent is None
                        or inner.extent is None
                    ):
                        continue
                    if all(i.coefficient(outer) == i.coefficient(inner) * inner.extent for i in places):
                        one = Var(inner.name, outer.extent * inner.extent)
                        places[:] = [i.replace({outer: Index(), inner: variable(one)}) for i in places]
                        vars = [one if v is inner else v for v in vars if v is not outer]
                        changed = True
                        break
                if changed:
                    break
        return vars

    return places, merge(list(kept)), merge([var for var in summed if var.extent != 1])


def _sum_order(summed: Sequence[Var], x: Index, y: Index) -> list[Var]:
    """The index over which x is contiguous goes innermost, a symbolic one outermost."""

    def key(var: Var) -> tuple[bool, bool, int]:
        step = x.coefficient(var)
        other = y.coefficient(var)
        size = abs(step) if isinstance(step, int) else 1 << 60
        more = abs(other) if isinstance(other, int) else 1 << 60
        return isinstance(var.extent, Size), size != 0, size + more

    return sorted(summed, key=key, reverse=True)


def _aliases(plan: Plan, place: Index) -> bool:
    """Whether the steps of a long sum fall on few sets of the caches, and there are rows enough to make up for a copy."""
    rows = plan.row.extent
    if plan.summed and (isinstance(rows, Size) or (rows or 0) >= 64):
        step = place.coefficient(plan.summed[-1])
        count = plan.summed[-1].extent
        long_sum = isinstance(count, Size) or (count or 0) >= 256
        return long_sum and isinstance(step, int) and step * BYTES[plan.dtype] % 4096 == 0
    return False


def _row_tiles(plan: Plan) -> tuple[Dim | None, str]:
    extent = plan.row.extent
    if isinstance(extent, Size):
        return None, f"({c_size(extent)} + {plan.most_rows - 1}) / {plan.most_rows}"
    assert extent is not None, "the row index has an extent"
    tiles = -(-extent // plan.most_rows)
    return tiles, str(tiles)


def _row_blocks(plan: Plan, tiles: Dim | None) -> tuple[str, int]:
    """Into how many blocks of how many tiles the rows are cut."""
    depth = plan.depth if not isinstance(plan.depth, Size) else 128 * sum(plan.depth.coefficients)
    per_unit = max(1, _UNIT // max(1, depth * plan.panel * plan.most_rows))
    if tiles is None:
        assert plan.row.extent is not None, "the row index has an extent"
        rows = plan.most_rows * per_unit
        return f"(({c_size(plan.row.extent)} + {rows - 1}) / {rows})", per_unit
    assert isinstance(tiles, int), "a constant number of tiles"
    per_unit = min(per_unit, tiles)
    return str(-(-tiles // per_unit)), per_unit


def _without(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v not in vars), index.offset)


def _only(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v in vars))
