"""Sections as C: a function of a slab's number that calls the nests with the rows of the slab in place of the batch.

Pointers lead to the first row of the slab, or into memory of the thread that runs it. Sums over rows go to a place of the slab's own,
and a second function adds those of all slabs in their order.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.engines.cpu import sections
from chainrule.engines.cpu.indexing import c_size
from chainrule.engines.cpu.loops import MOST_CHUNKS, Writer
from chainrule.engines.cpu.memory import Memory, bytes_of
from chainrule.engines.cpu.nest import Section
from chainrule.engines.cpu.scalars import C_TYPES
from chainrule.ir.graph import Value
from chainrule.ir.sizes import Dim, Size, product


def totals_of(section: Section) -> tuple[dict[Value, int], int]:
    """Where the sums of a slab begin in its part of the working memory, and the bytes of that part."""
    places, end = {}, 0
    for value in (value for nest in section.nests for value in nest.written if value in section.totals):
        places[value] = end
        size = bytes_of(value)
        assert isinstance(size, int), "a sum over rows has none"
        end += -(-size // 64) * 64
    return places, end


def scratch_of(section: Section) -> int:
    """The bytes that the sums of all slabs take."""
    return MOST_CHUNKS * totals_of(section)[1]


def write_section(
    section: Section,
    name: str,
    memory: Memory,
    within: Sequence[Dim],
    scratch: Dim,
    calls: Writer,
    moved: int,
    *,
    profiled: bool = False,
) -> str:
    """The functions of a section whose nests are called by ``calls``, and work in ``scratch`` bytes."""
    places, stride = totals_of(section)
    w = Writer()
    limits = sections.LIMITS
    limit = "B" if section.rows == 1 else f"(B + {section.rows - 1}) / {section.rows}"
    with w.block(f"static long {name}_slabs(long B)"):
        w.line(f"const long slabs = cr_chunks({c_size(section.operations)}, {limits.grain}, {limit});")
        w.line(f"return slabs < {limits.fewest_slabs} ? 1 : slabs;")
    w.line()
    sizes = [f"cr_round({c_size(size)})" for size in within]
    with w.block(f"static long {name}_bytes(long B)"):
        w.line(f"return {' + '.join([*sizes, c_size(scratch)])};")
    w.line()
    with w.block(f"static void {name}(void *context, long slab)"):
        w.line("struct frame *const whole = context;")
        w.line(f"const long slabs = {name}_slabs(whole->B), row = cr_cut(whole->B, slab, slabs);")
        w.line("const long B = cr_cut(whole->B, slab + 1, slabs) - row;")
        w.line(f"char *slot[{memory.shared + len(within)}];")
        w.line(f"memcpy(slot, whole->slot, {memory.shared} * sizeof *slot);")
        for slot, size in sorted(_rows(section, memory).items()):
            w.line(f"slot[{slot}] += row * {size};")
        for value, start in places.items():
            w.line(f"slot[{memory.slots[value]}] = whole->scratch + slab * {stride} + {start};")
        w.line(f"char *const own = cr_borrow({name}_bytes(B)), *top = own;")
        for k, bytes in enumerate(sizes):
            w.line(f"slot[{memory.shared + k}] = top, top += {bytes};")
        w.line("const _Bool in_slab = slabs > 1;")
        w.line("struct frame frame = {slot, whole->constants, top, B, row, in_slab};")
        if moved:
            w.line(f"char *moved[{moved}];")
            w.line("struct frame other = frame;")
            w.line("other.slot = moved;")
        if profiled:
            w.line("const long outside = cr_enter_slab(B, whole->B);")
        w.lines.extend(calls.lines)
        w.line("cr_give_back(own);")
        if profiled:
            w.line("cr_portion = outside;")
    if not places:
        return w.text
    w.line()
    with w.block(f"static void {name}_after(struct frame *whole)"):
        w.line(f"const long slabs = {name}_slabs(whole->B);")
        for value, start in places.items():
            _add_up(w, value, memory.slots[value], stride, start)
    return w.text


def _rows(section: Section, memory: Memory) -> dict[int, int]:
    """The slots with rows that others see, and the bytes of a row."""
    found: dict[int, int] = {}
    for value in {value for nest in section.nests for value in (*nest.reads, *nest.written)}:
        size, slot = bytes_of(value), memory.slots.get(value)
        if slot is not None and slot < memory.shared and isinstance(size, Size) and value not in section.private:
            assert found.setdefault(slot, size.coefficients[1]) == size.coefficients[1], (
                "one slot holds one value at a time"
            )
    return found


def _add_up(w: Writer, value: Value, slot: int, stride: int, start: int) -> None:
    type, count = C_TYPES[value.dtype], c_size(product(value.shape))
    with w.block(""):
        w.line(f"{type} *restrict const total = ({type} *)whole->slot[{slot}];")
        w.line(f"memcpy(total, whole->scratch + {start}, {count} * sizeof *total);")
        with w.block("for (long slab = 1; slab < slabs; slab++)"):
            w.line(f"const {type} *restrict const part = ({type} *)(whole->scratch + slab * {stride} + {start});")
            w.line("CR_INDEPENDENT")
            w.line(f"for (long k = 0; k < {count}; k++) total[k] += part[k];")
