"""Contractions that run item by item: operands are copied for one item of the batch at a time, and used while still in cache."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.engines.cpu.indexing import Var, linear, variable
from chainrule.engines.cpu.lattice import Piece
from chainrule.engines.cpu.tile_plan import Border, Way, border_of, no_border, ways
from chainrule.ir.graph import Node
from chainrule.ir.sizes import Size, product

# Steps of the sum within an item at least, where it is one over items.
FEWEST_IN_ITEM = 16
# More results than this for each of those steps are better summed over several items before they go back to memory, unless there are
# more steps than so many.
MOST_RESULTS, MANY_STEPS = 2048, 64
# Fewer items than this cannot be divided well among threads.
FEWEST_ITEMS = 8


def items_of(node: Node, pieces: Sequence[Piece], way: Way, borders: Sequence[Border | None]) -> list[Var]:
    """The batch indices over the items of which operands are copied; empty if none are."""
    summing = [piece for piece in pieces if not piece.is_zero]
    for number, border in enumerate(borders):
        if border is not None:
            found = _batch_index(node, pieces, way, number, border)
            if found is not None and _other_is_small(node, summing, way, 1 - number, found):
                return [found]
    if any(border is not None for border in borders) or len(summing) > 1:
        return []
    (piece,) = summing
    places = [linear(i, v.shape) for i, v in zip((piece.a, piece.b), node.inputs, strict=True)]
    for place in places:
        if not way.along_sum and place.coefficient(way.vector) not in (0, 1):
            items = [var for var in piece.kept if place.coefficient(var) != 0 and var != way.vector]
            count = product(var.extent for var in items if var.extent is not None)
            own = product(var.extent for var, _ in place.terms if var not in items and var.extent is not None)
            if items and not isinstance(own, Size) and (isinstance(count, Size) or count >= FEWEST_ITEMS):
                return items
    return []


def _other_is_small(node: Node, summing: Sequence[Piece], way: Way, number: int, item: Var) -> bool:
    """Whether what an item reads of the other operand has a constant size, if that has to be copied for its strides."""
    for piece in summing:
        place = linear((piece.a, piece.b)[number], node.inputs[number].shape)
        own = product(var.extent for var, _ in place.terms if var != item and var.extent is not None)
        if not way.along_sum and place.coefficient(way.vector) not in (0, 1) and isinstance(own, Size):
            return False
    return True


def _batch_index(node: Node, pieces: Sequence[Piece], way: Way, number: int, border: Border) -> Var | None:
    value = node.inputs[number]
    summing = [piece for piece in pieces if not piece.is_zero]
    first = [(piece.a, piece.b)[number][0] for piece in summing]
    few = isinstance(value.shape[0], int) and value.shape[0] < FEWEST_ITEMS
    if few or border[0][0] != 0 or border[1][0] != 0 or len(first[0].terms) != 1:
        return None
    item, factor = first[0].terms[0]
    if factor != 1 or any(place != variable(item) for place in first) or item.extent != value.shape[0]:
        return None
    if item == way.vector or isinstance(product(value.shape[1:]), Size):
        return None
    if all(item in piece.kept for piece in summing):
        return item
    steps = product(var.extent for var in pieces[0].summed if var != item and var.extent is not None)
    long_sum = isinstance(steps, Size) or steps >= FEWEST_IN_ITEM
    results = product(node.output.shape)
    if not long_sum or len(pieces) > 1 or isinstance(results, Size) or item not in pieces[0].summed:
        return None
    # Every item takes all results from memory and back; for few steps of the sum that would take longer than these.
    if isinstance(steps, Size) or steps > MANY_STEPS or results < MOST_RESULTS * steps:
        return item
    return None


def is_per_item(node: Node, pieces: Sequence[Piece], items: Sequence[Var], number: int, border: Border) -> bool:
    """Whether the copy of an operand is made item by item."""
    value = node.inputs[number]
    if (
        len(items) != 1
        or not value.shape
        or isinstance(product(value.shape[1:]), Size)
        or border[0][0] != 0
        or border[1][0] != 0
    ):
        return False
    places = [(piece.a, piece.b)[number][0] for piece in pieces if not piece.is_zero]
    return all(place == variable(items[0]) for place in places) and items[0].extent == value.shape[0]


def adds_up_items(pieces: Sequence[Piece], number: int) -> bool:
    """Whether a contraction sums over the items of an operand, so that the copy of an item may add up what is summed of the operand."""
    first = (pieces[0].a, pieces[0].b)[number][0]
    return len(pieces) == 1 and any(var in pieces[0].summed for var, _ in first.terms)


def computed_by_item(node: Node, pieces: Sequence[Piece], vector_bytes: int) -> frozenset[int]:
    """The numbers of the operands that may be computed where they are copied, instead of being read from memory: those of a
    contraction that copies an operand item by item anyway."""
    found: set[int] = set()
    summing = [piece for piece in pieces if not piece.is_zero]
    places = [[piece.a for piece in summing], [piece.b for piece in summing]]
    for way in ways(node, pieces, vector_bytes):
        borders = [border_of(value, some, way) for value, some in zip(node.inputs, places, strict=True)]
        if not any(border is not None for border in borders):
            continue
        items = items_of(node, pieces, way, borders)
        found.update(
            number
            for number, (value, border) in enumerate(zip(node.inputs, borders, strict=True))
            if is_per_item(node, pieces, items, number, border or no_border(value))
        )
    return frozenset(found)
