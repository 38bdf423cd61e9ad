"""Random words in runs: a block of the counter gives two neighbouring words, so a loop over neighbours needs half as many blocks.

A statement that draws the word at a place of its own, one after another in the innermost loop, is replaced by reading a short run of
words that is drawn before: it stays in the first cache, and the bits are those of drawing them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chainrule.engines.cpu.body import Statement
from chainrule.engines.cpu.indexing import Index, Var
from chainrule.engines.cpu.loops import Box, Writer
from chainrule.engines.cpu.sides import LANE, LANES

_DRAW = "cr_random_word("


@dataclass(frozen=True, slots=True)
class Draw:
    """The words of one statement: ``name``, drawn with ``keys`` (C text) at ``place`` and what is added to it (``first``, C text), from
    ``stream`` (C text)."""

    name: str
    keys: str
    place: Index
    first: str
    stream: str

    def write(self, w: Writer, known: Mapping[Var, Index], count: str) -> None:
        """The words of a run of so many lanes."""
        place = self.place.replace(known).replace({LANE: Index()})
        w.line(f"uint32_t drawn_{self.name}[{LANES + 2}];")
        w.line(
            f"const uint32_t *const words_{self.name} = "
            f"cr_random_words({self.keys}, (uint64_t)({place}{self.first}), {self.stream}, {count}, drawn_{self.name});"
        )


def draws_of(box: Box, var: Var) -> list[Draw]:
    """The statements that draw neighbouring words in the loop over ``var``, with everything else the same in all of its turns."""
    changing = {statement.name for statement in box.split(var)[1].statements}
    found = []
    for statement in box.statements:
        if not statement.parts or not isinstance(statement.parts[0], str) or not statement.parts[0].startswith(_DRAW):
            continue
        head, place, tail = statement.parts
        assert isinstance(head, str) and isinstance(place, Index) and isinstance(tail, str), "a draw has one place"
        keys = head.removeprefix(_DRAW).removesuffix(", (uint64_t)(")
        first, stream = tail.removesuffix(")").split("), ")
        fixed = not changing.intersection((*keys.split(", "), stream))
        if fixed and place.coefficient(var) == 1 and not any(v.name in changing for v, _ in place.terms):
            found.append(Draw(statement.name, keys, place, first, stream))
    return found


def with_draws(box: Box, draws: Sequence[Draw]) -> Box:
    """The box reading words that are drawn before."""
    names = {draw.name for draw in draws}
    lane = Index(((LANE, 1),))
    statements = [
        Statement(s.type, s.name, (f"words_{s.name}[", lane, "]")) if s.name in names else s for s in box.statements
    ]
    return Box(box.vars, statements, box.stores)
