"""The shape of a register tile, chosen by a model of what its straight-line body costs.

A tile is a box of at most two output indices × vectors × at most two unrolled indices of the sum. Every distinct load is made once,
so that a convolution's taps share the pixels that they have in common; the model counts the loads that are left.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

# Stands for the batch size where the cost of a plan is estimated.
NOMINAL = 64
# Multiplications in one body at most: more are not faster, and compile slowly.
LONGEST_BODY = 160
MOST_VECTORS = 4
SMALLEST_SHARE = 0.4
MOST_UNROLLED = 9
# Rows of a tile whose number is only known at run time; halves of it serve what is left.
RUNTIME_ROWS = {32: 8, 16: 4}
# Bytes of an operand that stay in the first cache while a tile goes through its sum.
FIRST_CACHE = 24 << 10
# In cycles: leaving a loop, a step of it, what a tile costs besides its sums, and the sum over the lanes of one vector.
LOOP_EXIT, LOOP_STEP, TILE, ACROSS = 12.0, 0.7, 15.0, 8.0
# Fetching a line of 64 bytes from the second cache, of which about half is hidden.
LINE = 1.0


@dataclass(frozen=True, slots=True)
class Axis:
    """An index: its extent (0 where that is a matter of the batch) and the steps that it takes through both operands."""

    extent: int
    x: int
    y: int

    @property
    def size(self) -> int:
        return self.extent or NOMINAL


# Axes by number, each with a count.
Counts = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TileShape:
    """Which axes (by number) make the rows of a tile and are unrolled in its sum, with counts, and its number of vectors."""

    rows: Counts
    vectors: int
    unrolled: Counts
    cost: float


@lru_cache(maxsize=4096)
def choose_shape(
    kept: tuple[Axis, ...],
    vector: Axis | None,
    summed: tuple[Axis, ...],
    x_in_vectors: bool,
    lanes: int,
    bytes: int,
    registers: int,
) -> TileShape:
    """The cheapest tile. ``vector`` is the index of whole vectors of the output, None where vectors lie along the sum.

    ``bytes`` are those of one vector.
    """
    model = _Model(kept, vector, summed, x_in_vectors, lanes, bytes, registers)
    found = sorted(model.candidates(), key=lambda shape: shape.cost)
    return next((shape for shape in found if model.fits(shape)), found[-1])


@dataclass(frozen=True, slots=True)
class _Model:
    kept: tuple[Axis, ...]
    vector: Axis | None
    summed: tuple[Axis, ...]
    x_in_vectors: bool
    lanes: int
    bytes: int
    registers: int

    def candidates(self) -> Iterator[TileShape]:
        unrolled = list(self._unrollings())
        most = self.vector.extent if self.vector is not None else 1
        boxes = [
            (prod(count for _, count in rows) * vectors, rows, vectors)
            for vectors in range(1, min(most, MOST_VECTORS) + 1)
            for rows in self._boxes((self.registers - 3) // vectors)
        ]
        # Much smaller tiles than the largest are never the best.
        least = max(sums for sums, _, _ in boxes) * SMALLEST_SHARE
        for sums, rows, vectors in boxes:
            if sums < least:
                continue
            alone = self._loads(rows, vectors, ())
            for steps in unrolled:
                count = prod(count for _, count in steps)
                if sums * count > LONGEST_BODY:
                    continue
                loads = self._loads(rows, vectors, steps) if steps else alone
                # Unrolling has to save a tenth of the loads.
                if count == 1 or sums == 1 or sum(loads) <= 0.9 * sum(alone) * count:
                    yield TileShape(rows, vectors, steps, self._cost(rows, vectors, steps, loads))

    def fits(self, shape: TileShape) -> bool:
        rows, steps = self._axes(self.kept, shape.rows), self._axes(self.summed, shape.unrolled)
        sums = prod(count for _, count in (*rows, (None, shape.vectors)))
        box = [*rows, *([(self.vector, shape.vectors)] if self.vector is not None else [])]
        terms = [
            (sum(a.x * k for (a, _), k in zip(dims, place)), sum(a.y * k for (a, _), k in zip(dims, place)))
            for dims in [[*steps, *box]]
            for place in itertools.product(*(range(count) for _, count in dims))
        ]
        # One is left for the compiler.
        return sums + min(live_at_most(order(terms, which)) for which in (0, 1)) < self.registers

    def _boxes(self, limit: int) -> Iterator[tuple[tuple[int, int], ...]]:
        yield ()
        counts = [self._counts(axis, limit) for axis in self.kept]
        for number, few in enumerate(counts):
            yield from (((number, count),) for count in few)
        for (i, some), (j, others) in itertools.combinations(enumerate(counts), 2):
            if self.kept[i].extent or self.kept[j].extent:
                yield from (((i, n), (j, m)) for n in some for m in others if n * m <= limit)

    def _counts(self, axis: Axis, limit: int) -> list[int]:
        """The larger of the counts of all ways to cut the axis evenly."""
        if not axis.extent:
            return [RUNTIME_ROWS[self.registers]] if limit >= RUNTIME_ROWS[self.registers] else []
        return sorted({-(-axis.extent // tiles) for tiles in range(1, axis.extent)} & set(range(2, limit + 1)))

    def _unrollings(self) -> Iterator[tuple[tuple[int, int], ...]]:
        yield ()
        single = [
            (number, count)
            for number, axis in enumerate(self.summed)
            for count in range(2, MOST_UNROLLED)
            if axis.extent and axis.extent % count == 0
        ]
        yield from ((one,) for one in single)
        whole = [one for one in single if self.summed[one[0]].extent == one[1]]
        yield from ((a, b) for a, b in itertools.combinations(whole, 2) if a[1] * b[1] <= MOST_UNROLLED)

    def _axes(self, axes: Sequence[Axis], chosen: Sequence[tuple[int, int]]) -> list[tuple[Axis, int]]:
        return [(axes[number], count) for number, count in chosen]

    def _loads(self, rows: Counts, vectors: int, steps: Counts) -> tuple[int, int]:
        """Distinct loads of both operands in one body."""
        dims = [*self._axes(self.kept, rows), *self._axes(self.summed, steps)]
        if self.vector is not None:
            dims.append((self.vector, vectors))
        return _distinct([(axis.x, count) for axis, count in dims]), _distinct(
            [(axis.y, count) for axis, count in dims]
        )

    def _cost(self, rows: Counts, vectors: int, steps: Counts, loads_of_both: tuple[int, int]) -> float:
        """Cycles of all tiles of a processor with two multiplications and two loads a cycle."""
        box, inner = self._axes(self.kept, rows), self._axes(self.summed, steps)
        sums = prod(count for _, count in box) * vectors
        unrolled = prod(count for _, count in inner)
        depth = prod(axis.size for axis in self.summed)
        x_loads, y_loads = loads_of_both
        from_first = depth * self.bytes * y_loads / unrolled <= FIRST_CACHE
        loads = x_loads * (0.5 if self.x_in_vectors else 0.8) + y_loads * (0.5 if from_first else 0.8)
        body = max(sums * unrolled / 2, loads, 4.0 * unrolled) + 0.05 * loads + LOOP_STEP
        counts = dict(steps)
        rest = [
            Axis(axis.size // counts.get(number, 1), axis.x * counts.get(number, 1), axis.y * counts.get(number, 1))
            for number, axis in enumerate(self.summed)
        ]
        loops = sorted(_merged([axis for axis in rest if axis.extent != 1]), reverse=True)
        trips = depth / unrolled
        exits = trips / loops[0] if loops else 0.0
        across = ACROSS * sums if self.vector is None else 0.0
        one = trips * body + exits * LOOP_EXIT + sums + TILE + across + self._traffic(box, vectors)
        tiles = 1.0
        for number, axis in enumerate(self.kept):
            count = dict(rows).get(number, 1)
            # Tiles are cut evenly; the smaller ones cost about their share.
            tiles *= axis.size / count
            if axis.extent and axis.extent % count:
                one *= 1.02
        if self.vector is not None:
            tiles *= self.vector.extent / vectors
            if self.vector.extent % vectors:
                one *= 1.03
        # Long bodies compile slowly.
        return one * tiles * (1 + sums * unrolled / 4000)

    def _traffic(self, box: Sequence[tuple[Axis, int]], vectors: int) -> float:
        """Cycles for what a tile reads from the second cache, as far as nothing hides them."""
        dims = [*box, *((axis, axis.size) for axis in self.summed)]
        total = 0.0
        for side in ("x", "y"):
            in_vectors = side == "y" or self.x_in_vectors
            line = 64 // (self.bytes // self.lanes)
            steps = [(getattr(axis, side), count) for axis, count in dims]
            columns = [(getattr(self.vector, side), vectors)] if self.vector is not None else []
            whole = [(getattr(axis, side), axis.size) for axis in (*self.kept, *self.summed)]
            across = [(1, self.lanes)] if in_vectors else []
            if _lines([*whole, *columns, *across], line) * 64 > FIRST_CACHE:
                total += LINE * _lines([*steps, *columns, *across], line)
        return total


def _distinct(steps: Sequence[tuple[int, int]]) -> int:
    spans: dict[int, int] = {}
    for step, count in steps:
        if step:
            spans[step] = spans.get(step, 1) + count - 1
    if len(spans) < 2:
        return prod(spans.values())
    places = {0}
    for step, count in spans.items():
        places = {place + step * k for place in places for k in range(count)}
    return len(places)


def _lines(steps: Sequence[tuple[int, int]], line: int) -> int:
    """Roughly the lines of a cache that a box of places lies in."""
    spans: dict[int, int] = {}
    for step, count in steps:
        if step and count > 1:
            spans[abs(step)] = spans.get(abs(step), 1) + count - 1
    near = 1 + sum(step * (count - 1) for step, count in spans.items() if step < line)
    return -(-near // line) * prod(count for step, count in spans.items() if step >= line)


def _merged(axes: Sequence[Axis]) -> list[int]:
    """The extents of loops when neighbours in memory run as one."""
    left = sorted(axes, key=lambda axis: (abs(axis.x), abs(axis.y)))
    found: list[Axis] = []
    for axis in left:
        last = found[-1] if found else None
        if last is not None and axis.x == last.x * last.extent and axis.y == last.y * last.extent:
            found[-1] = Axis(last.extent * axis.extent, last.x, last.y)
        else:
            found.append(axis)
    return [axis.extent for axis in found]


def order(terms: Sequence[tuple[int, int]], which: int) -> list[tuple[int, int]]:
    """As they are, step by step of the sum, or by the places of the first operand."""
    return list(terms) if which == 0 else sorted(terms, key=lambda term: term[0])


def live_at_most(terms: Sequence[tuple[int, int]]) -> int:
    """How many loaded values must be kept at the same time."""
    last: dict[tuple[bool, int], int] = {}
    for position, (x, y) in enumerate(terms):
        last[True, x] = last[False, y] = position
    live: set[tuple[bool, int]] = set()
    most = 0
    for position, (x, y) in enumerate(terms):
        live |= {(True, x), (False, y)}
        most = max(most, len(live))
        live = {key for key in live if last[key] > position}
    return most
