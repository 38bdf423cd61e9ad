"""What Winograd's algorithms transform at a time, and how its tiles are read: blocks, copies of items, and the places in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from chainrule.core.alignment import LINE_BYTES
from chainrule.core.dtypes import DType
from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, linear, variable
from chainrule.engines.cpu.lattice import margins
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.sides import Side
from chainrule.engines.cpu.tile_ahead import Stream
from chainrule.engines.cpu.tile_copies import Copy, border_of_item
from chainrule.engines.cpu.tile_plan import Border, bordered, no_border
from chainrule.engines.cpu.vectors import vector_type
from chainrule.engines.cpu.winograd_algorithms import TILE, Matrix
from chainrule.engines.cpu.winograd_bundles import Bundle, Convolution, Layout, Role, count_of
from chainrule.engines.cpu.winograd_transforms import write_transform
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import BATCH, Dim, Size, product

# The numbers of shares of channels, of an operand, of x or of y.
SHARES = ("share", "x_share", "y_share")


@dataclass(frozen=True, slots=True)
class Block:
    """What is transformed at a time: so many ``rows`` of tiles of one item, or all tiles of several ``items``.

    In the C of a block of several items, ``B`` is their number.
    """

    items: int
    rows: int
    columns: int
    in_item: int

    @classmethod
    def of(cls, bundles: Sequence[Bundle], least: int) -> Block:
        """Blocks of ``least`` tiles or more, as few as come out even."""
        rows, columns = tiles_along(bundles)
        if rows * columns < least:
            return cls(-(-least // (rows * columns)), rows, columns, 1)
        some = next(n for n in range(1, rows + 1) if rows % n == 0 and n * columns >= least)
        return cls(1, some, columns, rows // some)

    @property
    def tiles(self) -> Dim:
        return self.rows * self.columns if self.items == 1 else BATCH * (self.rows * self.columns)

    @property
    def most_tiles(self) -> int:
        return self.items * self.rows * self.columns

    @property
    def index(self) -> Index:
        """The number of the tile at hand, by the variables that :meth:`rows_of_tiles` and loops over ``tile`` declare."""
        rows = variable(Var("row_in_block", self.rows)) * self.columns + variable(Var("tile", self.columns))
        return rows if self.items == 1 else variable(Var("member", BATCH)) * (self.rows * self.columns) + rows


@dataclass(slots=True)
class Source:
    """An operand as tiles read it: from ``pointer``, memory or a copy of one item, at ``place``.

    ``channels`` are all indices but those of items, positions and taps, the one that vectors lie along last. ``copied`` are the
    elements of the copy of an item, ``tiles`` those that a block has along each axis, of its pieces' largest. ``pointer`` leads to
    what is at ``base``, a part of the place.
    """

    convolution: Convolution
    number: int
    pointer: str
    place: Index
    size: Dim
    channels: list[Var]
    copy: Copy | None
    copied: int
    tiles: tuple[int, int]
    dtype: DType
    base: Index = field(default_factory=Index)

    def divided(self, shares: int, share: str = "share") -> Source:
        """The part of the channels that belongs to the share of that name."""
        *others, last = self.channels
        whole, own = share_of(last, shares, share)
        return replace(self, place=self.place.replace({last: whole}), channels=[*others, own])

    def given(self, *, offset: bool) -> tuple[Source, str]:
        """The operand as a function reads it through a pointer of the same name for all, and the pointer that it is given: what
        depends on the item and the share is in there, and a constant ``offset``."""
        terms = tuple((v, k) for v, k in self.place.terms if v == self.convolution.item or v.name in SHARES)
        base = Index(terms, self.place.offset if offset else 0)
        moved = replace(self, pointer=f"from_{self.number}", base=base)
        return moved, f"{self.pointer} + ({base})"

    @property
    def depth(self) -> int:
        found = product(var.extent for var in self.channels if var.extent is not None)
        assert isinstance(found, int), "channels are counted"
        return found

    @property
    def of_next_item(self) -> Stream:
        """What the next item reads of an operand in memory."""
        item = self.convolution.item
        step = self.place.coefficient(item)
        assert isinstance(step, int), "an item has a constant size"
        start = f"(const char *)({self.pointer} + {step} * ({item.name} + 1))"
        return Stream(start, -(-step * BYTES[self.dtype] // LINE_BYTES))

    @property
    def matrices(self) -> list[Matrix]:
        c = self.convolution
        if self.number == c.number:
            return [pair.algorithm.x for pair in c.pairs]
        return [pair.algorithm.u if c.gives_taps else pair.algorithm.w for pair in c.pairs]

    def transform(self, w: Writer, layout: Layout, target: str, row: Index, column: Index, lanes: int) -> None:
        """Transform the tile at hand for one vector of channels: to a row and a column of the matrices at ``target``."""
        vector = vector_type(self.dtype, lanes)

        def load(i: int, j: int) -> str:
            return f"*(const {vector}_anywhere *)({self.pointer} + ({self.at(i, j, lanes)}))"

        def store(i: int, j: int, text: str) -> None:
            at = layout.at(self.convolution, i, j, row, column)
            w.line(f"*({vector}_anywhere *)({target} + ({at})) = {text};")

        write_transform(w, self.matrices[0], self.matrices[1], self.dtype, lanes, load, store)

    def at(self, i: int, j: int, lanes: int) -> Index:
        """Where an element of the tile at hand is, for the ``vector``th vector along the last of the channels."""
        known = {self.channels[-1]: variable(Var("vector", count_of(self.channels[-1]) // lanes)) * lanes}
        indices = Var("row_of_tiles", self.tiles[0]), Var("tile", self.tiles[1])
        for pair, k, tile in zip(self.convolution.pairs, (i, j), indices, strict=True):
            if self.number == self.convolution.number or self.convolution.gives_taps:
                known |= {pair.position: variable(tile) * TILE + k, pair.tap: Index()}
            else:
                known[pair.tap] = Index((), k)
        found = self.place.replace(known)
        prove(self.pointer, found + variable(Var("lane", lanes)), self.size)
        return found - self.base


def source_of(
    node: Node,
    bundles: Sequence[Bundle],
    c: Convolution,
    number: int,
    body: Callable[[], Body],
    name: Callable[[Value], str],
    is_computed: bool,
    sums: Sequence[Side] = (),
) -> Source:
    """How a convolution, one of those of a node, reads an operand. Items are copied if reads leave them, also those of the last tiles,
    and if they are not in memory; ``sums`` of what is computed then are added up."""
    value, tiles = node.inputs[number], tiles_along(bundles)
    role: Role = "image" if number == c.number else "other"
    readers = [one for bundle in bundles for one in bundle.having(role)]
    border = _border(value, [_reached(one, number, tiles) for one in readers])
    if border is None and is_computed:
        border = no_border(value)
    place, size = linear(c.operands[number], value.shape), product(value.shape)
    pointer = name(value) if border is None else f"border_{'ab'[number]}"
    copy, copied = None, 0
    if border is not None:
        shape = bordered(value.shape, border)
        copy = border_of_item(body, value, border, pointer, c.item, sums)
        moved = [index + low for index, low in zip(c.operands[number], border[0], strict=True)]
        place = linear(moved, shape).replace({c.item: Index()})
        size = product(shape[1:])
        assert isinstance(size, int), "the copy of an item has a constant size"
        copied = size
    of_pairs = {var for pair in c.pairs for var in (pair.position, pair.tap)}
    own = {var for var, _ in place.terms} - of_pairs - {c.item}
    channels = sorted((var for var in (*c.others, c.vector) if var in own), key=lambda var: place.coefficient(var) == 1)
    return Source(c, number, pointer, place, size, channels, copy, copied, tiles, value.dtype)


def tiles_along(bundles: Sequence[Bundle]) -> tuple[int, int]:
    """Tiles along each axis that all pieces are computed in: a piece may have a position less than another."""
    phases = [c for bundle in bundles for c in bundle.phases]
    return max(c.tiles[0] for c in phases), max(c.tiles[1] for c in phases)


def _reached(c: Convolution, number: int, tiles: tuple[int, int]) -> tuple[Index, ...]:
    """What the tiles of a convolution read of an operand, those included that are partly or wholly beyond its end."""
    whole = {
        pair.position: variable(Var(pair.position.name, count * TILE))
        for pair, count in zip(c.pairs, tiles, strict=True)
    }
    return tuple(index.replace(whole) for index in c.operands[number])


def _border(value: Value, places: Sequence[tuple[Index, ...]]) -> Border | None:
    low: list[Dim] = [0] * len(value.shape)
    high: list[Dim] = [0] * len(value.shape)
    for indices in places:
        for axis, (index, size) in enumerate(zip(indices, value.shape, strict=True)):
            if not index.within(size):
                found = margins(index, size)
                assert found is not None, "positions and taps have known ends"
                low[axis], high[axis] = _larger(low[axis], found[0]), _larger(high[axis], found[1])
    return (low, high) if any(d != 0 for d in (*low, *high)) else None


def _larger(x: Dim, y: Dim) -> Dim:
    assert not isinstance(x, Size) and not isinstance(y, Size), "an item has a constant size"
    return max(x, y)


def share_of(var: Var, shares: int, share: str = "share") -> tuple[Index, Var]:
    """An index as that of a share and what is left, and the variable for what is left."""
    own = Var(var.name, count_of(var) // shares)
    return variable(Var(share, shares)) * count_of(own) + variable(own), own


@contextmanager
def loops(w: Writer, vars: Sequence[Var], first: tuple[str, str | None] = ("0", None)) -> Iterator[None]:
    """Loops within each other, the outermost with these bounds."""
    with ExitStack() as stack:
        for number, var in enumerate(vars):
            stack.enter_context(w.loop(var, *(first if number == 0 else ("0", None))))
        yield
