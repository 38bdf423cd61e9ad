"""What follows from a tile, computed while the next one is summed.

An update reads and writes the weight and its moments, takes a root and divides: after a tile it would take a fifth of the time of its
sums, in which nothing is multiplied. Among the steps of the next tile's sum it costs little, since a processor looks some hundred
instructions ahead, and waits for memory and for quotients while it multiplies. So the sums of a tile wait in the first cache, and
the function of the next tile computes a row of what follows from them every few steps.

    sums[panel][r, v] = Σ_k x[r, k] · y[k, v],    and among the steps, row by row what follows from sums[panel - 1]
"""

from __future__ import annotations

from chainrule.engines.cpu.indexing import c_size
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_kernel import Cut, KernelWriter
from chainrule.engines.cpu.tile_plan import Plan, registers_of
from chainrule.engines.cpu.tile_units import Units, tile_chunks
from chainrule.ir.sizes import Size

# Arrays that what follows meets where the result lies, from which on it pays.
FEWEST_ARRAYS = 2
# The number of tiles from the first row to the last is a multiple of this, where there are twice as many: so few are uneven shares of
# most numbers of threads.
EVEN = 8
# The share of the registers that what follows is computed in, one of so many.
REGISTERS_LEFT = 8


class TrailingWriter:
    """Writes the loops over the rows of tiles of one plan, and over the tiles in them."""

    def __init__(self, w: Writer, plan: Plan, kernel: KernelWriter) -> None:
        self.w, self.plan, self.kernel = w, plan, kernel
        ((self.row, most),) = plan.rows
        rows = self.row.extent
        assert isinstance(rows, int), "tiles are cut at compile time"
        registers = registers_of(plan.lanes * BYTES[plan.dtype])
        most = max(1, min(most, (registers - 3 - registers // REGISTERS_LEFT) // plan.vectors))
        tiles = -(-rows // most)
        self.most = -(-rows // (-(-tiles // EVEN) * EVEN)) if tiles >= 2 * EVEN else most
        self.tiles = -(-rows // self.most)

    @staticmethod
    def suits(plan: Plan, kernel: KernelWriter) -> bool:
        """Whether there are rows of several panels, of known number, and what follows is such that it pays."""
        if (
            plan.column is None
            or plan.panels < 2
            or plan.outer
            or len(plan.rows) != 1
            or not plan.summed
            or kernel.sides
        ):
            return False
        if isinstance(plan.rows[0][0].extent, Size) or kernel.arrays_alike(plan) < FEWEST_ARRAYS:
            return False
        return (
            kernel.trailing(plan, [Cut([plan.rows[0][1]], ""), Cut([plan.vectors], str(plan.vectors))])[0] is not None
        )

    def _declare_literals(self) -> None:
        cuts = [Cut([self.most], ""), self.kernel.columns(Writer(), self.plan)]
        trailing, _ = self.kernel.trailing(self.plan, cuts)
        assert trailing is not None, "checked by whoever asks for this"
        listed = ", ".join(trailing.literals) or "0"
        self.w.line(f"static const {C_TYPES[self.plan.dtype]} literals[] = {{{listed}}};")

    @property
    def chunks(self) -> str:
        return tile_chunks(Units(self.plan).effort, str(self.tiles))

    def write(self) -> None:
        """All rows of tiles of a chunk."""
        w, plan, kernel = self.w, self.plan, self.kernel
        assert plan.column is not None, "panels have columns"
        tile, last = c_size(self.most * plan.panel), plan.panels - 1
        w.line(f"const long chunks = {self.chunks}, units = {self.tiles};")
        w.line("const long low = cr_cut(units, chunk, chunks), high = cr_cut(units, chunk + 1, chunks);")
        self._declare_literals()
        w.line(f"{C_TYPES[plan.dtype]} sums[2][{tile}] __attribute__((aligned(64)));")
        with w.block("for (long tile = low; tile < high; tile++)"):
            row = kernel.evenly(w, self.row, self.most, "tile")
            w.line("long column_before = 0;")
            counted = len(kernel.columns(Writer(), plan).sizes) > 1
            if counted:
                w.line("long count_before = 0;")
            with w.block(f"for (long panel = 0; panel < {plan.panels}; panel++)"):
                column = kernel.columns(w, plan)
                kernel.trailing_tile(w, plan, [row, column], "sums[panel % 2]", "panel ? sums[(panel + 1) % 2] : 0")
                w.line(f"column_before = {plan.column.name};")
                if counted:
                    w.line(f"count_before = {column.count};")
            w.line(f"const long panel = {last};")
            column = kernel.columns(w, plan)
            w.line(f"const {C_TYPES[plan.dtype]} *const finished = sums[{last % 2}];")
            kernel.trailing_rows(w, plan, [row, column])
