"""Maps that are computed again where they are read, instead of being written and read.

The nest that makes an array may leave it to a later one which reads all that the array is made of in any case: a backward pass
that reads ``x`` for the derivative of a GELU can compute ``1 + erf(x/√2)`` itself. That costs arithmetic on what is in registers
already, and saves a pass that writes and one that reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.engines.cpu.grouping import ADDITIONS_A_PASS, WRITING, Grouping, made_of
from chainrule.engines.cpu.memory import bytes_of
from chainrule.engines.cpu.nest import Nest
from chainrule.engines.cpu.tile_shape import NOMINAL
from chainrule.engines.cpu.tile_units import SECOND_CACHE
from chainrule.ir.graph import Value
from chainrule.ir.sizes import at

# Bytes of an array, from which on it leaves the caches between two nests.
SMALLEST = SECOND_CACHE
_KINDS = ("map", "contract")


def recompute(grouping: Grouping) -> None:
    """Take what is cheaper to compute again out of memory.

    That is left alone which is small, or which only the nests of one section read: it is still in the cache then. A nest keeps the last
    of what it writes.
    """
    private = set().union(*(section.private for section in grouping.sections))
    readers: dict[Value, list[Nest]] = {}
    for nest in grouping.nests:
        for value in nest.reads:
            if value not in nest.made:
                readers.setdefault(value, []).append(nest)
    for nest in grouping.nests:
        if nest.kind not in _KINDS:
            continue
        for value in [value for value in nest.roots if value not in private and _may_go(value, grouping)]:
            if nest.written != [value] and _is_cheap(value, readers.get(value, []), grouping):
                grouping.stored.remove(value)
                nest.roots.remove(value)
                for reader in (nest, *readers[value]):
                    reader.reads.pop(value, None)


def _may_go(value: Value, grouping: Grouping) -> bool:
    wanted = value in grouping.results or value in grouping.cuts
    return not wanted and at(bytes_of(value), NOMINAL) > SMALLEST


def _is_cheap(value: Value, readers: Sequence[Nest], grouping: Grouping) -> bool:
    """Whether all that reads a value, element by element, reads what it is made of as well, and computing it takes less time than
    writing and reading it."""
    found = made_of(value, grouping, grouping.stored)
    if found is None:
        return False
    sources, cost = found
    can = all(nest.kind in _KINDS and nest.reads[value] and nest.reads.keys() >= sources for nest in readers)
    return can and len(readers) * cost < (WRITING + len(readers)) * ADDITIONS_A_PASS
