"""What an item's copies will read, fetched while the tiles of the item before are summed.

Copies of an item only move memory, and its tiles only multiply; one after the other they leave either the memory or the arithmetic
unused. So the innermost loops of tiles fetch lines of the next item, a few in every step, as many as make the whole item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.indexing import Var, c_size
from chainrule.engines.cpu.loops import Box, Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_plan import Plan
from chainrule.engines.cpu.tile_units import SECOND_CACHE, Units
from chainrule.ir.sizes import Dim, product

# Lines of an array in one step of a loop at most, and the share of one that is worth a step.
MOST_AHEAD, LEAST_SHARE = 16, 0.5
_BYTES = {C_TYPES[dtype]: bytes for dtype, bytes in BYTES.items()}


@dataclass(frozen=True, slots=True)
class Stream:
    """An array of which an item reads so many lines, and where those of the next item begin, as C."""

    start: str
    lines: int


def streams_of(copies: Sequence[Sequence[Box]], item: Var) -> list[Stream]:
    """What the copies of an item, each in boxes, read one after another, as far as the second cache has room for it."""
    found: dict[str, Stream] = {}
    for boxes in copies:
        volume: Dim = 0
        for box in boxes:
            volume = volume + product(var.extent for var in box.vars if var.extent is not None)
        for type, pointer, at in (load for box in boxes for load in box.loads()):
            step, bytes = at.coefficient(item), _BYTES.get(type.removeprefix("const "))
            if bytes is None or not isinstance(step, int) or not isinstance(volume, int) or not 0 < step <= volume:
                continue
            start = f"(const char *)({pointer} + {step} * ({item.name} + 1))"
            found.setdefault(start, Stream(start, -(-step * bytes // LINE_BYTES)))
    room = SECOND_CACHE // LINE_BYTES
    chosen = []
    for stream in found.values():
        room -= stream.lines
        if room >= 0:
            chosen.append(stream)
    return chosen


@dataclass(frozen=True, slots=True)
class Ahead:
    """How the tiles of a plan fetch streams: in the body of the loop of its sum of that ``depth`` (0 is before all loops) some
    ``lines`` of each, in ``steps`` such bodies of a tile; of one piece of several from the line ``first`` on."""

    streams: Sequence[Stream]
    first: Sequence[int]
    lines: Sequence[int]
    depth: int
    steps: int
    tiles_in_unit: int

    @classmethod
    def of(cls, streams: Sequence[Stream], plan: Plan, units: Units, before: float, share: float) -> Ahead | None:
        """For a plan that does a ``share`` of the work of an item, after ``before`` of it."""
        tiles, in_unit = units.known_tiles, units.tiles_in_one
        if not streams or not tiles or in_unit is None:
            return None
        most = max(stream.lines for stream in streams) * share
        depth, steps = 0, 1
        for number, var in enumerate(plan.summed):
            if not isinstance(var.extent, int) or not var.extent or most < LEAST_SHARE * tiles * steps * var.extent:
                break
            depth, steps = number + 1, steps * var.extent
        lines = [min(MOST_AHEAD, -(-int(stream.lines * share) // (tiles * steps)) or 1) for stream in streams]
        return cls(streams, [int(stream.lines * before) for stream in streams], lines, depth, steps, in_unit)

    def declare(self, w: Writer) -> None:
        """Before the units from ``low`` on."""
        starts = (f"{s.start} + {LINE_BYTES * n}" for s, n in zip(self.streams, self.first, strict=True))
        w.line(f"const char *const streams[] = {{{', '.join(starts)}}};")
        w.line(f"long done = low * {self.tiles_in_unit};")

    def begin(self, w: Writer) -> None:
        """At the beginning of a tile."""
        for number, lines in enumerate(self.lines):
            w.line(f"const char *s{number} = streams[{number}] + done * {c_size(LINE_BYTES * lines * self.steps)};")

    def fetch(self, w: Writer) -> None:
        for number, lines in enumerate(self.lines):
            for line in range(lines):
                w.line(f"CR_FETCH(s{number} + {LINE_BYTES * line});")
            w.line(f"s{number} += {LINE_BYTES * lines};")
