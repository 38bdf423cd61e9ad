"""Nests that run row by row: reductions over trailing axes, and the maps before and after them, for one row after another.

    softmax:  m = max_j x[i, j];  e[j] = exp(x[i, j] - m);  s = Σ_j e[j];  y[i, j] = e[j] / s

Everything that one row needs stays in the first cache: what only later stages of the same row read is kept in a buffer of the size
of a row, or in a variable, and has no memory. Sums over the rows (the gradient of a scale, a loss) are added up along the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chainrule.engines.cpu.nest import ELEMENTWISE, Nest, ancestors, same_bytes
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Shape, Size, product

if TYPE_CHECKING:
    from chainrule.engines.cpu.grouping import Grouping

# A row of more elements than this would not stay in a first cache.
_LONGEST_ROW = 8192
_REDUCTIONS = frozenset({"reduce_sum", "reduce_max"})


def join_rows(groups: Sequence[Nest], grouping: Grouping) -> list[Nest]:
    """The nests with every reduction over rows joined by the nests that it can share its rows with."""
    joined = list(groups)
    for seed in groups:
        rows = _Rows.of(seed, grouping)
        if rows is None or seed not in joined:
            continue
        members = rows.grow(seed, joined)
        if len(members) > 1:
            nest = rows.nest(members, joined)
            joined = [group for group in joined if group not in members]
            joined.append(nest)
    return joined


class _Rows:
    """Rows of ``length`` elements, one for every point of the box ``outer``."""

    def __init__(self, outer: Shape, length: int, grouping: Grouping) -> None:
        self.outer, self.length, self.grouping = outer, length, grouping
        self.local: dict[Nest, dict[Value, bool]] = {}

    @classmethod
    def of(cls, nest: Nest, grouping: Grouping) -> _Rows | None:
        """The rows of a reduction over trailing axes; None for any other nest."""
        if nest.kind not in _REDUCTIONS or nest.node is None:
            return None
        (x,), axes = nest.node.inputs, nest.node.attributes["axes"]
        kept = [axis not in axes for axis, size in enumerate(x.shape) if size != 1]
        length = product(size for axis, size in enumerate(x.shape) if axis in axes)
        if kept != sorted(kept, reverse=True) or not any(kept) or isinstance(length, Size):
            return None
        return cls(nest.box, length, grouping) if 1 < length <= _LONGEST_ROW and 0 not in x.shape else None

    def starts(self, shape: Shape) -> bool:
        """Whether an array has an element or a part for every row, in their order."""
        return box_of_shape(shape)[: len(self.outer)] == self.outer

    def fits(self, nest: Nest) -> bool:
        """Whether a nest computes something for every row or for every element of the rows."""
        if nest.kind == "map":
            if not self.starts(nest.shape):
                return False
            return product(nest.box[len(self.outer) :]) in (1, self.length)
        other = _Rows.of(nest, self.grouping)
        return other is not None and (other.outer, other.length) == (self.outer, self.length)

    def grow(self, seed: Nest, groups: Sequence[Nest]) -> list[Nest]:
        home = {value: group for group in groups for value in group.made}
        above = ancestors(groups, home)
        members = [seed]
        candidates = [group for group in groups if group is not seed and self.fits(group)]
        changed = True
        while changed:
            changed = False
            for group in candidates:
                if group not in members and self._may_join(group, members, above):
                    members.append(group)
                    changed = True
        return members

    def _may_join(self, group: Nest, members: Sequence[Nest], above: Mapping[Nest, set[Nest]]) -> bool:
        connected = False
        for member in members:
            for reader, maker in ((group, member), (member, group)):
                for value in maker.made:
                    is_local = self.reads(reader).get(value)
                    # A sum over the rows is known after the last of them, even where it has as many elements as there are rows.
                    if is_local is False or (is_local and value in maker.totals):
                        return False
                    connected = connected or is_local is True
            shared = self.reads(group).keys() & self.reads(member).keys()
            connected = connected or any(len(box_of_shape(v.shape)) > len(self.outer) for v in shared)
        if not connected:
            return False
        inside = {*members, group}
        before = set().union(*(above[nest] for nest in inside)) - inside
        return not any(above[other] & inside for other in before)

    def reads(self, nest: Nest) -> dict[Value, bool]:
        """What a nest reads from memory, and whether only ever from the row that it works on."""
        if nest not in self.local:
            self.local[nest] = {}
            for value in nest.made:
                maker = self.grouping.makers[value]
                for operand in maker.inputs:
                    # A reduction, or a sum along the way, reads its operand row by row.
                    self._visit(operand, maker.primitive.name in _REDUCTIONS or self._keeps(maker, operand), nest)
        return self.local[nest]

    def _visit(self, value: Value, is_local: bool, nest: Nest) -> None:
        found = self.local[nest]
        is_local = is_local and self.starts(value.shape)
        source = self.grouping.canonical(value)
        if source in self.grouping.stored:
            found[source] = found.get(source, True) and is_local
        elif value in self.grouping.makers:
            maker = self.grouping.makers[value]
            for operand in maker.inputs:
                self._visit(operand, is_local and self._keeps(maker, operand), nest)

    def _keeps(self, node: Node, operand: Value) -> bool:
        """Whether an element in some row needs elements of an operand from the same row only."""
        name, attributes, out = node.primitive.name, node.attributes, node.output.shape
        if name in ELEMENTWISE or same_bytes(node):
            return True
        if not self.starts(operand.shape) or not self.starts(out):
            return False
        leading = _axes_of(out, len(self.outer))
        match name:
            case "reshape":
                return True
            case "broadcast":
                axes = attributes["axes"]
                own = [axes[axis] for axis, size in enumerate(operand.shape) if size != 1]
                return own[: len(self.outer)] == [axis for axis in range(leading) if out[axis] != 1]
            case "transpose":
                return list(attributes["order"][:leading]) == list(range(leading))
            case "slice":
                return not any(attributes["starts"][:leading])
            case "pad":
                return not any(attributes["low"][:leading])
            case "flip":
                return not any(axis < leading and out[axis] != 1 for axis in attributes["axes"])
            case "concatenate":
                return int(attributes["axis"]) >= leading
            case "gather":
                if operand is node.inputs[0]:
                    return int(attributes["batch"]) >= leading and operand is not node.inputs[1]
                return len(operand.shape) >= leading
        return False

    def nest(self, members: Sequence[Nest], groups: Sequence[Nest]) -> Nest:
        """One nest of several, which forgets what no other nest reads."""
        made = {value for member in members for value in member.made}
        needed = {value for group in groups if group not in members for value in group.reads}
        needed.update(self.grouping.results)
        rows = Nest("rows", None, [], max(member.order for member in members))
        rows.members, rows.outer = self._in_order(members), self.outer
        for member in members:
            for value, same in member.reads.items():
                if value not in made:
                    rows.reads[value] = rows.reads.get(value, True) and same
        rows.private = {value for value in made if value not in needed}
        self.grouping.stored -= rows.private
        return rows

    def _in_order(self, members: Sequence[Nest]) -> list[Nest]:
        home = {value: member for member in members for value in member.made}
        above = ancestors(members, home)
        return sorted(members, key=lambda member: (len(above[member]), member.order))


def box_of_shape(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _axes_of(shape: Shape, count: int) -> int:
    """How many leading axes have so many sizes other than 1 among them."""
    axes = [axis for axis, size in enumerate(shape) if size != 1]
    return axes[count - 1] + 1
