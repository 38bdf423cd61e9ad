"""Panels of a weight that lies across the vectors, laid out by the thread that multiplies them.

In the input gradient of a dense layer the rows of a weight are columns of the product. Laid out by a nest of its own, all of the weight
goes to memory, and from there to other cores. Here a chunk lays out the columns of one panel, all steps of the sum, in memory of its
thread that the second cache holds, and multiplies all rows of the batch by it, or a share of them.

    panel[k, v] = w[first + v, k],    y[b, first + v] = Σ_k x[b, k] · panel[k, v]        for all b
"""

from __future__ import annotations

from dataclasses import replace

from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.tile_kernel import KernelWriter
from chainrule.engines.cpu.tile_plan import TRANSPOSE, Operand, Plan, Product, merged
from chainrule.engines.cpu.tile_regions import LARGE_ACROSS
from chainrule.engines.cpu.tile_shape import Axis, choose_shape
from chainrule.engines.cpu.tile_units import Units, tile_chunks
from chainrule.ir.sizes import BATCH, Dim, divide

# Bytes of a weight from which on panels pay; those of ``LARGE_ACROSS`` run in regions.
SMALLEST_ACROSS = 1 << 18
# Bytes of a panel at most, and chunks that a product is cut into at least, about. The number of panels is a multiple of ``EVEN``.
LARGEST_PANEL, FEWEST_CHUNKS, EVEN = 1 << 17, 16, 8


def plan_in_panels(p: Product, registers: int) -> tuple[Plan, float] | None:
    """The plan of a batch's rows times a weight of some size whose rows lie along the sum, and its cost in cycles; None for others."""
    way, vector = p.way, p.column
    width, size = way.vector.extent, BYTES[p.dtype]
    if vector is None or not isinstance(width, int) or p.x.at.coefficient(way.vector) != 0:
        return None
    places, kept = merged([p.out, p.x.at, p.y.at.replace({way.vector: variable(vector) * way.lanes})], p.kept, p.apart)
    places, summed = merged(places, p.summed)
    if len(kept) != 1 or len(summed) != 1 or kept[0].extent != BATCH:
        return None
    (row,), (step,) = kept, summed
    out, x, y = places
    if not isinstance(step.extent, int) or not SMALLEST_ACROSS <= step.extent * width * size < LARGE_ACROSS:
        return None
    if {var for var, _ in x.terms} != {row, step} or {var for var, _ in y.terms} != {vector, step}:
        return None
    if x.coefficient(step) != 1 or y.coefficient(step) != 1:
        return None
    steps = (Axis(step.extent, 1, way.lanes * 4),)
    shape = choose_shape(
        (Axis(0, step.extent, 0),),
        Axis(way.vectors, 0, way.lanes),
        steps,
        False,
        way.lanes,
        way.lanes * size,
        registers,
    )
    panels = -(-way.vectors // shape.vectors)
    panels = -(-panels // EVEN) * EVEN if panels >= EVEN else panels
    vectors = -(-way.vectors // panels)
    if len(shape.rows) != 1 or shape.unrolled or step.extent * vectors * way.lanes * size > LARGEST_PANEL:
        return None
    plan = Plan(
        out,
        Operand(p.x.pointer, x, p.x.size, False),
        Operand(p.y.pointer, y, p.y.size),
        [],
        [(row, shape.rows[0][1])],
        vector,
        vectors,
        [step],
        [],
        width,
        way.lanes,
        p.dtype,
        in_panels=True,
    )
    return plan, shape.cost + TRANSPOSE * step.extent * width


class PanelWriter:
    """Writes the loops over the panels of one plan, and over the rows of the batch."""

    def __init__(self, w: Writer, plan: Plan, kernel: KernelWriter) -> None:
        self.w, self.plan, self.kernel = w, plan, kernel
        ((row, self.most),) = plan.rows
        (self.step,) = plan.summed
        assert row.extent is not None and isinstance(self.step.extent, int), "the steps of the sum are counted"
        self.depth = self.step.extent
        self.tiles = f"(({c_size(row.extent)} + {self.most - 1}) / {self.most})"
        # Shares of the batch's rows that a panel is laid out for.
        self.shares = f"cr_least({max(1, FEWEST_CHUNKS // plan.panels)}, {self.tiles})"

    @property
    def buffer(self) -> tuple[str, Dim]:
        """The name and the elements of what a thread keeps."""
        return "laid_out", self.depth * self.plan.panel

    @property
    def chunks(self) -> str:
        return tile_chunks(Units(self.plan).effort, f"{self.plan.panels} * {self.shares}")

    def write(self) -> None:
        """All panels of a chunk."""
        w, plan = self.w, self.plan
        assert plan.column is not None, "panels have columns"
        w.line(f"const long shares = {self.shares}, units = {plan.panels} * shares, chunks = {self.chunks};")
        w.line("const long low = cr_cut(units, chunk, chunks), high = cr_cut(units, chunk + 1, chunks);")
        name, size = self.buffer
        own = Index(((plan.column, plan.lanes), (self.step, plan.panel)))
        copied = replace(plan, y=Operand(name, own, size))
        units = Units(copied, by_rows=False)
        units.per_unit = 1
        with w.block("for (long unit = low; unit < high; unit++)"):
            w.line("const long panel = unit / shares, share = unit % shares;")
            w.line(f"const long block = cr_cut({self.tiles}, share, shares);")
            w.line(f"const long last_tile = cr_cut({self.tiles}, share + 1, shares);")
            column = self.kernel.columns(w, plan)
            self._lay_out(name, column.count)
            self.kernel.rows_of_panel(w, copied, units, column)

    def _lay_out(self, target: str, count: str) -> None:
        """The columns of a panel, with zeros in the lanes beyond the last."""
        w, plan = self.w, self.plan
        assert plan.column is not None, "panels have columns"
        across = divide(plan.y.at.coefficient(plan.column), plan.lanes)
        assert across is not None, "a vector takes as many steps as it has lanes"
        whole = plan.y.at.replace({plan.column: Index()}) + Index(((Var("place", plan.width), across),))
        prove(plan.y.pointer, whole, plan.y.size)
        known = {
            plan.column: variable(plan.column) + variable(Var("k")),
            self.step: variable(Var("near")),
        }
        with (
            w.block(f"for (long k = 0; k < {count}; k++)"),
            w.block(f"for (long near = 0; near < {self.depth}; near += {plan.lanes})"),
        ):
            w.line(
                f"cr_transpose_{plan.dtype}x{plan.lanes}({target} + k * {plan.lanes} + near * {plan.panel}, "
                f"{plan.panel}, {plan.y.pointer} + ({plan.y.at.replace(known)}), {c_size(across)}, "
                f"cr_least({plan.lanes}, {self.depth} - near), "
                f"cr_least({plan.lanes}, {plan.width} - ({known[plan.column] * plan.lanes})));"
            )
