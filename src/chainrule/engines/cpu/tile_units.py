"""The tiles of a plan as numbered units of work, and how many chunks they are divided into."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from chainrule.engines.cpu.indexing import Var, c_size
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.tile_plan import Plan
from chainrule.ir.sizes import Dim, Size, product

# Fused multiplications and additions in one chunk at least, and in one unit (a block of rows of a panel) about.
TILE_GRAIN = 1 << 18
UNIT = 1 << 17
# Steps of a sum that take about as long as reading and writing, from the second cache or farther, what follows from a result.
STEPS_OF_RESULT = 24
# Half of the second cache of a core, in bytes, on most machines.
SECOND_CACHE = 1 << 19
# A dimension of a batch counts as this many where the order of loops is chosen.
TYPICAL = 128


@dataclass(slots=True)
class Units:
    """A unit is a block of tiles of the first index of rows, for all tiles of the second, in one panel of vectors.

    ``by_rows`` says whether a block of rows meets all panels before the next one, or a panel all blocks; None leaves that to sizes.
    """

    plan: Plan
    by_rows: bool | None = None
    rows: list[tuple[Var, int]] = field(init=False)
    blocks: str = field(init=False)
    per_unit: int = field(init=False)
    tiles: str = field(init=False)

    def __post_init__(self) -> None:
        # Symbolic rows are outside, of others those that make more tiles.
        self.rows = sorted(self.plan.rows, key=lambda row: tiles_of(*row), reverse=True)
        if self.by_rows is None:
            self.by_rows = self._goes_by_rows
        if not self.rows:
            self.blocks, self.per_unit, self.tiles = "1", 1, "1"
            return
        row, most = self.rows[0]
        points = most
        for var, _ in self.rows[1:]:
            assert isinstance(var.extent, int), "only the first index of rows may be symbolic"
            points *= var.extent
        steps = typical(self.plan.depth) + STEPS_OF_RESULT
        per_unit = max(1, UNIT // (steps * self.plan.panel * points))
        if isinstance(row.extent, Size):
            self.per_unit = per_unit
            self.tiles = f"({c_size(row.extent)} + {most - 1}) / {most}"
            self.blocks = f"(({c_size(row.extent)} + {most * per_unit - 1}) / {most * per_unit})"
            return
        tiles = tiles_of(row, most)
        self.per_unit = min(per_unit, tiles)
        self.tiles = str(tiles)
        self.blocks = str(-(-tiles // self.per_unit))

    @property
    def count(self) -> str:
        outer = product(var.extent for var in self.plan.outer if var.extent is not None)
        rest = c_size(outer * self.plan.panels)
        return rest if self.blocks == "1" else f"{rest} * {self.blocks}"

    @property
    def known_tiles(self) -> int | None:
        """How many tiles there are in all units, if that is known."""
        outer = product(var.extent for var in self.plan.outer if var.extent is not None)
        if not isinstance(outer, int) or any(isinstance(var.extent, Size) for var, _ in self.rows):
            return None
        return outer * self.plan.panels * prod(tiles_of(*row) for row in self.rows)

    @property
    def turns(self) -> tuple[str, Dim]:
        """The number of a unit among those with the same rows that follow each other, as C, and how many there are."""
        if not self.by_rows:
            return "0", 1
        turn = "0"
        turns: Dim = 1
        for name, extent in (*((var.name, var.extent) for var in self._panels), ("panel", self.plan.panels)):
            if extent is not None and extent != 1:
                turn = name if turns == 1 else f"({turn} * {c_size(extent)} + {name})"
                turns = turns * extent
        return turn, turns

    @property
    def tiles_in_one(self) -> int | None:
        """The tiles of a unit, if their number is known; a few units have less."""
        if any(isinstance(var.extent, Size) for var, _ in self.rows):
            return None
        return self.per_unit * prod(tiles_of(*row) for row in self.rows[1:])

    @property
    def work(self) -> Dim:
        """Multiplications, those with padding included."""
        return self.plan.depth * self._results

    @property
    def effort(self) -> Dim:
        """As many multiplications as take the time that all units do: results of short sums wait for memory."""
        return (self.plan.depth + STEPS_OF_RESULT) * self._results

    @property
    def _results(self) -> Dim:
        plan = self.plan
        points = product(var.extent for var in (*plan.outer, *(var for var, _ in plan.rows)) if var.extent is not None)
        columns = plan.column.extent if plan.column is not None else 1
        assert isinstance(columns, int), "a number of vectors is constant"
        return points * (columns * plan.lanes)

    def decode(self, w: Writer) -> None:
        """The indices of a unit from its number."""
        plan = self.plan
        order = [("block", self.blocks), ("panel", str(plan.panels))]
        panels = self._panels
        own = [(var.name, c_size(var.extent)) for var in panels if var.extent is not None]
        outer = [(var.name, c_size(var.extent)) for var in plan.outer if var.extent is not None and var not in panels]
        parts = [*outer, order[0], *own, order[1]] if self.by_rows else [*outer, *own, *order[::-1]]
        parts = [part for part in parts if part[1] != "1"]
        names = {name for name, _ in parts}
        for name, _ in order:
            if name not in names:
                w.line(f"const long {name} = 0;")
        if len(parts) > 1:
            w.line("long rest = unit;")
        for name, extent in reversed(parts[1:]):
            w.line(f"const long {name} = rest % {extent};")
            w.line(f"rest /= {extent};")
        if parts:
            w.line(f"const long {parts[0][0]} = {'rest' if len(parts) > 1 else 'unit'};")
        if self.rows:
            w.line(f"const long last_tile = cr_least((block + 1) * {self.per_unit}, {self.tiles});")

    @property
    def _goes_by_rows(self) -> bool:
        """Whether y fits in the second cache: going by rows keeps the output's rows, and what is updated along with them, in long
        streams."""
        plan = self.plan
        panels = plan.panels * product(typical(var.extent) for var in self._panels if var.extent is not None)
        assert isinstance(panels, int), "typical sizes are numbers"
        return typical(plan.depth) * panels * plan.panel * BYTES[plan.dtype] <= SECOND_CACHE

    @property
    def _panels(self) -> list[Var]:
        """The indices around that number panels of y, which x knows nothing of."""
        return [var for var in self.plan.outer if self.plan.x.at.coefficient(var) == 0]


def tiles_of(var: Var, most: int) -> int:
    """Tiles of so many at most in an index; a great many where its extent is a matter of the batch."""
    if isinstance(var.extent, Size):
        return 1 << 60
    assert var.extent is not None, "an index of rows has an extent"
    return -(-var.extent // most)


def typical(size: Dim) -> int:
    return TYPICAL * sum(size.coefficients) if isinstance(size, Size) else size


def tile_chunks(work: Dim, units: str) -> str:
    return f"cr_chunks({c_size(work)}, {TILE_GRAIN}, {units})"
