"""What the next step of a loop reads and writes, fetched while the products of this one are summed.

A slab of a loop goes through all steps on one thread. In each it reads rows of arrays that have one part for every step, and writes
rows of such; a few rows lie in one place, and those of the next step far away, where processors do not foresee them. So the tiles
of products in the body fetch them, a line now and then.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.memory import bytes_of
from chainrule.engines.cpu.slabs import SLAB, runs_at_once, slabs_of
from chainrule.engines.cpu.tile_units import SECOND_CACHE
from chainrule.ir.graph import Graph, Node
from chainrule.ir.sizes import at

# Arrays at most of which a loop fetches the next step, and the steps of a product's sum for each line.
MOST_RANGES, STEPS_A_LINE = 32, 4

AHEAD_TEXT = f"""
/* Ranges of memory that the next step of a loop reads, and from number `written` on writes. */
struct ahead {{
    long range, ranges, written, done;
    const char *start[{MOST_RANGES}];
    long bytes[{MOST_RANGES}];
}};
static inline __attribute__((unused)) void cr_fetch_ahead(struct ahead *ahead) {{
    const long range = ahead->range, done = ahead->done;
    if (range == ahead->ranges) return;
    if (range < ahead->written)
        CR_FETCH(ahead->start[range] + done);
    else
        CR_FETCH_TO_WRITE(ahead->start[range] + done);
    const _Bool is_last = done + {LINE_BYTES} >= ahead->bytes[range];
    ahead->range = range + is_last;
    ahead->done = is_last ? 0 : done + {LINE_BYTES};
}}
"""


def looks_ahead(scan: Node) -> bool:
    """Whether a loop runs in slabs, step by step, and the second cache has room for what a slab reads and writes in a step."""
    body: Graph = scan.attributes["body"]
    before, carries = scan.attributes["consts"] + scan.attributes["carries"], scan.attributes["carries"]
    stacked = (*body.inputs[before:], *body.outputs[carries:])
    small = sum(at(bytes_of(value), SLAB) for value in stacked) <= SECOND_CACHE // 2
    return slabs_of(scan) != "1" and not runs_at_once(scan) and small


def say_what_is_next(w: Writer, last: int, read: Sequence[tuple[str, str]], written: Sequence[tuple[str, str]]) -> None:
    """In a step of a loop that is not the ``last``: where the next one reads and writes, and how many bytes.

    A single slab is left out: its products may be divided among threads.
    """
    ranges = [*read, *written][:MOST_RANGES]
    w.line("struct ahead ahead;")
    w.line("ahead.range = ahead.done = 0;")
    w.line(f"ahead.ranges = slabs > 1 && step < {last} ? {len(ranges)} : 0;")
    w.line(f"ahead.written = {len(read)};")
    for k, (start, bytes) in enumerate(ranges):
        w.line(f"ahead.start[{k}] = {start}, ahead.bytes[{k}] = {bytes};")
