"""Sections: nests in a row that go over the batch slab by slab, so that what one writes is still in the cache when the next reads it.

A nest keeps rows if it computes row b of what it writes from row b of what it reads and from what has no rows; sums over the rows,
such as the gradient of a bias or the mean of a batch, are added up by each slab for itself, and over the slabs at the end. Nests that
do neither, such as weight gradients, run between sections with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chainrule.engines.cpu.grouping import LARGEST_SIDE, Grouping
from chainrule.engines.cpu.loops import GRAIN
from chainrule.engines.cpu.memory import bytes_of
from chainrule.engines.cpu.nest import Nest, Section
from chainrule.engines.cpu.slabs import batch_axis, keeps_rows
from chainrule.engines.cpu.work import nodes_of_nest, operations_of
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Size, product


@dataclass(frozen=True, slots=True)
class Limits:
    """When nests run slab by slab.

    Attributes:
        operations_per_byte: Every slab reads what all rows share, such as weights: at least so many operations for every byte of it.
        most_rows: A slab has as few rows as that allows. A nest that would need more than so many joins no section.
        fewest_slabs: With fewer, too few threads would be busy: nests run with all rows, and each is divided among the threads.
        grain: A slab is at least so many operations.
        most_bytes: What the nests of a section read and write for one slab. More stays in no cache, and would only live longer.
        contracts: Maps and sums alone make no section.
    """

    operations_per_byte: int = 32
    most_rows: int = 8
    fewest_slabs: int = 8
    grain: int = GRAIN
    most_bytes: int = 4 << 20
    contracts: bool = True


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is known of a nest that keeps rows: those of a slab that make it worth while, and the values that are sums over rows."""

    rows: int
    totals: frozenset[Value]


def cut_into_sections(grouping: Grouping, alone: Callable[[Node], bool] = lambda node: False) -> None:
    """Bring the nests into an order in which those of each section follow each other, and note the sections. Nests of nodes that
    do for all rows what they would do for each slab run ``alone``."""
    kept = {
        nest: _kept(nest, grouping) if nest.node is None or not alone(nest.node) else None for nest in grouping.nests
    }
    cut = _Cut(grouping, kept)
    for nest in grouping.nests:
        cut.add(nest)
    cut.close()
    grouping.nests = cut.ordered
    grouping.sections = cut.sections
    for section in cut.sections:
        _find_private(section, grouping)


class _Cut:
    """Goes over nests in the order in which they could run, with one section open."""

    def __init__(self, grouping: Grouping, kept: dict[Nest, _Kept | None]) -> None:
        self.grouping, self.kept = grouping, kept
        self.ordered: list[Nest] = []
        self.sections: list[Section] = []
        self._open: list[Nest] = []
        self._deferred: list[Nest] = []
        # What the open section writes, and what is known only after it.
        self._made: set[Value] = set()
        self._late: set[Value] = set()
        self._bytes = 0
        self._seen: set[Value] = set()

    def add(self, nest: Nest) -> None:
        kept = self.kept[nest]
        if kept is None:
            if self._late.isdisjoint(nest.reads) and self._made.isdisjoint(nest.reads):
                self.ordered.append(nest)
            else:
                self._deferred.append(nest)
                self._late.update(nest.written)
            return
        if not self._late.isdisjoint(nest.reads) or self._bytes + self._growth(nest) > LIMITS.most_bytes:
            self.close()
        self._bytes += self._growth(nest)
        self._seen.update(nest.reads, nest.written)
        self._open.append(nest)
        self._made.update(set(nest.written) - kept.totals)
        self._late.update(kept.totals)

    def close(self) -> None:
        """End the open section, if it is one, and let what waited for it run."""
        kept = [found for nest in self._open if (found := self.kept[nest]) is not None]
        if len(self._open) > 1 and (not LIMITS.contracts or any(nest.kind == "contract" for nest in self._open)):
            rows = max(found.rows for found in kept)
            section = Section(self._open, rows, set().union(*(found.totals for found in kept)))
            for nest in self._open:
                for node in nodes_of_nest(nest, self.grouping):
                    section.operations = section.operations + operations_of(node)
            self.sections.append(section)
        self.ordered += [*self._open, *self._deferred]
        self._open, self._deferred = [], []
        self._made, self._late, self._seen, self._bytes = set(), set(), set(), 0

    def _growth(self, nest: Nest) -> int:
        """The bytes of a slab that come with a nest."""
        kept = self.kept[nest]
        rows = kept.rows if kept is not None else 0
        return rows * sum(_of_a_row(value) for value in {*nest.reads, *nest.written} - self._seen)


def _find_private(section: Section, grouping: Grouping) -> None:
    inside = set(section.nests)
    elsewhere = {value for nest in grouping.nests if nest not in inside for value in nest.reads}
    elsewhere.update(grouping.results)
    for nest in section.nests:
        section.private.update(value for value in nest.written if value not in elsewhere)
    section.private -= section.totals


def _kept(nest: Nest, grouping: Grouping) -> _Kept | None:
    """None where the nest looks at other rows, or where slabs of it would read too much that all rows share."""
    try:
        if not all(_rows_are_outermost(value) for value in (*nest.reads, *nest.written)):
            return None
        totals, rows = set(), 1
        for node in nodes_of_nest(nest, grouping):
            if _is_total(node) and node.output in nest.made:
                totals.add(node.output)
            elif node.primitive.name in ("scan", "fixed_point") or not keeps_rows(node):
                return None
            if node.primitive.name == "contract":
                rows = max(rows, _rows_worth_while(node))
        if any(batch_axis(value) is None and value not in totals for value in nest.written):
            return None
    except ValueError:
        return None
    return _Kept(rows, frozenset(totals)) if rows <= LIMITS.most_rows else None


def _rows_are_outermost(value: Value) -> bool:
    """Whether the value has no rows, or a pointer to one of them says where the rest begins."""
    axis = batch_axis(value)
    return axis is None or product(value.shape[:axis]) == 1


def _is_total(node: Node) -> bool:
    """Whether a node adds up rows, and not into too many numbers: every slab has a sum of its own."""
    if node.primitive.name != "reduce_sum":
        return False
    kept = product(node.output.shape)
    return batch_axis(node.inputs[0]) in node.attributes["axes"] and isinstance(kept, int) and kept <= LARGEST_SIDE


def _rows_worth_while(node: Node) -> int:
    """The rows that a slab needs for what it does with them to take longer than reading what all rows share."""
    shared = sum(_whole(value) for value in node.inputs if batch_axis(value) is None)
    each = _of_a_row_of(operations_of(node))
    return -(-shared * LIMITS.operations_per_byte // each) if each else LIMITS.most_rows + 1


def _whole(value: Value) -> int:
    size = bytes_of(value)
    assert isinstance(size, int), "it has no rows"
    return size


def _of_a_row(value: Value) -> int:
    return _of_a_row_of(bytes_of(value))


def _of_a_row_of(total: Dim) -> int:
    return total.coefficients[1] if isinstance(total, Size) else 0
