"""Where a loop is better written as several: between the places at which guards change.

A sum of padded arrays, such as the cotangent of what was cut into gates, and a concatenation have other terms in each part of an
axis. In a loop over the whole axis every element would be computed from all terms, with guards; in a loop over each part the guards
are known.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.indexing import Var
from chainrule.ir.sizes import Size, product

_MOST_PIECES = 8
# A piece of fewer elements than this is too short for vectors.
_SHORT = 16


def pieces_of(vars: Sequence[Var], body: Body) -> tuple[int, list[int]] | None:
    """A loop variable, by its number, and the ends of the pieces to cut it into; None where there is nothing to gain.

    The outermost variable stays whole, because chunks are ranges of it.
    """
    for number in range(len(vars) - 1, 0, -1):
        ends = _ends(vars[number], body)
        inner = product(var.extent for var in vars[number + 1 :] if var.extent is not None)
        first = vars[0].extent
        if not 3 <= len(ends) <= _MOST_PIECES + 1 or isinstance(inner, Size) or first is None:
            continue
        long = all((high - low) * inner >= _SHORT for low, high in zip(ends, ends[1:]))
        if long and (isinstance(first, Size) or first >= _SHORT):
            return number, ends
    return None


def _ends(var: Var, body: Body) -> list[int]:
    """The ends of the loop, and between them the places where what a guard says begins or stops to hold."""
    if not isinstance(var.extent, int):
        return []
    found = {0, var.extent}
    for index, size in {fact for facts in body.facts.values() for fact in facts}:
        if len(index.terms) != 1 or not isinstance(index.offset, int) or not isinstance(size, int):
            continue
        ((other, factor),) = index.terms
        if other == var and factor == 1:
            found.update((-index.offset, size - index.offset))
        elif other == var and factor == -1:
            found.update((index.offset - size + 1, index.offset + 1))
    return sorted(end for end in found if 0 <= end <= var.extent)
