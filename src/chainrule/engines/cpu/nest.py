"""A loop nest as the lowering plans it, before it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chainrule.engines.cpu.scalars import EXPRESSIONS
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Shape

ELEMENTWISE = frozenset({*EXPRESSIONS, "cast", "stop_gradient"})


@dataclass(eq=False, slots=True)
class Nest:
    """One loop nest: a node that needs its own, or none, the maps and sums (``sides``) computed along with it, and the sums of
    operands that its node copies and computes on the way (``operand_sums``).

    A nest that runs row by row has ``members``, each as it would run alone, in the order in which a row meets them; ``outer`` is the
    box of the rows, and what is ``private`` is read by other members only.
    """

    kind: str
    node: Node | None
    roots: list[Value]
    order: int
    reads: dict[Value, bool] = field(default_factory=dict)
    keeps_result: bool = True
    sides: list[Node] = field(default_factory=list)
    operand_sums: list[Node] = field(default_factory=list)
    members: list[Nest] = field(default_factory=list)
    outer: Shape = ()
    private: set[Value] = field(default_factory=set)

    @property
    def written(self) -> list[Value]:
        if self.members:
            return [value for member in self.members for value in member.written if value not in self.private]
        made = list(self.node.outputs) if self.node is not None and self.keeps_result else []
        return [*made, *self.roots, *self.totals]

    @property
    def made(self) -> list[Value]:
        if self.members:
            return [value for member in self.members for value in member.made]
        return [*(self.node.outputs if self.node is not None else ()), *self.roots, *self.totals]

    @property
    def totals(self) -> list[Value]:
        """The results of the sums."""
        return [node.output for node in (*self.sides, *self.operand_sums)]

    @property
    def shape(self) -> Shape:
        if self.node is not None:
            return self.node.outputs[0].shape
        return self.roots[0].shape if self.roots else self.sides[0].inputs[0].shape

    @property
    def box(self) -> Shape:
        return tuple(size for size in self.shape if size != 1)


@dataclass(eq=False, slots=True)
class Section:
    """Nests that run slab by slab, each of ``rows`` rows at least; ``totals`` are sums over rows, and what is ``private`` only nests of
    the section read."""

    nests: list[Nest]
    rows: int
    totals: set[Value]
    private: set[Value] = field(default_factory=set)
    operations: Dim = 0


def ancestors(groups: Sequence[Nest], home: Mapping[Value, Nest]) -> dict[Nest, set[Nest]]:
    """For every group all groups that must run before it."""
    found: dict[Nest, set[Nest]] = {}

    def visit(group: Nest) -> set[Nest]:
        if group not in found:
            found[group] = set()
            for value in group.reads:
                source = home.get(value)
                if source is not None and source is not group:
                    found[group] |= {source} | visit(source)
        return found[group]

    for group in groups:
        visit(group)
    return found


def same_bytes(node: Node) -> bool:
    """Whether the result is the operand's bytes under another shape."""
    name = node.primitive.name
    if name in ("reshape", "stop_gradient"):
        return True
    if name not in (
        "cast",
        "broadcast",
        "transpose",
        "slice",
        "flip",
        "pad",
        "concatenate",
        "reduce_sum",
        "reduce_max",
    ):
        return False
    x, y = node.inputs[0], node.output
    if x.dtype != y.dtype or [d for d in x.shape if d != 1] != [d for d in y.shape if d != 1]:
        return False
    if name == "transpose":
        moved = [axis for axis in node.attributes["order"] if x.shape[axis] != 1]
        return moved == sorted(moved)
    if name == "flip":
        return all(x.shape[axis] == 1 for axis in node.attributes["axes"])
    if name == "concatenate":
        return len(node.inputs) == 1
    if name in ("reduce_sum", "reduce_max"):
        return all(x.shape[axis] == 1 for axis in node.attributes["axes"])
    return True
