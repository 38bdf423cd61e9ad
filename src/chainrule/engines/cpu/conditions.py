"""Conditions that are kept instead of what they are made of.

Going back, a rectifier needs to know of its result only where it is 0. Where nothing else reads that result any more, one byte of each
element is written for it instead of reading four, and the result itself is free as soon as those who come before have read it: an
image that is pooled at once never leaves the cache.
"""

from __future__ import annotations

from itertools import accumulate

from chainrule.core.dtypes import BOOL
from chainrule.engines.cpu.grouping import WRITING, Grouping, made_of
from chainrule.engines.cpu.memory import bytes_of
from chainrule.engines.cpu.nest import ELEMENTWISE, Nest
from chainrule.engines.cpu.tile_shape import NOMINAL
from chainrule.engines.cpu.tile_units import SECOND_CACHE
from chainrule.engines.cpu.work import nodes_of_nest
from chainrule.ir.graph import Value
from chainrule.ir.sizes import at

# Bytes of an array, from which on it leaves the caches between two nests.
SMALLEST = SECOND_CACHE
_KINDS = ("map", "contract")


def keep_conditions(grouping: Grouping) -> None:
    """Let nests write conditions on what they write anyway for those that read nothing else of it, where these come last and what is
    in memory at once does not grow."""
    lives, conditions = _Lives(grouping), _conditions_of(grouping)
    for nest in [nest for nest in grouping.nests if nest.kind in _KINDS and not nest.members]:
        for value in [value for value in nest.roots if value in conditions and _may_go(value, grouping)]:
            for condition in conditions[value]:
                readers = lives.readers.get(value, [])
                late = [reader for reader in readers if _needs_only(reader, condition, value, grouping)]
                rest = [reader for reader in readers if reader not in late]
                if late and _is_worth(condition, value, late) and lives.shorten(value, condition, nest, rest, late):
                    _keep(condition, value, nest, readers, late, grouping)
                    break


class _Lives:
    """How many bytes are in memory while each nest runs, at a nominal batch size, and which nests read what."""

    def __init__(self, grouping: Grouping) -> None:
        self.order = {nest: number for number, nest in enumerate(grouping.nests)}
        self.readers: dict[Value, list[Nest]] = {}
        for nest in grouping.nests:
            for value in nest.reads:
                if value not in nest.made:
                    self.readers.setdefault(value, []).append(nest)
        # By how much they change with each nest.
        self.changes = [0] * (len(grouping.nests) + 1)
        private = set().union(*(section.private for section in grouping.sections), grouping.results)
        for nest in grouping.nests:
            for value in nest.written:
                if value not in private:
                    _add(self.changes, value, self.order[nest], self._last(nest, self.readers.get(value, [])), 1)

    def shorten(self, value: Value, condition: Value, nest: Nest, rest: list[Nest], late: list[Nest]) -> bool:
        """Let a value live until the last of ``rest``, and a condition on it until the last of ``late``; false, and nothing done,
        if that takes more memory, or if the value is still needed when the first of these runs."""
        first, end = self.order[nest], self._last(nest, rest)
        if end >= min(map(self.order.__getitem__, late)):
            return False
        after = list(self.changes)
        _add(after, value, end + 1, self._last(nest, self.readers[value]), -1)
        _add(after, condition, first, self._last(nest, late), 1)
        if max(accumulate(after)) > max(accumulate(self.changes)):
            return False
        self.changes = after
        self.readers[value], self.readers[condition] = rest, late
        return True

    def _last(self, nest: Nest, readers: list[Nest]) -> int:
        return max(map(self.order.__getitem__, (nest, *readers)))


def _add(changes: list[int], value: Value, first: int, last: int, times: int) -> None:
    """Let a value be there ``times`` more often from one nest to another."""
    bytes = times * at(bytes_of(value), NOMINAL)
    changes[first] += bytes
    changes[last + 1] -= bytes


def _may_go(value: Value, grouping: Grouping) -> bool:
    wanted = value in grouping.results or value in grouping.cuts
    return not wanted and at(bytes_of(value), NOMINAL) > SMALLEST


def _conditions_of(grouping: Grouping) -> dict[Value, list[Value]]:
    """Conditions on each element of a value in memory alone that have no memory themselves."""
    conditions: dict[Value, list[Value]] = {}
    for node in grouping.graph.nodes:
        if node.primitive.name not in ELEMENTWISE or node.output.dtype != BOOL or node.output in grouping.stored:
            continue
        for value in node.inputs:
            if value in grouping.stored and node.output.shape == value.shape:
                found = made_of(node.output, grouping, grouping.stored)
                if found is not None and found[0] == {value}:
                    conditions.setdefault(value, []).append(node.output)
    return conditions


def _needs_only(reader: Nest, condition: Value, value: Value, grouping: Grouping) -> bool:
    """Whether a nest reads a value for a condition on it, and for nothing else."""
    if reader.kind not in _KINDS or reader.members:
        return False
    grouping.stored.add(condition)
    needs_more = _reads(reader, value, grouping)
    grouping.stored.remove(condition)
    return not needs_more


def _reads(nest: Nest, value: Value, grouping: Grouping) -> bool:
    nodes = nodes_of_nest(nest, grouping)
    return any(grouping.canonical(operand) is value for node in nodes for operand in node.inputs)


def _is_worth(condition: Value, value: Value, late: list[Nest]) -> bool:
    """Whether writing a condition and reading it moves less than reading the value."""
    once, instead = at(bytes_of(condition), NOMINAL), at(bytes_of(value), NOMINAL)
    return (WRITING + len(late)) * once < len(late) * instead


def _keep(
    condition: Value, value: Value, nest: Nest, readers: list[Nest], late: list[Nest], grouping: Grouping
) -> None:
    """Let ``nest`` write a condition, and those of the ``readers`` of the value read it that need it; the late ones need no more."""
    grouping.stored.add(condition)
    nest.roots.append(condition)
    for reader in readers:
        if _reads(reader, condition, grouping):
            reader.reads[condition] = reader.reads[value]
        if reader in late:
            del reader.reads[value]
    for section in grouping.sections:
        if nest in section.nests:
            outside = [other for other in grouping.nests if other not in section.nests]
            if not any(value in other.reads for other in outside):
                section.private.add(value)
