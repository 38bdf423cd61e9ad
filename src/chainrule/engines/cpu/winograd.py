"""Convolutions with fewer multiplications: which contractions have short ones in them, and the algorithms for these.

A contraction in which one operand is read at p + k, another has k and the result has p, computes a short convolution for every
tile of m results and r taps. Winograd's algorithms do that with m + r - 1 multiplications instead of m·r:

    Σ_{p<m, k<r} x[p + k]·u[p]·w[k]  =  Σ_{a<m+r-1} (X x)[a] · (U u)[a] · (W w)[a]        for all x, u and w

Each of the three may be the result: with p in the result it is a convolution or its input gradient, with k in it a gradient of
weights. Along two axes the algorithms nest: 3×3 taps take 16 multiplications for 2×2 results instead of 36, and 2×2 taps, which is
what 4×4 taps with a stride of 2 are made of, 9 instead of 16.

Source: S. Winograd, "Arithmetic Complexity of Computations" (1980); A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural
Networks" (2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chainrule.core.dtypes import FLOAT32, FLOAT64
from chainrule.engines.cpu.indexing import Index, Var, linear, variable
from chainrule.engines.cpu.lattice import Piece
from chainrule.engines.cpu.scalars import BYTES
from chainrule.ir.graph import Node
from chainrule.ir.sizes import Shape, product

Matrix = tuple[tuple[float, ...], ...]

# Results of a tile along each axis. More would save more multiplications, and lose digits.
TILE = 2
# Positions along an axis, and channels on each side, at least: tiles of less are not worth their transforms.
FEWEST_POSITIONS, FEWEST_CHANNELS = 4, 16
# Items of a batch, if their number is known, which the threads divide.
FEWEST_ITEMS = 8


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The matrices X, U and W for :data:`TILE` positions and so many taps."""

    x: Matrix
    u: Matrix
    w: Matrix

    @property
    def size(self) -> int:
        """Multiplications, which are as many as elements of x."""
        return len(self.x)


ALGORITHMS: Mapping[int, Algorithm] = {
    2: Algorithm(
        x=((1, -1, 0), (0, 1, 0), (0, 1, -1)),
        u=((1, 0), (1, 1), (0, -1)),
        w=((1, 0), (1, 1), (0, 1)),
    ),
    3: Algorithm(
        x=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        u=((1, 0), (1, 1), (1, -1), (0, -1)),
        w=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    ),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """An axis along which an operand is read at ``position + tap``."""

    position: Var
    tap: Var

    @property
    def algorithm(self) -> Algorithm:
        assert isinstance(self.tap.extent, int), "taps are counted"
        return ALGORITHMS[self.tap.extent]

    @property
    def positions(self) -> int:
        assert isinstance(self.position.extent, int), "positions of a tile are counted"
        return self.position.extent

    @property
    def tiles(self) -> int:
        return -(-self.positions // TILE)


@dataclass(frozen=True, slots=True)
class Convolution:
    """A piece of a contraction as a short convolution along two axes.

    ``number`` is that of the operand read at ``position + tap``. ``gives_taps`` says that the result has the taps, as a gradient of
    weights has, and is summed over positions; otherwise it is the other way round. ``item`` is the index of the batch, ``vector``
    the one along which the result is contiguous, ``others`` are all that are left.
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
        return first.algorithm.size * second.algorithm.size

    @property
    def tiles(self) -> tuple[int, int]:
        first, second = self.pairs
        return first.tiles, second.tiles


def convolutions_of(
    node: Node, pieces: Sequence[Piece] | None, vector_bytes: int, *, contiguous: bool = True
) -> list[Convolution] | None:
    """The pieces as short convolutions, if all are, and have channels in whole vectors; ``contiguous`` asks for the operand in vectors
    to lie so."""
    if pieces is None or node.output.dtype not in (FLOAT32, FLOAT64) or node.inputs[0] is node.inputs[1]:
        return None
    if any(0 in value.shape for value in (*node.inputs, node.output)):
        return None
    lanes = vector_bytes // BYTES[node.output.dtype]
    found = [_convolution(node, piece, lanes, contiguous) for piece in pieces]
    known = [one for one in found if one is not None]
    return known if len(known) == len(pieces) and known else None


def _convolution(node: Node, piece: Piece, lanes: int, contiguous: bool) -> Convolution | None:
    if piece.is_zero or piece.guards:
        return None
    shapes = tuple(value.shape for value in node.inputs)
    for number in (0, 1):
        for gives_taps in (False, True):
            one = _with_pairs(piece, number, gives_taps)
            if one is None:
                continue
            found = _completed(node.output.shape, shapes, one, number, gives_taps, lanes, contiguous)
            if found is not None:
                return found
    return None


@dataclass(slots=True)
class _Split:
    """A piece on its way: its maps and indices, with taps counted from 0 in steps of the positions."""

    maps: dict[str, tuple[Index, ...]]
    kept: list[Var]
    summed: list[Var]
    pairs: list[Pair]

    def replaced(self, known: Mapping[Var, Index]) -> None:
        self.maps = {name: tuple(i.replace(known) for i in indices) for name, indices in self.maps.items()}


def _with_pairs(piece: Piece, number: int, gives_taps: bool) -> _Split | None:
    split = _Split({"out": piece.out, "a": piece.a, "b": piece.b}, list(piece.kept), list(piece.summed), [])
    name = "ab"[number]
    for axis in range(len(split.maps[name])):
        for position, tap in _candidates(split.maps[name][axis]):
            sides = (split.summed, split.kept) if gives_taps else (split.kept, split.summed)
            if position not in sides[0] or tap not in sides[1]:
                continue
            if _add_pair(split, name, axis, position, tap, sides[1]):
                break
    return split if len(split.pairs) == 2 else None


def _candidates(coordinate: Index) -> Iterator[tuple[Var, Var]]:
    if len(coordinate.terms) == 2:
        (first, _), (second, _) = coordinate.terms
        yield first, second
        yield second, first


def _add_pair(split: _Split, name: str, axis: int, position: Var, tap: Var, taps: list[Var]) -> bool:
    """Note a pair of indices as one; the tap is turned round, or split in strides, where it has to be."""
    if not isinstance(position.extent, int) or position.extent < FEWEST_POSITIONS or not isinstance(tap.extent, int):
        return False
    coordinate = split.maps[name][axis]
    step, each = coordinate.coefficient(position), coordinate.coefficient(tap)
    if not isinstance(step, int) or not isinstance(each, int) or step == 0 or each == 0 or step % each:
        return False
    stride = abs(step // each)
    if tap.extent % stride or tap.extent // stride not in ALGORITHMS:
        return False
    count = tap.extent // stride
    whole, rest = Var(f"{tap.name}_tap", count), Var(f"{tap.name}_rest", stride)
    forward = variable(whole) if step // each > 0 else Index(((whole, -1),), count - 1)
    split.replaced({tap: forward * stride + variable(rest)})
    taps.remove(tap)
    taps.append(whole)
    if stride > 1:
        taps.append(rest)
    split.pairs.append(Pair(position, whole))
    return True


def _completed(
    shape: Shape, shapes: tuple[Shape, ...], one: _Split, number: int, gives_taps: bool, lanes: int, contiguous: bool
) -> Convolution | None:
    operands = (one.maps["a"], one.maps["b"])
    own, other = operands[number], operands[1 - number]
    places = [linear(indices, size) for indices, size in zip(operands, shapes, strict=True)]
    out = linear(one.maps["out"], shape)
    first, second = one.pairs
    positions, taps = {first.position, second.position}, {first.tap, second.tap}
    of_other = {var for var, _ in places[1 - number].terms}
    if of_other & (taps if gives_taps else positions):
        return None
    items = [
        var for var in (one.summed if gives_taps else one.kept) if own[0] == variable(var) and var not in positions
    ]
    if len(items) != 1 or items[0].extent != shapes[number][0]:
        return None
    (item,) = items
    vectors = [var for var in one.kept if out.coefficient(var) == 1 and var not in positions | taps | {item}]
    if len(vectors) != 1:
        return None
    (vector,) = vectors
    others = tuple(var for var in (*one.kept, *one.summed) if var not in positions | taps | {item, vector})
    in_own, in_other = ({var for var, _ in place.terms} for place in (places[number], places[1 - number]))
    if gives_taps:
        if other[0] != variable(item) or item.extent != shapes[1 - number][0]:
            return None
        # Every index that is left belongs to one operand, and each operand is contiguous along one of its own.
        if any((var in in_own) == (var in in_other) for var in (*others, vector)):
            return None
        rows = places[1 - number] if vector in in_own else places[number]
        columns = places[number] if vector in in_own else places[1 - number]
    else:
        if item in in_other or vector in in_own or any(var not in in_own or var not in in_other for var in others):
            return None
        rows, columns = places[number], places[1 - number]
    if isinstance(item.extent, int) and item.extent < FEWEST_ITEMS:
        return None
    channels = product(var.extent for var in others if var.extent is not None)
    if not isinstance(channels, int) or channels < FEWEST_CHANNELS or not isinstance(vector.extent, int):
        return None
    if vector.extent < FEWEST_CHANNELS or not _in_vectors([vector], columns, lanes, contiguous or gives_taps):
        return None
    if not _in_vectors(others, rows, lanes, True):
        return None
    return Convolution(one.maps["out"], operands, number, (first, second), gives_taps, item, vector, others)


def _in_vectors(vars: Sequence[Var], place: Index, lanes: int, contiguous: bool) -> bool:
    """Whether one of the indices runs along memory and fills whole vectors."""
    return any(
        isinstance(var.extent, int)
        and var.extent % lanes == 0
        and (place.coefficient(var) == 1 or (not contiguous and place.coefficient(var) != 0))
        for var in vars
    )
