"""The C of elementwise results over one box of loops.

    out[i, j] = pad(x)[i, j] + pad(y)[i, j]      becomes   a loop over the columns of x, then one over those of y

Where conditions change along an axis, the box is cut, so that in every part each of them is known; where an axis would have to be
divided (a reshape into heads, and a transposition), it becomes two loops. What is left runs in whole vectors. A mere copy that
reads along another axis than it writes goes by square blocks, which are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chainrule.core.dtypes import WIDE_FLOATS, DType
from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of, chunks_text, work_of
from chainrule.engines.cpu.nests import Task, around, at_places, cut_range, write_box, write_boxes
from chainrule.engines.cpu.pieces import pieces_of
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.sides import LANE, Side
from chainrule.engines.cpu.vectors import NARROWEST
from chainrule.ir.graph import Value
from chainrule.ir.sizes import Shape, product

# Shorter loops than this are not worth having for themselves, nor more boxes than so many.
_SHORTEST = 16
_MOST_BOXES = 8
# Nor more than so many parts of different residues.
_MOST_RESIDUES = 16


@dataclass(frozen=True, slots=True)
class _Axis:
    """Loops that together run along an axis, from ``start`` on in steps of ``step``."""

    vars: tuple[Var, ...]
    start: int = 0
    step: int = 1

    @property
    def index(self) -> Index:
        sizes = tuple(var.extent for var in self.vars if var.extent is not None)
        return linear([variable(var) for var in self.vars], sizes) * self.step + self.start


_Axes = tuple[_Axis, ...]


def write_map(
    body: Callable[[], Body],
    shape: Shape,
    roots: Sequence[tuple[Value, str]],
    sides: Sequence[Side] = (),
    *,
    vector_bytes: int,
) -> Task:
    """Elementwise results over one box, each stored through its pointer, and sums of such."""
    whole = tuple(_Axis((Var(f"i{axis}", size),)) for axis, size in enumerate(shape) if size != 1)
    boxes: list[Box] = []
    waiting = [whole]
    while waiting:
        axes = waiting.pop(0)
        built = body()
        box = _box(built, axes, roots, sides)
        parts = _by_residue(built, axes)
        if parts and len(parts) + len(waiting) + len(boxes) <= _MOST_RESIDUES:
            waiting = [*parts, *waiting]
            continue
        parts = _cut(built, axes)
        if parts and len(parts) + len(waiting) + len(boxes) <= _MOST_BOXES:
            waiting = [*parts, *waiting]
        elif (refined := _refined(built, axes)) is not None:
            waiting.insert(0, refined)
        else:
            boxes.append(box)
    if len(boxes) > 1:
        return write_boxes(boxes, sides=sides)
    turned = None if sides else _turned(boxes[0], roots[0][0].dtype, vector_bytes)
    return turned or write_box(boxes[0], sides=sides)


def _box(body: Body, axes: _Axes, roots: Sequence[tuple[Value, str]], sides: Sequence[Side]) -> Box:
    stores, places = [], [axis.index for axis in axes]
    for value, pointer in roots:
        position = at_places(value.shape, places)
        stores.append(Store(pointer, position.linear(), body.read(value, position), product(value.shape)))
    for side in sides:
        place = at_places(side.node.inputs[0].shape, places).linear()
        stores.append(side.store(body, place, variable(LANE)))
    return box_of([var for axis in axes for var in axis.vars], body, stores, [LANE] if sides else [])


# The outermost axis stays whole: it is what is divided among threads.


def _cut(body: Body, axes: _Axes) -> list[_Axes]:
    """The box in parts between the places where guards change along one axis; none if they would be too short."""
    vars = [var for axis in axes for var in axis.vars]
    found = pieces_of(vars, body) if len(vars) == len(axes) else None
    if found is None:
        return []
    number, ends = found
    axis = axes[number]
    parts = [
        replace(axis, vars=(Var(vars[number].name, high - low),), start=axis.start + low * axis.step)
        for low, high in zip(ends, ends[1:])
    ]
    return [(*axes[:number], part, *axes[number + 1 :]) for part in parts]


def _by_residue(body: Body, axes: _Axes) -> list[_Axes]:
    """The box in parts in which every index of one axis leaves the same remainder, where that decides what is read.

    The innermost axis stays whole, so that what is read and written there is contiguous.
    """
    for number, axis in enumerate(axes[1:-1], 1):
        var, step = axis.vars[-1], body.steps.get(axis.vars[-1], 0)
        if len(axis.vars) > 1 or not isinstance(var.extent, int) or not 0 < step <= var.extent:
            continue
        parts = [
            replace(
                axis,
                vars=(Var(var.name, -(-(var.extent - residue) // step)),),
                start=axis.start + residue * axis.step,
                step=axis.step * step,
            )
            for residue in range(step)
        ]
        return [(*axes[:number], part, *axes[number + 1 :]) for part in parts]
    return []


def _refined(body: Body, axes: _Axes) -> _Axes | None:
    """The box with one loop made two, so that nothing is divided by the extent of the inner one."""
    for number, axis in enumerate(axes[1:], 1):
        for place, var in enumerate(axis.vars):
            divisor = body.divisors.get(var)
            if divisor is None or divisor < _SHORTEST:
                continue
            assert isinstance(var.extent, int), "only constant extents are divided"
            if var.extent == divisor:
                continue
            pair = Var(f"{var.name}_{divisor}", var.extent // divisor), Var(var.name, divisor)
            loops = (*axis.vars[:place], *pair, *axis.vars[place + 1 :])
            return (*axes[:number], replace(axis, vars=loops), *axes[number + 1 :])
    return None


def _turned(box: Box, dtype: DType, vector_bytes: int) -> Task | None:
    """A copy in square blocks, if it is one that reads along one axis and writes along another, in whole vectors."""
    if (
        dtype not in WIDE_FLOATS
        or len(box.statements) != 1
        or len(box.stores) != 1
        or len(box.statements[0].parts) != 4
    ):
        return None
    box.merge()
    (statement,), (store,) = box.statements, box.stores
    source, bracket, place, _ = statement.parts
    if bracket != "[" or not isinstance(place, Index) or store.value != statement.name:
        return None
    along = next((var for var in box.vars if store.at.coefficient(var) == 1), None)
    across = next((var for var in box.vars if place.coefficient(var) == 1), None)
    if along is None or across is None or along == across or not isinstance(along.extent, int):
        return None
    widths = (vector_bytes >> k for k in range(vector_bytes.bit_length()))
    lanes = next((w // BYTES[dtype] for w in widths if w >= NARROWEST and not along.extent % (w // BYTES[dtype])), None)
    if lanes is None or not isinstance(across.extent, int) or across.extent < lanes or place.coefficient(along) == 0:
        return None
    begin = variable(Var("block", -(-across.extent // lanes))) * lanes
    known = {along: variable(Var("column", along.extent // lanes)) * lanes, across: begin}
    # What is read comes in runs, what is written in whole vectors.
    blocks = [var for index in known.values() for var, _ in index.terms]
    loops = [*(var for var in box.vars if var not in known), *blocks]
    work = work_of(box.vars, 2)
    w = Writer()
    call = (
        f"cr_transpose_{dtype}x{lanes}({store.pointer} + ({store.at.replace(known)}), "
        f"{c_size(store.at.coefficient(across))}, {source} + ({place.replace(known)}), "
        f"{c_size(place.coefficient(along))}, cr_least({lanes}, {across.extent} - ({begin})), {lanes});"
    )
    if not loops:
        w.line(call)
        return Task(w.text)
    extent = loops[0].extent
    assert extent is not None, "a loop has an end"
    chunks = chunks_text(work, extent)
    cut_range(w, c_size(extent), chunks)
    around(w, loops, lambda: w.line(call), first=("low", "high"))
    return Task(w.text, chunks)
