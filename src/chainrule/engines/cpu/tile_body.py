"""The straight-line body of a tile: every distinct load once, in the order in which the multiplications need them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from chainrule.engines.cpu.indexing import Index, Var
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_plan import Operand, Plan
from chainrule.engines.cpu.tile_shape import NOMINAL, live_at_most
from chainrule.engines.cpu.vectors import vector_type
from chainrule.ir.sizes import Dim, at

Place = tuple[int, ...]


def places_of(counts: Sequence[int]) -> list[Place]:
    return list(itertools.product(*(range(count) for count in counts)))


def sum_name(place: Place) -> str:
    return "c" + "_".join(map(str, place))


def write_step(w: Writer, plan: Plan, counts: Sequence[int], x: Index, y: Index, partial: int = 0) -> None:
    """One step of the sum of a tile of these counts (of its rows and its vectors); x and y are where the loops have come.

    ``partial`` is the number of elements of the vectors along the sum where they are not whole.
    """
    dims = _dims(plan)
    inside = plan.unrolled
    terms = [
        (place, _offset(plan.x.at, dims, place, inside, step), _offset(plan.y.at, dims, place, inside, step))
        for step in places_of([count for _, count in inside])
        for place in places_of(counts)
    ]
    number = {dim: at(dim, NOMINAL) for _, *pair in terms for dim in pair}
    by_place = sorted(terms, key=lambda term: number[term[1]])
    ordered = min(terms, by_place, key=lambda some: live_at_most([(number[a], number[b]) for _, a, b in some]))
    uses = Counter(use for _, a, b in terms for use in (("x", a), ("y", b)))
    loaded: set[str] = set()
    vector, scalar = vector_type(plan.dtype, plan.lanes), C_TYPES[plan.dtype]
    numbers: tuple[dict[Dim, int], dict[Dim, int]] = {}, {}
    for place, *offsets in ordered:
        names = []
        for side, base, index, offset, known in zip(
            ("x", "y"), (x, y), (plan.x, plan.y), offsets, numbers, strict=True
        ):
            name = f"{side}{known.setdefault(offset, len(known))}"
            names.append(name)
            if name in loaded:
                continue
            loaded.add(name)
            address = f"{side} + ({base + offset})"
            if not index.in_vectors:
                w.line(f"const {scalar} {name} = {side}[{base + offset}];")
            elif partial:
                w.line(f"{vector} {name} = {{0}};")
                w.line(f"memcpy(&{name}, {address}, {partial * BYTES[plan.dtype]});")
            else:
                w.line(f"{vector} {name} = *(const {vector}_anywhere *)({address});")
                if uses[side, offset] > 1:
                    w.line(f"CR_ONCE({name});")
        w.line(f"{sum_name(place)} += {names[0]} * {names[1]};")


def lines_of_step(plan: Plan, counts: Sequence[int], operand: Operand, line: int) -> list[int]:
    """Offsets of loads in one step of a tile that are at least a line of so many bytes apart."""
    dims, steps = _dims(plan), places_of([count for _, count in plan.unrolled])
    offsets = {
        at(_offset(operand.at, dims, place, plan.unrolled, step), NOMINAL)
        for step in steps
        for place in places_of(counts)
    }
    chosen: list[int] = []
    for offset in sorted(offsets):
        if not chosen or (offset - chosen[-1]) * BYTES[plan.dtype] >= line:
            chosen.append(offset)
    return chosen


def _dims(plan: Plan) -> list[Var]:
    rows = [var for var, _ in plan.rows]
    if plan.rows_packed:
        rows = [Var("row_in_tile", plan.rows[0][1])]
    return [*rows, *([plan.column] if plan.column is not None else [])]


def _offset(place: Index, dims: Sequence[Var], at: Place, unrolled: Sequence[tuple[Var, int]], step: Place) -> Dim:
    """How far from the first element of the tile and the step an element is."""
    total: Dim = 0
    for var, k in (*zip(dims, at), *zip((var for var, _ in unrolled), step)):
        total = total + _coefficient(place, var) * k
    return total


def _coefficient(place: Index, var: Var) -> Dim:
    return place.coefficient(var)
