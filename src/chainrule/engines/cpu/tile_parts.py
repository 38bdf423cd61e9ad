"""A long sum into few results in parts and blocks: how many, which way the results are divided, and what is fetched ahead.

The parts are added up at the end, so every one of them costs passes over memory as large as the result. Where few parts divide the
work too little, each is shared out by rows or by columns of the result, and every share of it reads one of the operands again.
Sizes decide between the two, never the number of threads.

Within a part all tiles go through a block of the sum before the next block, so that both operands come from the second cache. The
steps of a weight gradient lie far apart in memory, where processors do not foresee what is read next; so tiles fetch the lines of
the next block while they multiply those of this one.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.tile_plan import Operand, Plan
from chainrule.engines.cpu.tile_units import TILE_GRAIN, Units, typical
from chainrule.ir.sizes import Dim, Size, product

# Shares of all parts together, of a sum that is long enough, and elements of all parts at most.
SHARES = 16
MOST_COPIED = 1 << 20
# So few outputs are cheap to copy, even if a sum over the batch turns out to be short.
FEW_OUTPUTS = 1 << 16
# Steps of a sum that is split, at least, of its outermost index, and of one part.
FEWEST_SPLIT, FEWEST_OUTERMOST, FEWEST_IN_PART = 1024, 32, 128
# Bytes of both operands in a block: this one and the next, which is fetched meanwhile, stay in the second cache.
BLOCK = 3 << 16
FEWEST_IN_BLOCK = 32
# Lines of an operand in a step that are fetched one by one, at most: more of them follow another index than that of the sum.
MOST_FETCHES = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """How a sum over ``split`` is divided: into ``most`` parts at most, in blocks of ``block`` steps at most.

    Units of work go by rows or by columns, so that shares of a part read the same of one operand, ``again`` elements of it in a step.
    """

    split: Var
    most: int
    by_rows: bool
    block: int
    again: int
    outputs: int

    def ranges(self, units: Units) -> str:
        """The number of parts as C."""
        assert self.split.extent is not None, "an index of a sum has an extent"
        limit = f"{c_size(self.split.extent)} / {FEWEST_IN_PART}"
        worth = f"cr_parts({c_size(self.split.extent * self.again)} / {self.outputs}, {self.most})"
        return f"cr_least(cr_chunks({c_size(units.work)}, {TILE_GRAIN}, {limit}), {worth})"

    @property
    def typically(self) -> int:
        """The number of parts of a batch of usual size, about."""
        assert self.split.extent is not None, "an index of a sum has an extent"
        steps, parts = typical(self.split.extent), 1
        worth = steps * self.again // self.outputs
        while 2 * parts <= min(self.most, steps // FEWEST_IN_PART) and worth > parts * parts:
            parts *= 2
        return parts

    def shares(self, units: Units, ranges: str) -> str:
        """Into how many shares the results of a part are divided, as C."""
        return f"cr_least(cr_chunks({c_size(units.work)} / {ranges}, {TILE_GRAIN}, {units.count}), {SHARES} / {ranges})"


def split_index(plan: Plan, outputs: Dim) -> Var | None:
    """The index of the sum to split into parts, where there are too few outputs to divide among threads."""
    sizes = [var.extent for var in (*plan.outer, *(var for var, _ in plan.rows))]
    if any(isinstance(size, Size) for size in sizes) or not plan.summed or isinstance(outputs, Size):
        return None
    if plan.tail and len(plan.summed) == 1:
        return None
    split = plan.summed[0]
    few = isinstance(plan.depth, Size) and outputs <= FEW_OUTPUTS
    long_sum = few or typical(plan.depth) >= FEWEST_SPLIT
    divisible = isinstance(split.extent, Size) or (split.extent or 0) >= FEWEST_OUTERMOST
    small = 2 * outputs <= MOST_COPIED or split != plan.summed[-1]
    return split if long_sum and divisible and small else None


def parts_of(plan: Plan, split: Var, outputs: int) -> Parts:
    """The division in which least is read again."""
    bytes = BYTES[plan.dtype]
    assert split.extent is not None, "an index of a sum has an extent"
    fewest = max(1, FEWEST_IN_BLOCK * typical(split.extent) // typical(plan.depth))
    found = []
    for by_rows in (False, True):
        steps = [(_in_step(plan, operand, split), _moves(plan, operand, by_rows)) for operand in (plan.x, plan.y)]
        again = sum(size for size, moves in steps if not moves)
        # Of parts as many as of shares would be about the least.
        own = sum(size // 4 if moves else size for size, moves in steps)
        block = BLOCK // max(1, own * bytes)
        block = max(fewest, block if block < 8 else block // 8 * 8)
        most = max(1, min(SHARES, MOST_COPIED // outputs))
        found.append(Parts(split, most, by_rows, block, again, outputs))
    return min(found, key=lambda parts: parts.again)


def _in_step(plan: Plan, operand: Operand, split: Var) -> int:
    """Elements of an operand that one step of the split index reads for all of the result."""
    packed = {var for var, _ in plan.rows} if plan.rows_packed and operand is plan.x else set()
    vars = [*plan.outer, *(v for v, _ in plan.rows), *plan.summed, *(v for v, _ in plan.unrolled)]
    sizes = [
        v.extent
        for v in vars
        if v != split and v.extent is not None and (operand.at.coefficient(v) != 0 or v in packed)
    ]
    if operand.in_vectors and plan.column is not None:
        sizes.append(plan.width)
    elements = product(map(typical, sizes))
    assert isinstance(elements, int), "typical sizes are numbers"
    assert split.extent is not None, "an index of a sum has an extent"
    # Steps of several indices may meet the same element.
    return min(elements, max(1, typical(operand.size) // typical(split.extent)))


def _moves(plan: Plan, operand: Operand, by_rows: bool) -> bool:
    """Whether shares of the units read different elements of an operand: it moves with the outermost index of the units."""
    if plan.outer:
        return operand.at.coefficient(plan.outer[0]) != 0
    if by_rows or plan.column is None:
        return operand is plan.x or any(operand.at.coefficient(var) != 0 for var, _ in plan.rows)
    return operand.at.coefficient(plan.column) != 0


def fetches(plan: Plan, split: Var | None, operand: Operand) -> bool:
    """Whether tiles fetch the next block of an operand: where its steps lie lines apart."""
    if plan.in_regions or split not in plan.summed or plan.column is None:
        return False
    step = operand.at.coefficient(plan.summed[-1])
    return isinstance(step, int) and abs(step) * BYTES[plan.dtype] >= LINE_BYTES


def fetch_first(w: Writer, plan: Plan, parts: Parts) -> None:
    """Fetch the first block of a share, ``step`` steps from ``start`` on; of the operand that is shared about its share."""
    for operand in (plan.x, plan.y):
        others = [(var, c) for var, c in operand.at.terms if var != parts.split]
        if plan.summed != [parts.split] or not fetches(plan, parts.split, operand) or len(others) != 1:
            continue
        ((var, c),) = others
        extent = plan.width if var == plan.column else var.extent
        if c != (plan.lanes if var == plan.column else 1) or not isinstance(extent, int):
            continue
        near = operand.at.replace({var: Index()}) + variable(Var("k"))
        bounds = (f"low * {extent} / units", f"high * {extent} / units")
        low, high = bounds if _moves(plan, operand, parts.by_rows) else ("0", str(extent))
        name, line = parts.split.name, LINE_BYTES // BYTES[plan.dtype]
        with w.block(f"for (long {name} = start; {name} < cr_least(start + step, end); {name}++)"):
            w.line(f"for (long k = {low}; k < {high}; k += {line}) CR_FETCH({operand.pointer} + ({near}));")
