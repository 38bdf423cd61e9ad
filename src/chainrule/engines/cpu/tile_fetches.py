"""Lines of memory that a tile begins to read before it needs them, while it multiplies.

An operand whose steps lie far apart comes from the second cache, or from farther away, without processors foreseeing it; so a
tile fetches what it reads some steps later. What follows from a tile, such as an update, reads and writes arrays that lie as the
result does, a few lines of each row: these lines are fetched row by row, spread over the steps of the sum. All at once they would
fill the queue of reads on their way, and the tile would wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

from chainrule.engines.cpu.indexing import Index, Var, variable
from chainrule.engines.cpu.loops import Box, Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_body import lines_of_step
from chainrule.engines.cpu.tile_parts import MOST_FETCHES
from chainrule.engines.cpu.tile_plan import ALIASING, Operand, Plan
from chainrule.engines.cpu.tile_shape import FIRST_CACHE, LINE_BYTES
from chainrule.engines.cpu.tile_units import typical
from chainrule.ir.sizes import Dim

# How many steps before a tile needs it a line is fetched (a step takes about 25 cycles); shorter loops have too few to come.
AHEAD, FEWEST_WITH_FETCHES = 16, 64
# Bytes between steps from which on processors do not foresee them well, and lines of a first cache that fall on the same set.
FAR_APART, WAYS = 512, 8


def lines_ahead(plan: Plan, counts: Sequence[int], operand: Operand) -> list[int]:
    """Offsets of the lines that a tile fetches of an operand ``AHEAD`` steps before it reads them; none where the operand stays in
    the first cache, or is read along memory."""
    if plan.in_regions or plan.column is None or not plan.summed:
        return []
    var, size = plan.summed[-1], BYTES[plan.dtype]
    step = operand.at.coefficient(var)
    assert var.extent is not None, "an index of a sum has an extent"
    if not isinstance(step, int) or abs(step) * size < FAR_APART or typical(var.extent) < FEWEST_WITH_FETCHES:
        return []
    lines, depth = lines_of_step(plan, counts, operand, LINE_BYTES), typical(plan.depth)
    own_set = depth <= WAYS * (ALIASING // gcd(step * size, ALIASING))
    stays = own_set and depth * len(lines) * LINE_BYTES <= FIRST_CACHE
    return lines if len(lines) <= MOST_FETCHES and not stays else []


@dataclass(frozen=True, slots=True)
class Followers:
    """Arrays that what follows from a tile reads where the result lies, each ``written`` as well or not.

    ``steps`` are from one row to the next, for each index of rows. The function of a tile takes a pointer to each of the arrays, to
    the element for the first result of the tile, and how many of its rows are fetched.
    """

    steps: tuple[Dim, ...]
    written: tuple[bool, ...]

    @property
    def names(self) -> list[str]:
        return [f"f{number}" for number in range(len(self.written))]

    def fetch_row(self, w: Writer, plan: Plan, counts: Sequence[int]) -> None:
        """The lines of the row of number ``near``."""
        at, inner = Index(), prod(counts[1:-1])
        numbers = ["near"] if len(self.steps) == 1 else [f"(near / {inner})", f"(near % {inner})"]
        for name, step in zip(numbers, self.steps, strict=True):
            at = at + variable(Var(name)) * step
        for place in range(0, counts[-1] * plan.lanes, LINE_BYTES // BYTES[plan.dtype]):
            for name, written in zip(self.names, self.written, strict=True):
                w.line(f"CR_FETCH{'_TO_WRITE' if written else ''}({name} + ({at + place}));")


def following(plan: Plan, box: Box, place: Var, rows: Sequence[Var]) -> tuple[Followers | None, list[str], list[str]]:
    """The arrays that lie as the result does, pointers to their elements for the first result of a tile, and the other lines to
    fetch: addresses for each row and ``place``."""
    assert plan.column is not None, "results in vectors lie in columns"
    written = {store.pointer for store in box.stores}
    steps = tuple(plan.out.coefficient(var) for var, _ in plan.rows)
    first = {this: variable(var) for this, (var, _) in zip(rows, plan.rows, strict=True)}
    first[place] = variable(plan.column) * plan.lanes
    computed = {statement.name for statement in box.statements}
    alike: dict[str, bool] = {}
    others: dict[str, None] = {}
    for type, pointer, at in box.loads():
        if at.coefficient(place) != 1 or len(at.terms) == 1 or any(var.name in computed for var, _ in at.terms):
            continue
        lies_alike = tuple(at.coefficient(var) for var in rows) == steps and type == C_TYPES[plan.dtype]
        if lies_alike and rows and plan.summed:
            alike[f"{pointer} + ({at.replace(first)})"] = pointer in written
        else:
            others[f"{pointer} + ({at})"] = None
    return Followers(steps, tuple(alike.values())) if alike else None, list(alike), list(others)
