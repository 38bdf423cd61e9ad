"""Lines of memory that a tile begins to read before it needs them, while it multiplies.

An operand whose steps lie far apart comes from the second cache, or from farther away, without processors foreseeing it; so a
tile fetches what it reads some steps later. What follows from a tile, such as an update, reads and writes arrays that lie as the
result does, a few lines of each row: these lines are fetched row by row, spread over the steps of the sum. All at once they would
fill the queue of reads on their way, and the tile would wait. Lines that are only written, as those of the result, are fetched as
well: a processor reads a line before it writes into it, and what has been stored waits for that in a queue of some dozens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod

from chainrule.core.alignment import LINE_BYTES
from chainrule.core.dtypes import DType
from chainrule.engines.cpu.indexing import Index, Var, variable
from chainrule.engines.cpu.loops import Box, Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_body import lines_of_step
from chainrule.engines.cpu.tile_parts import MOST_FETCHES
from chainrule.engines.cpu.tile_plan import ALIASING, Operand, Plan
from chainrule.engines.cpu.tile_shape import FIRST_CACHE
from chainrule.engines.cpu.tile_units import Units, tiles_of, typical
from chainrule.ir.sizes import Dim

# How many steps before a tile needs it a line is fetched (a step takes about 25 cycles); shorter loops have too few to come.
AHEAD, FEWEST_WITH_FETCHES = 16, 64
# Steps of a tile, at least, between which rows of what follows are fetched: with fewer, it is done before a line has come.
FEWEST_BETWEEN = 8
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
    """Arrays that a tile, or what follows from it, reads or writes where the result lies, each ``written`` or not.

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


@dataclass(frozen=True, slots=True)
class RowsAhead:
    """Rows of x that a later tile reads, as many elements ``away`` from those of this one.

    ``steps`` are from one row to the next, for each index of rows, 0 where x does not move. A row has so many ``lines``; the tiles that
    read the same rows fetch them in ``turns``, each its share of every row. The function of a tile takes the number of its turn.
    """

    away: int
    steps: tuple[int, ...]
    lines: int
    turns: int

    @classmethod
    def of(cls, plan: Plan, units: Units) -> RowsAhead | None:
        """Those of the next block, where each row is read along memory and rows are too many for the first cache."""
        if plan.x.in_vectors or plan.unrolled or plan.tail or len(plan.summed) != 1 or not units.rows:
            return None
        (var,), bytes, turns = plan.summed, BYTES[plan.dtype], units.turns[1]
        steps = [plan.x.at.coefficient(row) for row, _ in plan.rows]
        known = tuple(step for step in steps if isinstance(step, int))
        if plan.x.at.coefficient(var) != 1 or not isinstance(var.extent, int) or not isinstance(turns, int):
            return None
        if len(known) < len(steps) or not _has_time(plan) or typical(plan.x.size) * bytes <= FIRST_CACHE:
            return None
        row, most = units.rows[0]
        away = known[[var for var, _ in plan.rows].index(row)] * most * units.per_unit
        for row, most in units.rows[1:]:
            if plan.x.at.coefficient(row) == 0:
                turns *= tiles_of(row, most)
        return cls(away, known, var.extent * bytes // LINE_BYTES, turns) if away else None

    def fetch_row(self, w: Writer, plan: Plan, counts: Sequence[int]) -> None:
        """The share of the row of number ``near``; indices of rows that x knows nothing of divide it further."""
        at, share, shares = Index((), self.away), "turn", self.turns
        left = prod(counts[:-1])
        for step, count in zip(self.steps, counts, strict=False):
            left //= count
            number = "near" if left == 1 and count == prod(counts[:-1]) else f"(near / {left} % {count})"
            if step:
                at = at + variable(Var(number)) * step
            else:
                share, shares = f"({share} * {count} + {number})", shares * count
        line = LINE_BYTES // BYTES[plan.dtype]
        first, last = (f"{self.lines} * {place} / {shares}" for place in (share, f"({share} + 1)"))
        with w.block(f"for (long l = {first}; l < {last}; l++)"):
            w.line(f"CR_FETCH(x + ({at + variable(Var('l')) * line}));")


def followers_of(plan: Plan, written: Mapping[str, bool]) -> tuple[Followers | None, list[str]]:
    """Arrays that lie as the result does, and pointers to them for a tile: those that are here, each ``written`` or not. None
    where a tile has no rows of vectors, or is done before they come."""
    if not written or plan.column is None or not plan.rows or not _has_time(plan):
        return None, []
    steps = tuple(plan.out.coefficient(var) for var, _ in plan.rows)
    return Followers(steps, tuple(written.values())), list(written)


def _has_time(plan: Plan) -> bool:
    return bool(plan.summed) and typical(plan.depth) >= FEWEST_BETWEEN


def following(
    plan: Plan, box: Box, place: Var, rows: Sequence[Var], stored: Mapping[str, DType]
) -> tuple[Followers | None, list[str], list[str]]:
    """The arrays that lie as the result does, pointers to their elements for the first result of a tile, and the other lines to
    fetch: addresses for each row and ``place``. ``stored`` has the element types of the arrays that are written."""
    assert plan.column is not None, "results in vectors lie in columns"
    steps = [plan.out.coefficient(var) for var, _ in plan.rows]
    first = {this: variable(var) for this, (var, _) in zip(rows, plan.rows, strict=True)}
    first[place] = variable(plan.column) * plan.lanes
    computed = {statement.name for statement in box.statements}

    def lies_alike(type: str, at: Index) -> bool:
        moves = [at.coefficient(var) for var in (*rows, place)] == [*steps, 1]
        return moves and type == C_TYPES[plan.dtype] and bool(rows) and _has_time(plan)

    alike: dict[str, bool] = {}
    others: dict[str, None] = {}
    for type, pointer, at in box.loads():
        if at.coefficient(place) != 1 or len(at.terms) == 1 or any(var.name in computed for var, _ in at.terms):
            continue
        if lies_alike(type, at):
            alike[f"{pointer} + ({at.replace(first)})"] = pointer in stored
        else:
            others[f"{pointer} + ({at})"] = None
    for store in box.stores:
        if not store.adds and lies_alike(C_TYPES[stored[store.pointer]], store.at):
            alike[f"{store.pointer} + ({store.at.replace(first)})"] = True
    return *followers_of(plan, alike), list(others)
