"""``scatter_add`` as C: the order in which elements are added is that of what is scattered, whatever runs in parallel."""

from __future__ import annotations

from chainrule.core.dtypes import DType
from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.indexing import Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Box, Store, Writer, box_of, chunks_text, work_of
from chainrule.engines.cpu.nests import Task, around, cost_of, cut_range, variables
from chainrule.engines.cpu.scalars import add_text
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Size, product

# Columns of a scatter that go together: whole lines of the caches, and enough work for each reading of a place.
_LINE = 64


def write_scatter(body: Body, node: Node, pointer: str) -> Task:
    """``scatter_add``: additions in row-major order of what is scattered.

    Rows of different batch items run in parallel; without these, the columns of what is scattered do.
    """
    x, places = node.inputs
    out = node.output
    batch = node.attributes["batch"]
    vars, coordinates = variables(x.shape)
    found = body.read(places, Position(places.shape, coordinates[: len(places.shape)]))
    row = Var(body.emit("const long", found))
    value = body.read(x, Position(x.shape, coordinates))
    at = linear((*coordinates[:batch], variable(row), *coordinates[len(places.shape) :]), out.shape)
    facts = [(variable(row), out.shape[batch])]
    box = box_of(vars, body, [Store(pointer, at, value, product(out.shape), facts)])
    writer = Writer()
    zero = f"memset({pointer}, 0, (size_t)({c_size(product(out.shape))}) * sizeof *{pointer});"
    if not batch and len(places.shape) < len(x.shape) and vars and vars[-1].name == f"i{len(x.shape) - 1}":
        return _scatter_columns(box, pointer, row, out, x.dtype)
    chunks = "1"
    bounds: tuple[str, str | None] = ("0", None)
    if vars and batch and vars[0].name == "i0":
        extent = vars[0].extent
        assert extent is not None, "a loop has an end"
        chunks = chunks_text(work_of(vars, cost_of(box)), extent)
        cut_range(writer, c_size(extent), chunks)
        bounds = ("low", "high")

    def add() -> None:
        box.write(writer)
        element = f"{pointer}[{box.stores[0].at}]"
        sum = add_text(x.dtype, element, value)
        writer.line(f"if ({row.name} >= 0 && {row.name} < {c_size(out.shape[batch])}) {element} = {sum};")

    around(writer, vars, add, bounds)
    return Task(writer.text, chunks, before=zero)


def _scatter_columns(box: Box, pointer: str, row: Var, out: Value, dtype: DType) -> Task:
    """Each chunk clears, and adds to, some of the columns of the result: every element in the same order as in one chunk."""
    column = box.vars[-1]
    size = column.extent
    assert size is not None, "a loop has an end"
    writer = Writer()
    most: Dim = (size + _LINE - 1) // _LINE if not isinstance(size, Size) else size
    chunks = chunks_text(work_of(box.vars, cost_of(box)), most)
    writer.line(f"const long chunks = {chunks}, columns = {c_size(size)}, lines = (columns + {_LINE - 1}) / {_LINE};")
    writer.line(f"const long low = cr_cut(lines, chunk, chunks) * {_LINE};")
    writer.line(f"const long high = cr_least(cr_cut(lines, chunk + 1, chunks) * {_LINE}, columns);")
    count = c_size(product(out.shape[:-1]))
    with writer.block(f"for (long r = 0; r < {count}; r++)"):
        writer.line(f"memset({pointer} + r * columns + low, 0, (high - low) * sizeof *{pointer});")
    first, rest = box.split(column)
    store = box.stores[0]

    def add() -> None:
        first.write(writer)
        writer.line(f"if ({row.name} < 0 || {row.name} >= {c_size(out.shape[0])}) continue;")
        writer.line("CR_INDEPENDENT")
        with writer.loop(column, "low", "high"):
            rest.write(writer)
            element = f"{pointer}[{store.at}]"
            writer.line(f"{element} = {add_text(dtype, element, store.value)};")

    if len(box.vars) == 1:
        with writer.block("for (int once = 0; once < 1; once++)"):
            add()
    else:
        around(writer, box.vars[:-1], add)
    return Task(writer.text, chunks)
