"""Loop nests as C: independent loops, and what all nests have in common.

Every writer returns a :class:`Task`: a C function of a chunk number, and the number of chunks. The chunks depend on the sizes alone
and what they write does not overlap, or is combined in their order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chainrule.core.alignment import LINE_BYTES
from chainrule.core.dtypes import DType
from chainrule.engines.cpu.body import Position
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Box, Writer, chunks_text, work_of
from chainrule.engines.cpu.random_words import draws_of, with_draws
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.sides import LANE, LANES, Side, end_of
from chainrule.ir.sizes import Dim, Shape

# What writes the innermost statements.
Inner = Callable[[], None]


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
    cut_range(writer, c_size(outer.extent), chunks)
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


def around(writer: Writer, vars: Sequence[Var], inner: Inner, first: tuple[str, str | None] = ("0", None)) -> None:
    if not vars:
        inner()
        return
    with writer.loop(vars[0], *first):
        around(writer, vars[1:], inner)
