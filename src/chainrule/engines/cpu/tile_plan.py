"""How a contraction is tiled: which index runs in vectors, and which make the rows, the loops and the sum of a tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chainrule.core.dtypes import FLOATS, DType
from chainrule.engines.cpu.indexing import Index, Var, at_least, linear, variable
from chainrule.engines.cpu.lattice import Piece, margins
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.tile_shape import NOMINAL, Axis, choose_shape
from chainrule.engines.cpu.vectors import NARROWEST
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Shape, Size, at, divide, product

# Cycles to copy an element: in its order, and to another one.
COPY, TRANSPOSE = 0.15, 0.4

# Bytes between places that fall on the same set of a first cache, and in a page; steps of a sum from which on that matters.
ALIASING, PAGE, LONG_SUM = 4096, 4096, 256
# Rows or columns that pay for a copy of the other operand where steps fall on the same sets, or on so many pages.
FEWEST_ALIASED, FEWEST_PAGED, MANY_PAGES = 64, 512, 1536

# How far reads go beyond an operand, below 0 and above its size, for each axis.
Border = tuple[list[Dim], list[Dim]]


@dataclass(frozen=True, slots=True)
class Way:
    """The index that runs in vectors of so many lanes: one of the output, or one of the sum (``along_sum``).

    ``swapped`` says that the first operand is y, the one that is read in vectors; x may be, too, or is broadcast.
    """

    vector: Var
    lanes: int
    along_sum: bool
    swapped: bool

    @property
    def vectors(self) -> int:
        assert isinstance(self.vector.extent, int), "an index in vectors has a constant extent"
        return -(-self.vector.extent // self.lanes)

    @property
    def padded(self) -> Var:
        """The index with the lanes of its last vector that are beyond its end."""
        return self.vector if self.along_sum else Var(self.vector.name, self.vectors * self.lanes)


@dataclass(slots=True)
class Operand:
    """An operand in memory: its pointer, the place that it is read at, and how many elements there are.

    It is read ``in_vectors`` unless its elements are broadcast.
    """

    pointer: str
    at: Index
    size: Dim
    in_vectors: bool = True


@dataclass(slots=True)
class Plan:
    """How one piece runs.

    ``rows`` are indices with the most that a tile has of them; ``column`` counts vectors of the output, ``vectors`` of them in a
    tile at most (no column where vectors lie along the sum). ``summed`` are the loops of the sum, ``unrolled`` the indices (with
    counts) that a step of it has within itself. ``tail`` is what is left of the last vector along the sum.
    ``in_regions`` says that blocks of both operands are copied for one region of the result after another (``tile_regions.py``),
    ``in_panels`` that the columns of y that a panel has are copied before its rows are summed (``tile_panels.py``).
    """

    out: Index
    x: Operand
    y: Operand
    outer: list[Var]
    rows: list[tuple[Var, int]]
    column: Var | None
    vectors: int
    summed: list[Var]
    unrolled: list[tuple[Var, int]]
    width: int
    lanes: int
    dtype: DType
    tail: int = 0
    rows_packed: bool = False
    in_regions: bool = False
    in_panels: bool = False

    @property
    def depth(self) -> Dim:
        """Steps of the sum."""
        return product([*(v.extent for v in self.summed if v.extent is not None), *(n for _, n in self.unrolled)]) + (
            1 if self.tail else 0
        )

    @property
    def panel(self) -> int:
        return self.lanes * self.vectors

    @property
    def panels(self) -> int:
        if self.column is None:
            return 1
        assert isinstance(self.column.extent, int), "a number of vectors is constant"
        return -(-self.column.extent // self.vectors)


def registers_of(vector_bytes: int) -> int:
    return 32 if vector_bytes >= 64 else 16


def ways(node: Node, pieces: Sequence[Piece], vector_bytes: int) -> list[Way]:
    """The ways in which all pieces can be tiled."""
    summing = [piece for piece in pieces if not piece.is_zero]
    if node.output.dtype not in FLOATS or not summing or any(0 in v.shape for v in (*node.inputs, node.output)):
        return []
    if any(piece.guards or not piece.summed or not _margins_known(node, piece) for piece in summing):
        return []
    largest = max(summing, key=work_of_piece)
    return [
        way for way in _ways_of_piece(node, largest, vector_bytes) if all(_fits(node, piece, way) for piece in summing)
    ]


def can_tile(node: Node, pieces: Sequence[Piece] | None, vector_bytes: int) -> bool:
    """Whether every piece that sums anything can run in tiles."""
    return pieces is not None and bool(ways(node, pieces, vector_bytes))


def work_of_piece(piece: Piece) -> int:
    return at(product(var.extent for var in (*piece.kept, *piece.summed) if var.extent is not None), NOMINAL)


def _margins_known(node: Node, piece: Piece) -> bool:
    return not any(
        not index.within(size) and margins(index, size) is None
        for indices, value in zip((piece.a, piece.b), node.inputs, strict=True)
        for index, size in zip(indices, value.shape, strict=True)
    )


def _places(node: Node, piece: Piece) -> tuple[Index, Index, Index]:
    out = linear(piece.out, node.output.shape)
    a, b = (linear(i, v.shape) for i, v in zip((piece.a, piece.b), node.inputs, strict=True))
    return out, a, b


def _ways_of_piece(node: Node, piece: Piece, vector_bytes: int) -> Iterator[Way]:
    out, a, b = _places(node, piece)
    most = vector_bytes // BYTES[node.output.dtype]
    widths = [most]
    while widths[-1] * BYTES[node.output.dtype] > NARROWEST:
        widths.append(widths[-1] // 2)
    for var in piece.kept:
        extent = var.extent
        if out.coefficient(var) != 1 or not isinstance(extent, int) or extent < 2:
            continue
        in_a, in_b = a.coefficient(var), b.coefficient(var)
        if in_a == 0 and in_b == 0:
            continue
        lanes = [most]
        lanes += [n for n in widths[1:] if -(-extent // n) * n < -(-extent // lanes[-1]) * lanes[-1]]
        for n in lanes:
            yield Way(var, n, False, in_b == 0 or (in_a == 1 and in_b != 1))
    for var in piece.summed:
        if isinstance(var.extent, int) and var.extent >= 4 and a.coefficient(var) == b.coefficient(var) == 1:
            yield Way(var, next((n for n in widths if n <= var.extent), widths[-1]), True, False)


def _fits(node: Node, piece: Piece, way: Way) -> bool:
    out, a, b = _places(node, piece)
    if way.along_sum:
        return way.vector in piece.summed and a.coefficient(way.vector) == b.coefficient(way.vector) == 1
    y = a if way.swapped else b
    return way.vector in piece.kept and out.coefficient(way.vector) == 1 and y.coefficient(way.vector) != 0


def border_of(value: Value, places: Sequence[tuple[Index, ...]], way: Way) -> Border | None:
    """How far the reads of all pieces, in whole vectors, go beyond the operand on each axis; None if they never do."""
    low: list[Dim] = [0] * len(value.shape)
    high: list[Dim] = [0] * len(value.shape)
    for indices in places:
        whole = linear(indices, value.shape).coefficient(way.vector) == 1
        for axis, (index, size) in enumerate(zip(indices, value.shape, strict=True)):
            reached = index.replace({way.vector: variable(way.padded)}) if whole else index
            if not reached.within(size):
                found = margins(reached, size)
                assert found is not None, "only operands with known margins are tiled"
                low[axis], high[axis] = _most(low[axis], found[0]), _most(high[axis], found[1])
    return (low, high) if any(d != 0 for d in (*low, *high)) else None


def no_border(value: Value) -> Border:
    """For a copy of an operand as it is."""
    return [0] * len(value.shape), [0] * len(value.shape)


def _most(x: Dim, y: Dim) -> Dim:
    return y if at_least(y - x, 0) else x


def bordered(shape: Shape, border: Border | None) -> Shape:
    if border is None:
        return shape
    return tuple(low + size + high for low, size, high in zip(border[0], shape, border[1], strict=True))


@dataclass(slots=True)
class Product:
    """One piece with its operands where they lie in memory, before a tile is chosen; ``out`` counts elements.

    In ``out`` and in operands read in vectors, the index in vectors is already the number of a vector (``column``), or of a step
    of the sum.
    """

    way: Way
    out: Index
    x: Operand
    y: Operand
    kept: list[Var]
    summed: list[Var]
    column: Var | None
    dtype: DType
    tail: int = 0
    last: Var | None = None
    # Sizes of trailing axes that some sum over the others keeps: no index may be of both.
    apart: Sequence[int] = ()


def plan_of(product: Product, fixed: Sequence[Var], registers: int) -> tuple[Plan, float]:
    """The plan of least cost and its cost in cycles; ``fixed`` are indices of loops around, which stay out of the tile."""
    found = [_plan(product, fixed, registers, merges) for merges in (False, True)]
    return min(found, key=lambda pair: pair[1])


def _plan(p: Product, fixed: Sequence[Var], registers: int, merges: bool) -> tuple[Plan, float]:
    places = [p.out, p.x.at, p.y.at]
    kept = [var for var in p.kept if var not in fixed]
    summed = sum_order([var for var in p.summed if var not in fixed], p.x.at, p.y.at)
    last = [p.last] if p.last is not None else []
    if merges:
        places, kept = merged(places, kept, p.apart)
    x, y = places[1], places[2]
    vector = p.column
    steps = [var for var in summed if var not in last]
    shape = choose_shape(
        tuple(_axis(var, x, y) for var in kept),
        _axis(vector, x, y) if vector is not None else None,
        tuple(_axis(var, x, y) for var in steps),
        p.x.in_vectors,
        p.way.lanes,
        p.way.lanes * BYTES[p.dtype],
        registers,
    )
    rows = [(kept[number], count) for number, count in shape.rows]
    in_rows = {var for var, _ in rows}
    unrolled, loops = [], []
    counts = {steps[number]: count for number, count in shape.unrolled}
    known: dict[Var, Index] = {}
    for var in steps:
        count = counts.get(var)
        if count is None:
            loops.append(var)
            continue
        assert isinstance(var.extent, int), "an unrolled index has a constant extent"
        inside, around = Var(f"{var.name}_step", count), Var(f"{var.name}_loop", var.extent // count)
        known[var] = variable(around) * count + variable(inside)
        unrolled.append((inside, count))
        if around.extent != 1:
            loops.append(around)
    places = [place.replace(known) for place in places]
    places, outer = merged(places, [var for var in kept if var not in in_rows], p.apart)
    places, loops = merged(places, loops)
    loops = [*sum_order(loops, places[1], places[2]), *last]
    column, vectors = p.column, shape.vectors
    width = 1 if column is None else p.way.vector.extent
    assert isinstance(width, int), "an index in vectors has a constant extent"
    plan = Plan(
        places[0],
        Operand(p.x.pointer, places[1], p.x.size, p.x.in_vectors),
        Operand(p.y.pointer, places[2], p.y.size),
        outer,
        rows,
        column,
        vectors,
        loops,
        unrolled,
        width,
        p.way.lanes,
        p.dtype,
        p.tail,
    )
    around_it = at(product(var.extent for var in fixed if var.extent is not None), NOMINAL)
    return plan, shape.cost * around_it * (1 + len(last) * 0.1)


def _axis(var: Var, x: Index, y: Index) -> Axis:
    extent = var.extent if isinstance(var.extent, int) else 0
    return Axis(extent, at(x.coefficient(var), NOMINAL), at(y.coefficient(var), NOMINAL))


def merged(places: list[Index], vars: Sequence[Var], apart: Sequence[int] = ()) -> tuple[list[Index], list[Var]]:
    """Indices that all operands move through as through one become one; the output, the first of the places, keeps multiples of
    the sizes in ``apart`` for themselves."""
    left = [var for var in vars if var.extent != 1]
    pair = _mergeable(places, left, apart)
    while pair is not None:
        outer, inner = pair
        assert outer.extent is not None, "an index has an extent"
        assert inner.extent is not None, "an index has an extent"
        one = Var(inner.name, outer.extent * inner.extent)
        places = [i.replace({outer: Index(), inner: variable(one)}) for i in places]
        left = [one if var is inner else var for var in left if var is not outer]
        pair = _mergeable(places, left, apart)
    return places, left


def _mergeable(places: Sequence[Index], vars: Sequence[Var], apart: Sequence[int]) -> tuple[Var, Var] | None:
    out = places[0]
    for outer in vars:
        for inner in vars:
            size = inner.extent
            if outer is inner or size is None:
                continue
            if any(
                (divide(out.coefficient(outer), n) is None) != (divide(out.coefficient(inner), n) is None)
                for n in apart
            ):
                continue
            if all(i.coefficient(outer) == i.coefficient(inner) * size for i in places):
                return outer, inner
    return None


def sum_order(summed: Sequence[Var], x: Index, y: Index) -> list[Var]:
    """Large steps through the operands go outermost; of equal ones, those of a symbolic index."""

    def key(var: Var) -> tuple[bool, int, bool]:
        step = x.coefficient(var)
        other = y.coefficient(var)
        size = abs(step) if isinstance(step, int) else 1 << 60
        more = abs(other) if isinstance(other, int) else 1 << 60
        return size != 0, size + more, isinstance(var.extent, Size)

    return sorted(summed, key=key, reverse=True)


def aliases(p: Product) -> bool:
    """Whether the steps of a long sum through y need a copy (:func:`needs_copy`), and there are rows enough to pay for one."""
    rows = [var.extent for var in p.kept if p.x.at.coefficient(var) != 0 and p.y.at.coefficient(var) == 0]
    last = sum_order(p.summed, p.x.at, p.y.at)[-1]
    known = max((extent for extent in rows if isinstance(extent, int)), default=0)
    most = max(known, FEWEST_ALIASED) if any(isinstance(extent, Size) for extent in rows) else known
    return needs_copy(last, p.y.at.coefficient(last), BYTES[p.dtype], most)


def needs_copy(var: Var, step: Dim, bytes: int, uses: int) -> bool:
    """Whether an operand that so many rows or columns use is better copied, for the steps that a sum takes through it.

    Steps of whole pages fall on few sets of the caches. Longer steps than a page need an entry of the table of pages each, of which
    processors keep some thousand; both operands and the result share them.
    """
    if not isinstance(step, int) or not (isinstance(var.extent, Size) or (var.extent or 0) >= LONG_SUM):
        return False
    if step * bytes % ALIASING == 0:
        return uses >= FEWEST_ALIASED
    pages = 0 if isinstance(var.extent, Size) or var.extent is None else var.extent
    return abs(step) * bytes > PAGE and pages >= MANY_PAGES and uses >= FEWEST_PAGED
