"""Strips: rows of a result that are finished side by side, where what follows reads and writes several arrays that lie as it does.

A tile has a few lines of each of its rows. An update in its wake meets the weight and its moments in as many short pieces as a tile has
rows, times the number of arrays: processors do not foresee them, and pieces of rows that lie pages apart share sets of the first cache.
A strip is all tiles of the same rows for some panels, or for all. Their sums wait in memory that a first cache holds, and what
follows goes through whole rows of the strip, one array beside the other, as it would through memory in its order.

    sums[r, v] = Σ_k x[r, k] · y[k, v]        for all panels of the strip,  then  row by row what follows
"""

from __future__ import annotations

from chainrule.engines.cpu.indexing import c_size
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_kernel import KernelWriter
from chainrule.engines.cpu.tile_plan import Plan
from chainrule.engines.cpu.tile_units import Units, tile_chunks
from chainrule.ir.sizes import Size

# Bytes of the sums of a strip, and arrays that what follows meets where the result lies, from which on strips pay.
SUMS, FEWEST_ARRAYS = 1 << 15, 2
# The number of tiles from the first row to the last is a multiple of this, where there are twice as many: so few are uneven shares of
# most numbers of threads.
EVEN = 8


class StripWriter:
    """Writes the loops over the strips of one plan, and over their tiles."""

    def __init__(self, w: Writer, plan: Plan, kernel: KernelWriter) -> None:
        self.w, self.plan, self.kernel = w, plan, kernel
        ((self.row, most),) = plan.rows
        rows = self.row.extent
        assert isinstance(rows, int), "strips are cut at compile time"
        tiles = -(-rows // most)
        self.most = -(-rows // (-(-tiles // EVEN) * EVEN)) if tiles >= 2 * EVEN else most
        self.tiles = -(-rows // self.most)
        # Elements of the sums of a tile, and into how many strips a row is divided.
        self.tile = self.most * plan.panel
        self.across = -(-plan.panels // max(1, SUMS // (self.tile * BYTES[plan.dtype])))

    @staticmethod
    def suits(plan: Plan, kernel: KernelWriter) -> bool:
        """Whether there are rows of several panels, of known number, and what follows is such that strips pay."""
        if plan.column is None or plan.panels < 2 or plan.outer or len(plan.rows) != 1 or kernel.sides:
            return False
        return not isinstance(plan.rows[0][0].extent, Size) and kernel.arrays_alike(plan) >= FEWEST_ARRAYS

    @property
    def chunks(self) -> str:
        return tile_chunks(Units(self.plan).effort, str(self.tiles * self.across))

    def write(self) -> None:
        """All strips of a chunk."""
        w, plan = self.w, self.plan
        w.line(f"const long chunks = {self.chunks}, units = {self.tiles * self.across};")
        w.line("const long low = cr_cut(units, chunk, chunks), high = cr_cut(units, chunk + 1, chunks);")
        most = -(-plan.panels // self.across)
        w.line(f"{C_TYPES[plan.dtype]} sums[{self.tile * most}] __attribute__((aligned(64)));")
        with w.block("for (long unit = low; unit < high; unit++)"):
            if self.across == 1:
                w.line(f"const long tile = unit, first_panel = 0, last_panel = {plan.panels};")
            else:
                w.line(f"const long tile = unit / {self.across}, strip = unit % {self.across};")
                w.line(f"const long first_panel = cr_cut({plan.panels}, strip, {self.across});")
                w.line(f"const long last_panel = cr_cut({plan.panels}, strip + 1, {self.across});")
            row = self.kernel.evenly(w, self.row, self.most, "tile")
            place = f"sums + (panel - first_panel) * {c_size(self.tile)}"
            with w.block("for (long panel = first_panel; panel < last_panel; panel++)"):
                self.kernel.strip_tile(w, plan, [row, self.kernel.columns(w, plan)], place)
            self.kernel.strip_rows(w, plan, row, place)
