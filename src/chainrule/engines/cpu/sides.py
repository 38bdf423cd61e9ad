"""Sums computed along with a loop nest: every chunk adds to a partial sum of its own, and these are added up in order at the end.

Chunks depend on sizes alone, so the bits of a sum do not depend on the number of threads. A sum over everything is kept in lanes,
one for each element of a run of the innermost loop, so that adding stays an operation on vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.indexing import Index, Var, split
from chainrule.engines.cpu.loops import MOST_CHUNKS, Store, Writer
from chainrule.engines.cpu.scalars import C_TYPES
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import product

LANES = 64
LANE = Var("l", LANES)


@dataclass(frozen=True, slots=True)
class Side:
    """One sum over leading axes: its node, the pointer of its result, the number that makes names unique in a function, and the chunks
    that add to it at most."""

    node: Node
    pointer: str
    number: int
    most: int = MOST_CHUNKS

    @property
    def count(self) -> int:
        """How many results there are."""
        kept = product(self.node.output.shape)
        assert isinstance(kept, int), "only sums into a constant number of results run along with others"
        return kept

    @property
    def in_lanes(self) -> bool:
        return self.count == 1

    @property
    def width(self) -> int:
        """The elements of a partial sum."""
        return LANES if self.in_lanes else self.count

    @property
    def region(self) -> tuple[str, str, int]:
        """The name, element type and elements of the working memory for all partial sums."""
        return f"side_{self.number}", self.node.output.dtype, self.width * self.most

    def begin(self, w: Writer) -> None:
        """At the beginning of a chunk: its partial sum is 0."""
        type = C_TYPES[self.node.output.dtype]
        w.line(f"{type} *const own_{self.number} = side_{self.number} + chunk * {self.width};")
        w.line(f"for (long k = 0; k < {self.width}; k++) own_{self.number}[k] = 0;")

    def store(self, body: Body, out: Index, lane: Index) -> Store:
        """Adding the element whose number in the box is ``out``; ``lane`` tells neighbours in the innermost loop apart."""
        (x,) = self.node.inputs
        value = body.read(x, Position(x.shape, None, out))
        place = split(out, self.count)
        assert place is not None, "the loops of a nest keep the axes of its sums apart"
        return Store(f"own_{self.number}", lane if self.in_lanes else place[1], value, self.width, adds=True)

    def end(self, w: Writer, step: str = "1") -> None:
        """After all chunks: the partial sums, of every ``step``th chunk, added up in order."""
        name = f"side_{self.number}"
        increment = f"part += {step}" if step != "1" else "part++"
        with w.block(f"for (long part = {step}; part < chunks; {increment})"):
            w.line("CR_INDEPENDENT")
            w.line(f"for (long k = 0; k < {self.width}; k++) {name}[k] += {name}[part * {self.width} + k];")
        lanes = LANES // 2 if self.in_lanes else 0
        while lanes:
            w.line(f"for (long k = 0; k < {lanes}; k++) {name}[k] += {name}[k + {lanes}];")
            lanes //= 2
        w.line(f"for (long k = 0; k < {self.count}; k++) {self.pointer}[k] = {name}[k];")


def sides_of(nodes: Sequence[Node], name: Callable[[Value], str]) -> list[Side]:
    return [Side(node, name(node.output), number) for number, node in enumerate(nodes)]


def end_of(sides: Sequence[Side], ranges: str = "") -> str:
    """What runs after all chunks; it knows how many ``chunks`` there were. Where each of ``ranges`` was added up by several chunks, its
    first counts."""
    w = Writer()
    if ranges:
        w.line(f"const long shares = chunks / ({ranges});")
    for side in sides:
        side.end(w, "shares" if ranges else "1")
    return w.text if sides else ""
