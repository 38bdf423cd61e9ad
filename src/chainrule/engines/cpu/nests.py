"""Loop nests as C: maps, reductions, searches and scatters.

Every writer returns a :class:`Task`: a C function of a chunk number, and the number of chunks. The chunks depend on the sizes alone
and what they write does not overlap, or is combined in their order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chainrule.core.alignment import LINE_BYTES
from chainrule.core.dtypes import BOOL, FLOAT64, DType
from chainrule.engines.cpu.body import Body, Position, Statement
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of, chunks_text, work_of
from chainrule.engines.cpu.random_words import draws_of, with_draws
from chainrule.engines.cpu.scalars import BYTES, C_TYPES, EXPRESSIONS, add_text, literal, lowest
from chainrule.engines.cpu.sides import LANE, LANES, Side, end_of
from chainrule.ir.graph import Node
from chainrule.ir.sizes import Dim, Shape, Size, product

# Text of the statement that stores a result, from its place and value; what writes the innermost statements.
Target = Callable[[str, str], str]
Inner = Callable[[], None]

# Chunks are whole numbers of so many columns; so many are added up at once, in runs along rows that memory delivers fast.
_COLUMNS = 64
_WIDE = 1024
# A result of fewer elements than this is too small to divide among threads: the sum is divided instead.
_FEW_RESULTS = 1024
_PARTS = 16
# The bytes that an element takes in memory, by the type of the local that it is read into.
_BYTES_READ = {C_TYPES[dtype]: BYTES[dtype] for dtype in C_TYPES}


@dataclass(frozen=True, slots=True)
class Region:
    """Working memory of a nest: the name of its pointer, and its elements."""

    name: str
    dtype: DType
    count: Dim


@dataclass(slots=True)
class Task:
    """The text of a function's body, how many chunks it runs in, and what runs before and after all of them.

    ``functions`` are those that it calls, by names that tell functions of different texts apart.
    """

    text: str
    chunks: str = "1"
    before: str = ""
    after: str = ""
    regions: list[Region] = field(default_factory=list)
    comment: str = ""
    functions: dict[str, str] = field(default_factory=dict)


def declare_scratch(w: Writer, dtype: DType, buffers: Sequence[tuple[str, Dim]]) -> None:
    """Memory of the thread for buffers of a constant number of elements, each from the beginning of a line of a cache on."""
    starts, end = [], 0
    for _, count in buffers:
        starts.append(end)
        assert isinstance(count, int), "what a thread keeps has a constant size"
        end += -(-count * BYTES[dtype] // LINE_BYTES) * LINE_BYTES
    w.line(f"char *const scratch = cr_scratch({end});")
    for (name, _), start in zip(buffers, starts, strict=True):
        w.line(f"{C_TYPES[dtype]} *restrict const {name} = ({C_TYPES[dtype]} *)(scratch + {start});")


def variables(shape: Shape) -> tuple[list[Var], tuple[Index, ...]]:
    """A loop variable for every axis that needs one, and the coordinates."""
    vars = [Var(f"i{axis}", size) for axis, size in enumerate(shape) if size != 1]
    named = {var.name: var for var in vars}
    coordinates = tuple(variable(named[f"i{axis}"]) if f"i{axis}" in named else Index() for axis in range(len(shape)))
    return vars, coordinates


def in_shape(shape: Shape, vars: Sequence[Var]) -> Position:
    """The position of the loop variables in an array of the box's sizes, with axes of size 1 anywhere."""
    return at_places(shape, [variable(var) for var in vars])


def at_places(shape: Shape, places: Sequence[Index]) -> Position:
    """The position in an array of the box's sizes, with axes of size 1 anywhere."""
    rest = iter(places)
    return Position(shape, tuple(Index() if size == 1 else next(rest) for size in shape))


def write_box(
    box: Box, comment: str = "", first: Sequence[str] = (), sides: Sequence[Side] = (), before: int = 0
) -> Task:
    """Independent loops, the outermost cut into chunks. The lines ``first`` come before the loops over [low, high); they are worth
    about as many additions as ``before`` says for each evaluation of the box."""
    box.merge()
    writer = Writer()
    if not box.vars:
        assert not sides, "a sum runs over something"
        writer.lines.extend(["const long low = 0, high = 1;", *first] if first else [])
        box.write(writer)
        box.write_stores(writer)
        return Task(writer.text, comment=comment)
    outer = box.vars[0]
    assert outer.extent is not None, "a loop has an end"
    chunks = chunks_text(work_of(box.vars, cost_of(box) + before), outer.extent)
    _cut(writer, outer.extent, chunks)
    writer.lines.extend(first)
    for side in sides:
        side.begin(writer)
    _map_loops(writer, box, chunked=True)
    return Task(writer.text, chunks, after=end_of(sides), regions=regions_of(sides), comment=comment)


def write_boxes(boxes: Sequence[Box], comment: str = "", sides: Sequence[Side] = ()) -> Task:
    """All boxes for one element of the outermost loop, which they have in common, after another."""
    if len(boxes) == 1:
        return write_box(boxes[0], comment, sides=sides)
    outer = boxes[0].vars[0]
    work: Dim = 0
    for box in boxes:
        box.merge(frozenset({outer}))
        work = work + work_of(box.vars, cost_of(box))
    assert outer.extent is not None, "a loop has an end"
    chunks = chunks_text(work, outer.extent)
    w = Writer()
    cut_range(w, c_size(outer.extent), chunks)
    for side in sides:
        side.begin(w)
    with w.loop(outer, "low", "high"):
        write_together(w, [Box(box.vars[1:], box.statements, box.stores) for box in boxes])
    return Task(w.text, chunks, after=end_of(sides), regions=regions_of(sides), comment=comment)


def write_together(w: Writer, boxes: Sequence[Box]) -> None:
    """Boxes one after another. Neighbours with the same loops share all but the innermost: what one has read and written lines of,
    another, as of the next residue of a stride, needs while they are near."""
    for var, group in itertools.groupby(boxes, lambda box: box.vars[0] if len(box.vars) > 1 else None):
        together = list(group)
        if var is None or len(together) == 1:
            for box in together:
                write_loops(w, box)
            continue
        with w.loop(var):
            write_together(w, [Box(box.vars[1:], box.statements, box.stores) for box in together])


def regions_of(sides: Sequence[Side]) -> list[Region]:
    return [Region(*side.region) for side in sides]


def cost_of(box: Box) -> int:
    """Roughly the additions that one evaluation is worth; a call to a function counts as a dozen."""
    return sum(12 if any("cr_" in str(p) for p in s.parts) else 1 for s in box.statements) + len(box.stores)


def _cut(writer: Writer, extent: Dim, chunks: str) -> None:
    cut_range(writer, c_size(extent), chunks)


def cut_range(writer: Writer, extent: str, chunks: str) -> None:
    """The range [low, high) of this chunk."""
    if chunks == "1":
        writer.line(f"const long low = 0, high = {extent};")
    else:
        writer.line(f"const long chunks = {chunks}, extent = {extent};")
        writer.line("const long low = cr_cut(extent, chunk, chunks), high = cr_cut(extent, chunk + 1, chunks);")


def write_loops(writer: Writer, box: Box) -> None:
    _map_loops(writer, box, chunked=False)


def _map_loops(writer: Writer, box: Box, chunked: bool, depth: int = 0) -> None:
    if depth == len(box.vars):
        box.write(writer)
        box.write_stores(writer)
        return
    bounds = ("low", "high") if chunked and depth == 0 else ("0", None)
    if depth == len(box.vars) - 1:
        if any(store.at.coefficient(LANE) != 0 for store in box.stores) or draws_of(box, box.vars[depth]):
            _lane_loops(writer, box, *bounds)
            return
        writer.line("CR_INDEPENDENT")
    with writer.loop(box.vars[depth], *bounds):
        _map_loops(writer, box, chunked, depth + 1)


def _lane_loops(writer: Writer, box: Box, low: str, high: str | None) -> None:
    """The innermost loop in runs, for sums that are kept in lanes and for random words, of which two are made at once."""
    var = box.vars[-1]
    assert var.extent is not None, "a loop has an end"
    high = high or c_size(var.extent)
    known = {var: variable(Var("block")) + variable(LANE)}
    draws = draws_of(box, var)
    first = Box([], [], [])
    if draws:
        first, box = box.split(var)
        box = with_draws(box, draws)

    def run(limit: str) -> None:
        for draw in draws:
            draw.write(writer, known, limit)
        writer.line("CR_INDEPENDENT")
        with writer.loop(LANE, end=limit):
            box.write(writer, known)
            box.write_stores(writer, known)

    with writer.block(""):
        first.write(writer)
        writer.line(f"long block = {low};")
        with writer.block(f"for (; block + {LANES} <= {high}; block += {LANES})"):
            run(str(LANES))
        run(f"{high} - block")


@dataclass(slots=True)
class Reduction:
    """``pointer[at] = op over reduced of value``, for every point of the kept variables.

    ``whole`` says that these are all elements of the result, so that it can be put together from parts.
    """

    vars: list[Var]
    reduced: frozenset[Var]
    body: Body
    value: str
    pointer: str
    at: Index
    size: Dim
    dtype: DType
    op: str
    whole: bool = True


def write_reduction(r: Reduction) -> Task:
    """A sum or a maximum. Sums run in several lanes that are added up pairwise at the end."""
    box = box_of(r.vars, r.body, [Store(r.pointer, r.at, r.value, r.size)])
    apart = r.reduced
    # Merged variables keep the name of the inner one, so the names tell which are reduced.
    names = {var.name for var in apart}
    box.merge(apart)
    reduced = [var for var in box.vars if var.name in names]
    kept = [var for var in box.vars if var.name not in names]
    writer = _ReductionWriter(r, box, kept, reduced)
    return writer.write()


def write_row(w: Writer, r: Reduction, box: Box, result: str) -> None:
    """A reduction of everything that the box of ``r`` runs over, into the variable ``result``."""
    box.merge()
    writer = _ReductionWriter(r, box, [], box.vars)
    writer.writer = w
    writer.row(lambda at, value: f"{result} = {value};")


class _ReductionWriter:
    def __init__(self, r: Reduction, box: Box, kept: list[Var], reduced: list[Var]) -> None:
        self.r, self.box, self.kept, self.reduced = r, box, kept, reduced
        self.type = C_TYPES[r.dtype]
        self.start = literal(0, r.dtype) if r.op == "sum" else lowest(r.dtype)
        self.writer = Writer()
        self.columns = bool(kept) and (not reduced or box.vars[-1] is kept[-1])

    def write(self) -> Task:
        work = work_of(self.box.vars, cost_of(self.box))
        kept = product(var.extent for var in self.kept if var.extent is not None)
        first = self.kept[0].extent if self.kept else 1
        assert first is not None, "a loop has an end"
        few = not isinstance(kept, Size) and kept < _FEW_RESULTS
        task = Task("")
        if self.r.whole and self.reduced and few and (isinstance(work, Size) or work > 65536 * 2):
            longest = self.reduced[0].extent
            assert longest is not None, "a loop has an end"
            chunks = chunks_text(work, longest)
            chunks = f"cr_least({chunks}, {_PARTS})" if not chunks.isdigit() else str(min(int(chunks), _PARTS))
            if chunks != "1":
                self._split(task, chunks, longest)
                return task
        if self.columns and len(self.kept) == 1:
            first = first + (_COLUMNS - 1)
            limit: Dim = first // _COLUMNS if not isinstance(first, Size) else first
        else:
            limit = first
        task.chunks = chunks_text(work, limit) if self.kept else "1"
        if self.kept:
            unit = _COLUMNS if self.columns and len(self.kept) == 1 else 1
            self._cut_kept(task.chunks, unit)
        self._kept_loops(0, chunked="kept", target=lambda at, value: f"{self.r.pointer}[{at}] = {value};")
        task.text = self.writer.text
        return task

    def _cut_kept(self, chunks: str, unit: int) -> None:
        extent = self.kept[0].extent
        assert extent is not None, "a loop has an end"
        if unit == 1 or chunks == "1":
            _cut(self.writer, extent, chunks)
            return
        text = c_size(extent)
        self.writer.line(f"const long chunks = {chunks}, extent = {text}, blocks = (extent + {unit - 1}) / {unit};")
        self.writer.line(f"const long low = cr_cut(blocks, chunk, chunks) * {unit};")
        self.writer.line(f"const long high = cr_least(cr_cut(blocks, chunk + 1, chunks) * {unit}, extent);")

    def _split(self, task: Task, chunks: str, longest: Dim) -> None:
        """Chunks of the sum into partial results, added up in order afterwards."""
        _cut(self.writer, longest, chunks)
        size = c_size(self.r.size)
        self._kept_loops(0, chunked="reduced", target=lambda at, value: f"partial[chunk * {size} + {at}] = {value};")
        task.text, task.chunks = self.writer.text, chunks
        task.regions = [Region("partial", self.r.dtype, self.r.size * _PARTS)]
        part = variable(Var("chunk", _PARTS)) * self.r.size
        prove("partial", part + self.box.stores[0].at, task.regions[0].count)
        final = Writer()
        with final.loop(Var("k", self.r.size)):
            final.line(f"{self.type} total = partial[k];")
            with final.block("for (long chunk = 1; chunk < chunks; chunk++)"):
                final.line(f"const {self.type} part = partial[chunk * {size} + k];")
                final.line(f"total = {self._combine('total', 'part')};")
            final.line(f"{self.r.pointer}[k] = total;")
        task.after = final.text

    def _combine(self, x: str, y: str) -> str:
        if self.r.op == "sum":
            return add_text(self.r.dtype, x, y)
        return f"{x} | {y}" if self.r.dtype == BOOL else EXPRESSIONS["maximum"]((x, y), self.r.dtype)

    def _kept_loops(self, depth: int, chunked: str, target: Target) -> None:
        remaining = len(self.kept) - depth - (1 if self.columns else 0)
        if remaining > 0:
            bounds = ("low", "high") if chunked == "kept" and depth == 0 else ("0", None)
            with self.writer.loop(self.kept[depth], *bounds):
                self._kept_loops(depth + 1, chunked, target)
        elif self.columns:
            self._column_block(chunked, target, first=depth == 0)
        else:
            self.row(target, chunked)

    def _reduced_loops(self, chunked: str, inner: Inner, vars: Sequence[Var], depth: int = 0) -> None:
        if depth == len(vars):
            inner()
            return
        bounds = ("low", "high") if chunked == "reduced" and depth == 0 else ("0", None)
        with self.writer.loop(vars[depth], *bounds):
            self._reduced_loops(chunked, inner, vars, depth + 1)

    def _column_block(self, chunked: str, target: Target, first: bool) -> None:
        w, var = self.writer, self.kept[-1]
        assert var.extent is not None, "a loop has an end"
        bounds = ("low", "high") if chunked == "kept" and first else ("0", c_size(var.extent))
        wide = _WIDE if isinstance(var.extent, Size) else max(_COLUMNS, min(_WIDE, var.extent))
        inside = Var("l", wide)
        known = {var: variable(Var("block")) + variable(inside)}
        store = self.box.stores[0]
        with w.block(f"for (long block = {bounds[0]}; block < {bounds[1]}; block += {wide})"):
            w.line(f"{self.type} sums[{wide}];")
            w.line(f"for (long l = 0; l < {wide}; l++) sums[l] = {self.start};")
            w.line(f"const long width = cr_least({wide}, {bounds[1]} - block);")

            def sweep(limit: str) -> None:
                def inner() -> None:
                    w.line("CR_INDEPENDENT")
                    with w.block(f"for (long l = 0; l < {limit}; l++)"):
                        self.box.write(w, known)
                        w.line(f"sums[l] = {self._combine('sums[l]', store.value)};")

                self._reduced_loops(chunked, inner, self.reduced)

            extent = var.extent
            if isinstance(extent, Size) or extent >= wide:
                with w.block(f"if (width == {wide})", "} else {"):
                    sweep(str(wide))
                w.depth += 1
                sweep("width")
                w.depth -= 1
                w.line("}")
            else:
                sweep(str(extent))
            at = str(store.at.replace(known))
            w.line(f"for (long l = 0; l < width; l++) {target(at, 'sums[l]')}")

    def row(self, target: Target, chunked: str = "") -> None:
        w, store = self.writer, self.box.stores[0]
        if not self.reduced:
            self.box.write(w)
            w.line(target(str(store.at), store.value))
            return
        var = self.reduced[-1]
        assert var.extent is not None, "a loop has an end"
        lanes = self._lanes(var)
        alone = chunked == "reduced" and len(self.reduced) == 1
        low, high = ("low", "high") if alone else ("0", c_size(var.extent))
        if lanes == 1:
            w.line(f"{self.type} sum = {self.start};")

            def single() -> None:
                self.box.write(w)
                w.line(f"sum = {self._combine('sum', store.value)};")

            self._reduced_loops(chunked, single, self.reduced)
            w.line(target(str(store.at), "sum"))
            return
        w.line(f"{self.type} sums[{lanes}];")
        w.line(f"for (long l = 0; l < {lanes}; l++) sums[l] = {self.start};")

        def lane(limit: str) -> None:
            w.line("CR_INDEPENDENT")
            with w.block(f"for (long l = 0; l < {limit}; l++)"):
                self.box.write(w, {var: variable(Var("block")) + variable(Var("l", lanes))})
                w.line(f"sums[l] = {self._combine('sums[l]', store.value)};")

        def inner() -> None:
            w.line(f"long block = {low};")
            with w.block(f"for (; block + {lanes} <= {high}; block += {lanes})"):
                lane(str(lanes))
            lane(f"{high} - block")

        if self.reduced[:-1]:
            self._reduced_loops(chunked, inner, self.reduced[:-1])
        else:
            inner()
        step = lanes // 2
        while step:
            w.line(f"for (long l = 0; l < {step}; l++) sums[l] = {self._combine('sums[l]', f'sums[l + {step}]')};")
            step //= 2
        w.line(target(str(store.at), "sums[0]"))

    def _lanes(self, var: Var) -> int:
        extent = var.extent
        if isinstance(extent, Size) or extent is None:
            return 32 if not self.kept else 16
        if extent < 16:
            return 1
        wide = 64 if extent >= 512 else 16
        # Compilers make vectors of as many elements as there are of the narrowest type, masks above all.
        narrowest = min((_BYTES_READ.get(s.type, 8) for s in self.box.statements if _reads_along(s, var)), default=8)
        wide = max([wide, *(n for n in (32, 64) if n <= min(extent, 64 // narrowest))])
        return wide // 2 if self.r.dtype == FLOAT64 else wide


def _reads_along(statement: Statement, var: Var) -> bool:
    """Whether a statement reads another element of an array for every value of a variable."""
    return "[" in statement.parts and any(isinstance(p, Index) and p.coefficient(var) != 0 for p in statement.parts)


def write_reduce(body: Body, node: Node, pointer: str) -> Task:
    """``reduce_sum`` and ``reduce_max``, with whatever computes the operand expanded in the loop."""
    (x,) = node.inputs
    vars, coordinates = variables(x.shape)
    axes = node.attributes["axes"]
    value = body.read(x, Position(x.shape, coordinates))
    at = linear([i for axis, i in enumerate(coordinates) if axis not in axes], node.output.shape)
    reduced = frozenset(var for var in vars if int(var.name[1:]) in axes)
    op = "sum" if node.primitive.name == "reduce_sum" else "max"
    size = product(node.output.shape)
    return write_reduction(Reduction(vars, reduced, body, value, pointer, at, size, x.dtype, op))


def write_argmax(body: Body, node: Node, pointer: str) -> Task:
    """The first position of the largest element; the first NaN counts as the largest, as in NumPy."""
    (x,) = node.inputs
    vars, coordinates = variables(x.shape)
    axis = node.attributes["axis"]
    value = body.read(x, Position(x.shape, coordinates))
    at = linear([i for k, i in enumerate(coordinates) if k != axis], node.output.shape)
    box = box_of(vars, body, [Store(pointer, at, value, product(node.output.shape))])
    searched = next((var for var in vars if var.name == f"i{axis}"), None)
    kept = [var for var in vars if var is not searched]
    writer = Writer()
    chunks = "1"
    if kept:
        extent = kept[0].extent
        assert extent is not None, "a loop has an end"
        chunks = chunks_text(work_of(vars, cost_of(box)), extent)
        _cut(writer, extent, chunks)

    def search() -> None:
        if searched is None:
            writer.line(f"{pointer}[{at}] = 0;")
            return
        type, name = C_TYPES[x.dtype], searched.name
        writer.line(f"{type} best = 0;")
        writer.line("int64_t place = 0;")
        with writer.loop(searched):
            box.write(writer)
            nan = f" || ({value} != {value} && best == best)" if x.dtype.startswith("float") else ""
            with writer.block(f"if ({name} == 0 || {value} > best{nan})"):
                writer.line(f"best = {value};")
                writer.line(f"place = {name};")
        writer.line(f"{pointer}[{at}] = place;")

    around(writer, kept, search, first=("low", "high"))
    return Task(writer.text, chunks)


def around(writer: Writer, vars: Sequence[Var], inner: Inner, first: tuple[str, str | None] = ("0", None)) -> None:
    if not vars:
        inner()
        return
    with writer.loop(vars[0], *first):
        around(writer, vars[1:], inner)
