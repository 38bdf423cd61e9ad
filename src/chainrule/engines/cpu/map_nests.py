"""The C of elementwise results over one box of loops.

The box is cut into parts in which what guards say is known (``cuts.py``), and these run in whole vectors. A mere copy that reads along
another axis than it writes goes by square blocks, which are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.core.dtypes import WIDE_FLOATS, DType
from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.cuts import Axes, Axis, boxes_of
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of, chunks_text, work_of
from chainrule.engines.cpu.nests import Task, around, at_places, cut_range, write_box, write_boxes
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.sides import LANE, Side
from chainrule.engines.cpu.vectors import NARROWEST
from chainrule.ir.graph import Value
from chainrule.ir.sizes import Shape, product


def write_map(
    body: Callable[[], Body],
    shape: Shape,
    roots: Sequence[tuple[Value, str]],
    sides: Sequence[Side] = (),
    *,
    vector_bytes: int,
) -> Task:
    """Elementwise results over one box, each stored through its pointer, and sums of such."""
    whole = tuple(Axis((Var(f"i{axis}", size),)) for axis, size in enumerate(shape) if size != 1)
    boxes = boxes_of(body, whole, lambda built, axes: _box(built, axes, roots, sides))
    if len(boxes) > 1:
        return write_boxes(boxes, sides=sides)
    turned = None if sides else _turned(boxes[0], roots[0][0].dtype, vector_bytes)
    return turned or write_box(boxes[0], sides=sides)


def _box(body: Body, axes: Axes, roots: Sequence[tuple[Value, str]], sides: Sequence[Side]) -> Box:
    stores, places = [], [axis.index for axis in axes]
    for value, pointer in roots:
        position = at_places(value.shape, places)
        stores.append(Store(pointer, position.linear(), body.read(value, position), product(value.shape)))
    for side in sides:
        place = at_places(side.node.inputs[0].shape, places).linear()
        stores.append(side.store(body, place, variable(LANE)))
    return box_of([var for axis in axes for var in axis.vars], body, stores, [LANE] if sides else [])


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
