"""Reductions as loop nests: sums and maxima over some of the loops, and the search for the place of a maximum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chainrule.core.dtypes import BOOL, FLOAT64, DType
from chainrule.engines.cpu.body import Body, Position, Statement
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of, chunks_text, work_of
from chainrule.engines.cpu.nests import Inner, Region, Task, around, cost_of, cut_range, variables
from chainrule.engines.cpu.scalars import BYTES, C_TYPES, EXPRESSIONS, add_text, literal, lowest
from chainrule.ir.graph import Node
from chainrule.ir.sizes import Dim, Size, product

# Text of the statement that stores a result, from its place and value.
Target = Callable[[str, str], str]

# Chunks are whole numbers of so many columns; so many are added up at once, in runs along rows that memory delivers fast.
_COLUMNS = 64
_WIDE = 1024
# A result of fewer elements than this is too small to divide among threads: the sum is divided instead.
_FEW_RESULTS = 1024
_PARTS = 16
# The bytes that an element takes in memory, by the type of the local that it is read into.
_BYTES_READ = {C_TYPES[dtype]: BYTES[dtype] for dtype in C_TYPES}


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
            cut_range(self.writer, c_size(extent), chunks)
            return
        text = c_size(extent)
        self.writer.line(f"const long chunks = {chunks}, extent = {text}, blocks = (extent + {unit - 1}) / {unit};")
        self.writer.line(f"const long low = cr_cut(blocks, chunk, chunks) * {unit};")
        self.writer.line(f"const long high = cr_least(cr_cut(blocks, chunk + 1, chunks) * {unit}, extent);")

    def _split(self, task: Task, chunks: str, longest: Dim) -> None:
        """Chunks of the sum into partial results, added up in order afterwards."""
        cut_range(self.writer, c_size(longest), chunks)
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
        cut_range(writer, c_size(extent), chunks)

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
