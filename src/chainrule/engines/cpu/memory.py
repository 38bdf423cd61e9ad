"""Where stored values live: inputs, results, constants, and one arena whose slots are reused as soon as nothing needs them.

Slots have sizes linear in the batch size, so the plan holds for every batch. A result takes the place of a donated operand of its
type when the nest that writes it is the last to read that operand, and reads it only at the element it writes. What only one section
needs lies in memory of the thread that runs a slab of it, where nests one after another find it in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.nest import Nest
from chainrule.engines.cpu.scalars import BYTES
from chainrule.ir.graph import Value
from chainrule.ir.sizes import Dim, Size, product


@dataclass(slots=True)
class Memory:
    """``slots`` numbers the places of stored values: first inputs, then results, constants, the arena, and last what each section
    keeps in memory of its own (``within``), where every section begins with the same number."""

    slots: dict[Value, int] = field(default_factory=dict)
    constants: list[Value] = field(default_factory=list)
    arena: list[Dim] = field(default_factory=list)
    within: list[list[Dim]] = field(default_factory=list)
    written_over: dict[int, int] = field(default_factory=dict)
    copies: list[tuple[int, int, Dim]] = field(default_factory=list)
    fixed: int = 0

    @property
    def shared(self) -> int:
        """How many slots there are outside of sections."""
        return self.fixed + len(self.arena)

    @property
    def count(self) -> int:
        """How many slots there are."""
        return self.shared + max(map(len, self.within), default=0)


def bytes_of(value: Value) -> Dim:
    return product(value.shape) * BYTES[value.dtype]


def plan_memory(grouping: Grouping, donated: frozenset[int]) -> Memory:
    graph = grouping.graph
    memory = Memory()
    for number, value in enumerate(graph.inputs):
        memory.slots[value] = number
    first_result = len(graph.inputs)
    memory.constants = [node.output for node in graph.nodes if node.primitive.name == "constant" and node.output.shape]
    first_constant = first_result + len(graph.outputs)
    for number, value in enumerate(memory.constants):
        memory.slots[value] = first_constant + number
    memory.fixed = first_constant + len(memory.constants)
    home = {value: position for position, nest in enumerate(grouping.nests) for value in nest.written}
    last = _last_reads(grouping)
    for number, value in enumerate(grouping.results):
        # Where the caller gets an operand's array back, the result must have its shape too.
        same = graph.outputs[number].type == value.type
        if value in memory.slots or value not in home:
            source = memory.slots[value]
            if same and source in donated and source not in memory.written_over.values():
                memory.written_over[number] = source  # it is the operand itself
                continue
            memory.copies.append((source, first_result + number, bytes_of(value)))
            continue
        memory.slots[value] = first_result + number
        over = _operand_to_reuse(grouping, memory, donated, value, home[value], last) if same else None
        if over is not None:
            memory.slots[value] = over
            memory.written_over[number] = over
    private = {value for section in grouping.sections for value in section.private}
    memory.arena = _place(_steps(grouping), memory.slots, memory.fixed, private)
    for section in grouping.sections:
        memory.within.append(_place([[nest] for nest in section.nests], memory.slots, memory.shared, set()))
    return memory


def _steps(grouping: Grouping) -> list[list[Nest]]:
    """What happens at the same time: nests one by one, and sections, whose slabs are at different nests."""
    starts = {section.nests[0]: section.nests for section in grouping.sections}
    later = {nest for section in grouping.sections for nest in section.nests[1:]}
    return [starts.get(nest, [nest]) for nest in grouping.nests if nest not in later]


def _last_reads(grouping: Grouping) -> dict[Value, int]:
    last: dict[Value, int] = {}
    for position, nest in enumerate(grouping.nests):
        for value in (*nest.reads, *nest.written):
            last[value] = position
    return last


def _operand_to_reuse(
    grouping: Grouping, memory: Memory, donated: frozenset[int], value: Value, position: int, last: dict[Value, int]
) -> int | None:
    nest = grouping.nests[position]
    if value not in nest.roots:
        return None
    taken = set(memory.written_over.values())
    for number in sorted(donated - taken):
        operand = grouping.graph.inputs[number]
        dies_here = last.get(operand) == position and operand not in grouping.results
        if operand.type == value.type and dies_here and nest.reads.get(operand, False):
            return number
    return None


def _place(steps: list[list[Nest]], slots: dict[Value, int], first: int, elsewhere: set[Value]) -> list[Dim]:
    """Give what the steps write, and has no slot yet, one from ``first`` on; returns their sizes. A slot is used again after the
    step that last needs what is in it."""
    sizes: list[Dim] = []
    free: list[int] = []
    last = {value: k for k, step in enumerate(steps) for nest in step for value in (*nest.reads, *nest.written)}
    ending: list[list[Value]] = [[] for _ in steps]
    for value, k in last.items():
        ending[k].append(value)
    for k, step in enumerate(steps):
        for value in dict.fromkeys(value for nest in step for value in nest.written):
            if value in slots or value in elsewhere:
                continue
            wanted = bytes_of(value)
            fitting = [slot for slot in free if _covers(sizes[slot], wanted)]
            if fitting:
                slot = min(fitting, key=lambda s: _terms(sizes[s])[::-1])
                free.remove(slot)
            else:
                slot = len(sizes)
                sizes.append(wanted)
            slots[value] = first + slot
        free += [slots[value] - first for value in ending[k] if slots.get(value, -1) >= first]
    return sizes


def _terms(size: Dim) -> tuple[int, ...]:
    found = size.coefficients if isinstance(size, Size) else (size,)
    return (*found, *(0,) * (4 - len(found)))


def _covers(slot: Dim, wanted: Dim) -> bool:
    """Whether a slot is large enough for every batch size, 0 included."""
    return all(a >= b for a, b in zip(_terms(slot), _terms(wanted), strict=True))
