"""Contractions as loop nests: which form each takes, and the two plain forms.

A contraction whose output can be solved for becomes a sum per output element, in pieces. What cannot be solved is added into a
cleared result, index by index. Products with enough reuse go to the tiled generator instead (``tiles.py``).
"""

from __future__ import annotations

from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.lattice import NotSolvableError, Piece, pieces_of
from chainrule.engines.cpu.loops import Store, Writer, box_of
from chainrule.engines.cpu.nests import Task, around
from chainrule.engines.cpu.reductions import Reduction, write_reduction
from chainrule.engines.cpu.scalars import add_text, mul_text
from chainrule.ir.contraction import IndexMap
from chainrule.ir.graph import Node
from chainrule.ir.sizes import product


def write_plain(body: Body, node: Node, piece: Piece, pointer: str, whole: bool) -> Task:
    """One piece as a reduction; ``whole`` if it is the only one."""
    a, b = node.inputs
    at = linear(piece.out, node.output.shape)
    if piece.is_zero:
        return write_reduction(
            Reduction(piece.kept, frozenset(), body, "0", pointer, at, product(node.output.shape), a.dtype, "sum")
        )
    guard = body.both(*(body.inside(index, size) for index, size in piece.guards))
    operands = []
    for value, indices in ((a, piece.a), (b, piece.b)):
        inside = body.both(guard, *(body.inside(i, size) for i, size in zip(indices, value.shape, strict=True)))
        operands.append("0" if 0 in value.shape else body.load(value, linear(indices, value.shape), inside))
    element = "0" if "0" in operands else mul_text(a.dtype, *operands)
    vars = [*piece.kept, *piece.summed]
    size = product(node.output.shape)
    return write_reduction(
        Reduction(vars, frozenset(piece.summed), body, element, pointer, at, size, a.dtype, "sum", whole)
    )


def write_scattered(body: Body, node: Node, pointer: str) -> Task:
    """Index by index into a cleared result, for output maps of any kind."""
    spec, (a, b), out = node.attributes["spec"], node.inputs, node.output
    zero = f"memset({pointer}, 0, (size_t)({c_size(product(out.shape))}) * sizeof *{pointer});"
    if 0 in a.shape or 0 in b.shape or 0 in out.shape:
        return Task("", before=zero)
    vars = [Var(f"k{number}", extent) for number, extent in enumerate(spec.extents)]

    def place(index_map: IndexMap) -> list[Index]:
        found = []
        for coordinate in index_map:
            index = Index((), coordinate.offset)
            for number, c in coordinate.terms:
                index = index + variable(vars[number]) * c
            found.append(index)
        return found

    places = [place(index_map) for index_map in (spec.a, spec.b, spec.out)]
    shapes = (a.shape, b.shape, out.shape)
    guard = body.both(
        *(
            body.inside(i, size)
            for indices, shape in zip(places, shapes)
            for i, size in zip(indices, shape, strict=True)
        )
    )
    x = body.load(a, linear(places[0], a.shape), guard)
    y = body.load(b, linear(places[1], b.shape), guard)
    store = Store(pointer, linear(places[2], out.shape), x, product(out.shape), body.facts[guard] if guard else ())
    box = box_of(vars, body, [store])
    writer = Writer()

    def add() -> None:
        box.write(writer)
        element = f"{pointer}[{box.stores[0].at}]"
        sum = add_text(out.dtype, element, f"({mul_text(out.dtype, x, y)})")
        writer.line(f"{f'if ({guard}) ' if guard else ''}{element} = {sum};")

    around(writer, [var for var in vars if var.extent != 1], add)
    return Task(writer.text, before=zero)


def solved(node: Node) -> list[Piece] | None:
    """The pieces of a contraction, or None where its output map cannot be solved."""
    try:
        return pieces_of(node.attributes["spec"], node.inputs[0].shape, node.inputs[1].shape)
    except NotSolvableError:
        return None
