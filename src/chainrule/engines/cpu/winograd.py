"""Convolutions with fewer multiplications: which contractions have short ones in them.

A contraction in which one operand is read at p + k, another has k and the result has p, computes a short convolution for every
tile of results and all taps (``winograd_algorithms.py``). Along two axes the algorithms nest: 3×3 taps take 16 multiplications for
2×2 results instead of 36.

With a stride, taps are several short convolutions, one for each residue, of as many taps or of one less: 4×4 taps with a stride of 2
are four times 2×2 taps, 3×3 are 2×2, 2×1, 1×2 and 1×1. A convolution and its gradient of weights have them all in one result, or
one operand; the gradient of its input has results for each residue of the positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.core.dtypes import FLOAT32, FLOAT64
from chainrule.engines.cpu.indexing import Index, Var, linear, variable
from chainrule.engines.cpu.lattice import Piece
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.winograd_algorithms import ALGORITHMS
from chainrule.engines.cpu.winograd_bundles import Bundle, Convolution, Pair, bundles_of, count_of
from chainrule.ir.graph import Node
from chainrule.ir.sizes import product

# Positions along an axis, and channels on each side, at least: tiles of less are not worth their transforms.
FEWEST_POSITIONS, FEWEST_CHANNELS = 4, 16
# Items of a batch, if their number is known, which the threads divide.
FEWEST_ITEMS = 8
# The share of the multiplications of what is transformed together that is left, at most: more are not worth it, as those that are
# left for an input gradient's residues of 2 × 1 taps, and of a single one.
MOST_LEFT = 0.7


def bundles_in(
    node: Node, pieces: Sequence[Piece] | None, vector_bytes: int, *, contiguous: bool = True
) -> list[Bundle] | None:
    """The pieces as short convolutions, if all are, have channels in whole vectors, and all save enough multiplications; ``contiguous``
    asks for the operand in vectors to lie so."""
    if not pieces or node.output.dtype not in (FLOAT32, FLOAT64) or node.inputs[0] is node.inputs[1]:
        return None
    if any(0 in value.shape for value in (*node.inputs, node.output)):
        return None
    if any(piece.is_zero or piece.guards for piece in pieces):
        return None
    lanes = vector_bytes // BYTES[node.output.dtype]
    for number in (0, 1):
        for gives_taps in (False, True):
            found = _convolutions(node, pieces, number, gives_taps, lanes, contiguous)
            if found is not None:
                bundles = bundles_of(found)
                return bundles if all(b.multiplications <= MOST_LEFT * b.direct for b in bundles) else None
    return None


def _convolutions(
    node: Node, pieces: Sequence[Piece], number: int, gives_taps: bool, lanes: int, contiguous: bool
) -> list[Convolution] | None:
    """All phases of all pieces."""
    if gives_taps and len(pieces) > 1:
        return None
    rank = range(len(node.inputs[number].shape))
    axes = [k for k in rank if any(_axis(piece, number, gives_taps, k) is not None for piece in pieces)]
    if len(axes) != 2:
        return None
    found = []
    for piece in pieces:
        along = [_axis(piece, number, gives_taps, k) or _axis_without_taps(piece, number, gives_taps, k) for k in axes]
        known = [axis for axis in along if axis is not None]
        if len(known) < 2:
            return None
        phases = list(itertools.product(*(range(axis.phases) for axis in known)))
        for rests in phases:
            split = _split(piece, known, rests)
            one = _completed(node, split, number, gives_taps, lanes, contiguous, len(phases))
            if one is None:
                return None
            found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class _Axis:
    """One along which the image is read at ``position + tap / stride``, or at ``position - tap / stride`` if it is ``backwards``."""

    position: Var
    tap: Var
    stride: int
    backwards: bool

    @property
    def phases(self) -> int:
        return min(self.stride, count_of(self.tap))

    def taps(self, rest: int) -> int:
        """Of a phase."""
        return -(-(count_of(self.tap) - rest) // self.stride)


def _axis(piece: Piece, number: int, gives_taps: bool, axis: int) -> _Axis | None:
    coordinate = (piece.a, piece.b)[number][axis]
    if len(coordinate.terms) != 2:
        return None
    for (position, step), (tap, each) in itertools.permutations(coordinate.terms):
        if not _has_positions(piece, position, gives_taps) or tap not in (piece.kept if gives_taps else piece.summed):
            continue
        if not isinstance(tap.extent, int) or not isinstance(step, int) or not isinstance(each, int) or step % each:
            continue
        found = _Axis(position, tap, abs(step // each), step // each < 0)
        if found.taps(0) > 1 and found.taps(0) in ALGORITHMS:
            return found
    return None


def _axis_without_taps(piece: Piece, number: int, gives_taps: bool, axis: int) -> _Axis | None:
    """One along which other pieces have taps, and this one a single tap."""
    coordinate = (piece.a, piece.b)[number][axis]
    if len(coordinate.terms) != 1 or not _has_positions(piece, coordinate.terms[0][0], gives_taps):
        return None
    return _Axis(coordinate.terms[0][0], Var(f"along_{axis}", 1), 1, False)


def _has_positions(piece: Piece, var: Var, gives_taps: bool) -> bool:
    among = piece.summed if gives_taps else piece.kept
    return var in among and isinstance(var.extent, int) and var.extent >= FEWEST_POSITIONS


@dataclass(slots=True)
class _Split:
    """A phase on its way: its maps and indices, with taps counted from 0 in steps of the positions."""

    maps: dict[str, tuple[Index, ...]]
    kept: list[Var]
    summed: list[Var]
    pairs: list[Pair]


def _split(piece: Piece, axes: Sequence[_Axis], rests: Sequence[int]) -> _Split:
    pairs, known = [], {}
    for axis, rest in zip(axes, rests, strict=True):
        taps = axis.taps(rest)
        tap = Var(f"{axis.tap.name}_tap", taps)
        forward = Index() - variable(tap) + (taps - 1) if axis.backwards else variable(tap)
        known[axis.tap] = forward * axis.stride + rest
        pairs.append(Pair(axis.position, tap, taps))
    maps = {
        name: tuple(index.replace(known) for index in indices)
        for name, indices in (("out", piece.out), ("a", piece.a), ("b", piece.b))
    }
    kept, summed = ([var for var in vars if var not in known] for vars in (piece.kept, piece.summed))
    return _Split(maps, kept, summed, pairs)


def _completed(
    node: Node, one: _Split, number: int, gives_taps: bool, lanes: int, contiguous: bool, phases: int
) -> Convolution | None:
    """One of so many ``phases``."""
    shape, shapes = node.output.shape, [value.shape for value in node.inputs]
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
    # Others are channels: those of results are summed over. Groups are kept, and what nothing keeps is no channel of weights.
    if any(var in (one.summed if gives_taps else one.kept) for var in others):
        return None
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
        # Copies with borders are those of items.
        if not all(index.within(size) for index, size in zip(other, shapes[1 - number], strict=True)):
            return None
        rows, columns = places[number], places[1 - number]
    if isinstance(item.extent, int) and item.extent < FEWEST_ITEMS:
        return None
    channels = product(var.extent for var in others if var.extent is not None)
    if not isinstance(channels, int) or channels * phases < FEWEST_CHANNELS or not isinstance(vector.extent, int):
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
