"""How a contraction is tiled: its index classes, the shape of the tile, and how rows, units and parts are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.core.dtypes import FLOATS
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.lattice import Piece, margins
from chainrule.engines.cpu.scalars import BYTES
from chainrule.ir.graph import Node
from chainrule.ir.sizes import Dim, Size, product

# Fused multiplications and additions in one chunk at least, and in one unit (a row block of a panel) about.
GRAIN = 1 << 18
UNIT = 1 << 17
PARTS = 8
# A sum is only split where its result is at most this many elements, because every part has a copy of it.
MOST_SPLIT = 1 << 16
RUNTIME_ROWS = 8
# Half of the second cache of a core, in bytes, on most machines.
SECOND_CACHE = 1 << 19


@dataclass(slots=True)
class Operand:
    """An operand in memory: its pointer, the place that it is read at, and how many elements there are."""

    pointer: str
    at: Index
    size: Dim


@dataclass(slots=True)
class Plan:
    """How one piece runs: its index classes, tile and operands (x is broadcast, y is loaded as vectors)."""

    vector: Var
    row: Var
    outer: list[Var]
    summed: list[Var]
    width: int
    vectors: int
    most_rows: int
    x: Operand
    y: Operand
    out: Index
    dtype: str
    rows_packed: bool = False

    @property
    def panel(self) -> int:
        return self.width * self.vectors

    @property
    def panels(self) -> int:
        assert isinstance(self.vector.extent, int), "the vector index has a constant extent"
        return -(-self.vector.extent // self.panel)

    @property
    def full(self) -> bool:
        return self.vector.extent == self.panels * self.panel

    @property
    def depth(self) -> Dim:
        return product(var.extent for var in self.summed if var.extent is not None)


def classify(node: Node, piece: Piece, vector_bytes: int) -> tuple[Var, Var, bool] | None:
    """The vector index, the row index, and whether the first operand is the one loaded as vectors; None if no tile pays."""
    if node.output.dtype not in FLOATS or piece.guards or piece.is_zero or not piece.summed:
        return None
    out = linear(piece.out, node.output.shape)
    a, b = (linear(i, v.shape) for i, v in zip((piece.a, piece.b), node.inputs, strict=True))
    vector = next((var for var in piece.kept if out.coefficient(var) == 1), None)
    if vector is None or not isinstance(vector.extent, int) or vector.extent < 2:
        return None
    in_a, in_b = a.coefficient(vector) != 0, b.coefficient(vector) != 0
    if in_a == in_b:
        return None
    x, y = (b, a) if in_a else (a, b)
    rows = [var for var in piece.kept if x.coefficient(var) != 0 and y.coefficient(var) == 0]
    if not rows:
        return None
    return vector, max(rows, key=lambda var: _row_score(var, x)), in_a


def can_tile(node: Node, pieces: Sequence[Piece] | None, vector_bytes: int) -> bool:
    """Whether every piece that sums anything can run in tiles."""
    if pieces is None or all(piece.is_zero for piece in pieces):
        return False
    if any(0 in value.shape for value in (*node.inputs, node.output)):
        return False
    for piece in pieces:
        if piece.is_zero:
            continue
        if classify(node, piece, vector_bytes) is None:
            return False
        for indices, value in zip((piece.a, piece.b), node.inputs, strict=True):
            if any(not i.within(n) and margins(i, n) is None for i, n in zip(indices, value.shape, strict=True)):
                return False
    return True


def _row_score(var: Var, x: Index) -> tuple[float, int]:
    """Constant extents that fill whole tiles come first, then the batch; of equals the one that takes the smaller steps."""
    if isinstance(var.extent, Size) or var.extent is None:
        return 0.8, 0
    tiles = -(-var.extent // 12)
    step = x.coefficient(var)
    return min(1.0, var.extent / tiles / 7), -abs(step) if isinstance(step, int) else -(1 << 60)


def tile_shape(vector: Var, row: Var, width: int) -> tuple[int, int]:
    """Vectors and most rows of a tile, so that the sums, a row of vectors and a broadcast fit in the registers."""
    registers = 32 if width * 4 >= 64 else 16
    assert isinstance(vector.extent, int), "the vector index has a constant extent"
    count = -(-vector.extent // width)
    choices = [2, 3, 4, 1] if registers == 32 else [2, 3, 1]
    vectors = min(choices, key=lambda n: (-(-count // n) * n - count) / count + (0.12 if n == 1 else 0.03 * (n > 2)))
    most = {1: 16, 2: 12, 3: 8, 4: 6}[vectors] if registers == 32 else {1: 8, 2: 6, 3: 4}[vectors]
    if isinstance(row.extent, Size):
        most = min(most, RUNTIME_ROWS if registers == 32 else 4)
    return vectors, most


def goes_by_rows(plan: Plan) -> bool:
    """Whether a block of rows meets all panels before the next one: if y fits in the second cache, which keeps the output's
    rows, and what is updated along with them, in long streams."""
    depth = plan.depth if not isinstance(plan.depth, Size) else 128 * sum(plan.depth.coefficients)
    return depth * plan.panels * plan.panel * BYTES[plan.dtype] <= SECOND_CACHE


def units_of(plan: Plan) -> str:
    outer = product(var.extent for var in plan.outer if var.extent is not None)
    blocks, _ = row_blocks(plan, row_tiles(plan)[0])
    return f"{c_size(outer * plan.panels)} * {blocks}"


def work_of_tiles(plan: Plan) -> Dim:
    """Multiplications, those with padding included."""
    points = product(var.extent for var in (*plan.outer, plan.row) if var.extent is not None)
    return plan.depth * points * plan.panels * plan.panel


def part_count(work: Dim, split: Var) -> str:
    assert split.extent is not None, "an index of a sum has an extent"
    return f"cr_least(cr_chunks({c_size(work)}, {GRAIN}, {c_size(split.extent)}), {PARTS})"


def tile_chunks(work: Dim, units: str) -> str:
    return f"cr_chunks({c_size(work)}, {GRAIN}, {units})"


def merged(
    places: list[Index], kept: Sequence[Var], summed: Sequence[Var], fixed: Sequence[Var]
) -> tuple[list[Index], list[Var], list[Var]]:
    """Indices that all three operands move through as through one become one; the tile's own indices stay."""

    def merge(vars: list[Var]) -> list[Var]:
        changed = True
        while changed:
            changed = False
            for outer in vars:
                for inner in vars:
                    if (
                        outer is inner
                        or outer in fixed
                        or inner in fixed
                        or outer.extent is None
                        or inner.extent is None
                    ):
                        continue
                    if all(i.coefficient(outer) == i.coefficient(inner) * inner.extent for i in places):
                        one = Var(inner.name, outer.extent * inner.extent)
                        places[:] = [i.replace({outer: Index(), inner: variable(one)}) for i in places]
                        vars = [one if v is inner else v for v in vars if v is not outer]
                        changed = True
                        break
                if changed:
                    break
        return vars

    return places, merge(list(kept)), merge([var for var in summed if var.extent != 1])


def sum_order(summed: Sequence[Var], x: Index, y: Index) -> list[Var]:
    """The index over which x is contiguous goes innermost, a symbolic one outermost."""

    def key(var: Var) -> tuple[bool, bool, int]:
        step = x.coefficient(var)
        other = y.coefficient(var)
        size = abs(step) if isinstance(step, int) else 1 << 60
        more = abs(other) if isinstance(other, int) else 1 << 60
        return isinstance(var.extent, Size), size != 0, size + more

    return sorted(summed, key=key, reverse=True)


def aliases(plan: Plan, place: Index) -> bool:
    """Whether the steps of a long sum fall on few sets of the caches, and there are rows enough to make up for a copy."""
    rows = plan.row.extent
    if plan.summed and (isinstance(rows, Size) or (rows or 0) >= 64):
        step = place.coefficient(plan.summed[-1])
        count = plan.summed[-1].extent
        long_sum = isinstance(count, Size) or (count or 0) >= 256
        return long_sum and isinstance(step, int) and step * BYTES[plan.dtype] % 4096 == 0
    return False


def row_tiles(plan: Plan) -> tuple[Dim | None, str]:
    extent = plan.row.extent
    if isinstance(extent, Size):
        return None, f"({c_size(extent)} + {plan.most_rows - 1}) / {plan.most_rows}"
    assert extent is not None, "the row index has an extent"
    tiles = -(-extent // plan.most_rows)
    return tiles, str(tiles)


def row_blocks(plan: Plan, tiles: Dim | None) -> tuple[str, int]:
    """Into how many blocks of how many tiles the rows are cut."""
    depth = plan.depth if not isinstance(plan.depth, Size) else 128 * sum(plan.depth.coefficients)
    per_unit = max(1, UNIT // max(1, depth * plan.panel * plan.most_rows))
    if tiles is None:
        assert plan.row.extent is not None, "the row index has an extent"
        rows = plan.most_rows * per_unit
        return f"(({c_size(plan.row.extent)} + {rows - 1}) / {rows})", per_unit
    assert isinstance(tiles, int), "a constant number of tiles"
    per_unit = min(per_unit, tiles)
    return str(-(-tiles // per_unit)), per_unit
