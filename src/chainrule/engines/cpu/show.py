"""What each step of the lowering made, as text. Values are numbered as in the text of the graph: %0, %1 and so on."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.core.names import escape_terminal
from chainrule.engines.cpu.formula import formula_of
from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.memory import Memory
from chainrule.ir.graph import Graph, Value
from chainrule.ir.text import print_graph


def graph_text(graph: Graph) -> str:
    return print_graph(graph)


def stored_text(groupings: Sequence[Grouping]) -> str:
    """The values that get memory, those that are only other views of one, and how many are computed where they are read."""
    return "\n".join(line for number, grouping in enumerate(groupings) for line in _stored(number, grouping))


def nests_text(groupings: Sequence[Grouping]) -> str:
    """The loop nests in the order in which they run, each with its formula."""
    return "\n".join(line for number, grouping in enumerate(groupings) for line in _nests(number, grouping))


def sections_text(groupings: Sequence[Grouping]) -> str:
    """The nests of every section by their numbers in the order in which all run, and what becomes of what they write."""
    return "\n".join(line for number, grouping in enumerate(groupings) for line in _sections(number, grouping))


def memory_text(groupings: Sequence[Grouping], memories: Sequence[Memory]) -> str:
    """What each nest reads and writes where: first the inputs' slots, then those of results, constants and the arena."""
    pairs = zip(groupings, memories, strict=True)
    return "\n".join(line for number, pair in enumerate(pairs) for line in _memory(number, *pair))


def numbered(graph: Graph) -> dict[Value, str]:
    """The names of values in the text of a graph."""
    values = [*graph.inputs, *(value for node in graph.nodes for value in node.outputs)]
    return {value: f"%{number}" for number, value in enumerate(values)}


def _title(number: int, grouping: Grouping) -> str:
    return f"graph_{number} {escape_terminal(repr(grouping.graph.name))}"


def _stored(number: int, grouping: Grouping) -> list[str]:
    names = numbered(grouping.graph)
    lines = [_title(number, grouping)]
    for value, name in names.items():
        maker = grouping.makers.get(value)
        if value in grouping.stored:
            made = f"= {maker.primitive.name}, {maker.origin.phase}" if maker is not None else "an input"
            of = maker.origin.path if maker is not None else value.name
            lines.append(f"  {name}: {value.type} {made} {escape_terminal(of)}".rstrip())
        elif grouping.is_stored(value):
            lines.append(f"  {name} has the bytes of {names[grouping.canonical(value)]}")
    computed = sum(not grouping.is_stored(value) for value in names)
    lines.append(f"  the other {computed} are computed where they are read")
    return lines


def _nests(number: int, grouping: Grouping) -> list[str]:
    names = numbered(grouping.graph)
    lines = [_title(number, grouping)]
    for nest in grouping.nests:
        reads = ", ".join(names[value] for value in nest.reads if value not in nest.made)
        written = ", ".join(f"{names[value]}: {value.type}" for value in nest.written)
        formula = formula_of(nest, grouping, lambda value: names[grouping.canonical(value)])
        lines.append(f"  {nest.kind}: [{reads}] -> [{written}]")
        lines += [f"    {line.strip()}" for line in formula.splitlines()]
    return lines


def _sections(number: int, grouping: Grouping) -> list[str]:
    names = numbered(grouping.graph)
    lines = [_title(number, grouping)]
    inside = set()
    for section in grouping.sections:
        inside.update(section.nests)
        first = grouping.nests.index(section.nests[0])
        last = first + len(section.nests) - 1
        lines.append(
            f"  nests {first} to {last} in slabs of {section.rows} rows or more, {section.operations} operations"
        )
        written = [value for nest in section.nests for value in nest.written]
        for title, chosen in (
            ("only here", section.private),
            ("summed over slabs", section.totals),
            ("for others", set(written) - section.private - section.totals),
        ):
            if chosen:
                lines.append(f"    {title}: {', '.join(names[value] for value in written if value in chosen)}")
    others = [str(k) for k, nest in enumerate(grouping.nests) if nest not in inside]
    if others:
        lines.append(f"  one by one: {', '.join(others)}")
    return lines


def _memory(number: int, grouping: Grouping, memory: Memory) -> list[str]:
    names = numbered(grouping.graph)
    lines = [_title(number, grouping)]
    for nest in grouping.nests:
        reads = ", ".join(str(memory.slots[value]) for value in nest.reads if value not in nest.made)
        writes = ", ".join(f"{memory.slots[value]}: {value.type}" for value in nest.written)
        with_maps = f" + {len(nest.roots)} maps" if nest.node is not None and nest.roots else ""
        with_maps += f" + {len(nest.sides)} sums" if nest.sides else ""
        lines.append(f"  {nest.kind}{with_maps}: slots [{reads}] -> [{writes}]")
    lines += [f"  copy: slot {source} -> {target}, {size} bytes" for source, target, size in memory.copies]
    for k, size in enumerate(memory.arena):
        held = ", ".join(names[value] for value, slot in memory.slots.items() if slot == memory.fixed + k)
        lines.append(f"  arena slot {memory.fixed + k}: {size} bytes, holds {held}")
    for section, sizes in zip(grouping.sections, memory.within, strict=True):
        for k, size in enumerate(sizes):
            private = [value for nest in section.nests for value in nest.written if value in section.private]
            held = ", ".join(names[value] for value in private if memory.slots[value] == memory.shared + k)
            lines.append(f"  slot {memory.shared + k} within a section: {size} bytes, holds {held}")
    lines += [f"  result {number} is written over operand {over}" for number, over in memory.written_over.items()]
    return lines
