"""Short convolutions that have something in common, and how what is transformed for them lies in memory.

The phases of a convolution with a stride add up to one result; in its gradient of weights they share an operand. What is shared is
transformed once. Phases may have a tap less than others, and so less elements in their transformed tiles: the products are made in
groups of elements that the same phases take part in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product as combinations
from typing import Literal

from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var
from chainrule.engines.cpu.winograd_algorithms import ALGORITHMS, TILE, Algorithm
from chainrule.ir.sizes import Dim

# What has positions and taps together, what else is multiplied, and what comes out.
Role = Literal["image", "other", "result"]
Shared = Literal["other", "result"]
Place = tuple[int, int]


def count_of(var: Var) -> int:
    """The extent of an index of channels or taps."""
    assert isinstance(var.extent, int), "channels and taps are counted"
    return var.extent


@dataclass(frozen=True, slots=True)
class Pair:
    """An axis along which an operand is read at ``position + tap``, in tiles that have room for the algorithm of ``whole`` taps."""

    position: Var
    tap: Var
    whole: int

    @property
    def taps(self) -> int:
        return count_of(self.tap)

    @property
    def algorithm(self) -> Algorithm:
        return ALGORITHMS[self.taps]

    @property
    def places(self) -> tuple[int, ...]:
        """Those of the elements of the algorithm among the elements of a tile."""
        return tuple(ALGORITHMS[self.whole].u.index(row) for row in self.algorithm.u)

    @property
    def positions(self) -> int:
        assert isinstance(self.position.extent, int), "positions of a tile are counted"
        return self.position.extent

    @property
    def tiles(self) -> int:
        return -(-self.positions // TILE)


@dataclass(frozen=True, slots=True)
class Convolution:
    """A piece of a contraction, or one of the phases of a piece, as a short convolution along two axes.

    ``number`` is that of the operand read at ``position + tap``, the image. ``gives_taps`` says that the result has the taps, as a
    gradient of weights has, and is summed over positions; otherwise it is the other way round. ``item`` is the index of the batch,
    ``vector`` the one along which the result is contiguous, ``others`` are all that are left.
    """

    out: tuple[Index, ...]
    operands: tuple[tuple[Index, ...], tuple[Index, ...]]
    number: int
    pairs: tuple[Pair, Pair]
    gives_taps: bool
    item: Var
    vector: Var
    others: tuple[Var, ...]

    @property
    def multiplications(self) -> int:
        """How many take the place of those of one tile."""
        first, second = self.pairs
        return len(first.places) * len(second.places)

    @property
    def tiles(self) -> tuple[int, int]:
        first, second = self.pairs
        return first.tiles, second.tiles


@dataclass(frozen=True, slots=True)
class Group:
    """Elements of transformed tiles that the same phases take part in."""

    phases: tuple[int, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Bundle:
    """Phases that share what has this role; ``whole`` has all taps of their algorithms, and is what reads or makes the shared."""

    phases: tuple[Convolution, ...]
    shared: Shared
    whole: Convolution

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        found: dict[tuple[int, ...], list[Place]] = {}
        for place in combinations(*(range(pair.algorithm.size) for pair in self.whole.pairs)):
            has = tuple(
                k
                for k, c in enumerate(self.phases)
                if all(at in pair.places for at, pair in zip(place, c.pairs, strict=True))
            )
            found.setdefault(has, []).append((place[0], place[1]))
        return tuple(Group(phases, tuple(places)) for phases, places in found.items())

    @property
    def multiplications(self) -> int:
        return sum(c.multiplications for c in self.phases)

    @property
    def direct(self) -> int:
        """The multiplications by the definition, for a tile of results."""
        return sum(TILE * TILE * first.taps * second.taps for first, second in (c.pairs for c in self.phases))

    def having(self, role: Role) -> tuple[Convolution, ...]:
        """The convolutions that have something of their own of this role."""
        return (self.whole,) if role == self.shared else self.phases


@dataclass(frozen=True, slots=True)
class Layout:
    """Where transformed elements lie: matrices of ``rows`` × ``columns`` for every place in a tile, group after group of a bundle.

    Where phases have matrices of their own, those of a place lie beside each other, or ``below`` each other.
    """

    bundle: Bundle
    role: Role
    rows: Dim
    columns: int
    below: bool = False

    @property
    def size(self) -> Dim:
        return sum((self._size(group) for group in self.bundle.groups), start=0 * self.rows)

    @property
    def elements(self) -> int:
        """The size where rows are counted: those of weights, and of a whole block of tiles."""
        assert isinstance(self.size, int), "weights, and tiles of a block, are counted"
        return self.size

    def start(self, group: Group) -> Dim:
        """Where the matrices of a group begin."""
        before = self.bundle.groups[: self.bundle.groups.index(group)]
        return sum(map(self._size, before), start=0 * self.rows)

    def matrices(self, group: Group) -> int:
        """How many a place has."""
        return 1 if self.role == self.bundle.shared else len(group.phases)

    def width(self, group: Group) -> int:
        """Of the matrices of a place."""
        return self.columns if self.below else self.columns * self.matrices(group)

    def at(self, c: Convolution, i: int, j: int, row: Index, column: Index) -> Index:
        """The place of an element of the matrix for an element of a convolution's tiles."""
        first, second = c.pairs
        place = first.places[i], second.places[j]
        group = next(group for group in self.bundle.groups if place in group.places)
        count, which = self.matrices(group), 0
        if self.role != self.bundle.shared:
            which = group.phases.index(self.bundle.phases.index(c))
        each = self.columns * self.rows
        found = column + row * self.width(group) + self.start(group) + each * (count * group.places.index(place))
        return found + (each if self.below else self.columns) * which

    def prove(self, what: str, c: Convolution, row: Index, column: Index, size: Dim) -> None:
        """That all elements of the tiles of a convolution lie within memory of this size."""
        for i, j in combinations(*(range(len(pair.places)) for pair in c.pairs)):
            prove(what, self.at(c, i, j, row, column), size)

    def _size(self, group: Group) -> Dim:
        return self.rows * (self.columns * self.matrices(group) * len(group.places))


def bundles_of(convolutions: Sequence[Convolution]) -> list[Bundle]:
    """The phases of each result together, or those of a gradient of weights."""
    if convolutions[0].gives_taps:
        return [_bundle(convolutions, "other")]
    of_result: dict[tuple[Index, ...], list[Convolution]] = {}
    for c in convolutions:
        of_result.setdefault(c.out, []).append(c)
    return [_bundle(phases, "result") for phases in of_result.values()]


def _bundle(phases: Sequence[Convolution], shared: Shared) -> Bundle:
    pairs = list(zip(*(c.pairs for c in phases), strict=True))
    first, second = (max(pair.taps for pair in along) for along in pairs)

    def within(c: Convolution) -> Convolution:
        return replace(c, pairs=(replace(c.pairs[0], whole=first), replace(c.pairs[1], whole=second)))

    most = [
        Pair(along[0].position, Var(along[0].tap.name, n), n) for along, n in zip(pairs, (first, second), strict=True)
    ]
    return Bundle(tuple(map(within, phases)), shared, replace(phases[0], pairs=(most[0], most[1])))
