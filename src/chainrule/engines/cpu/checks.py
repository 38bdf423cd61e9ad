"""What must hold after each step of the lowering. Each check walks the graph again instead of trusting the step's own notes.

The checks raise AssertionError: what they find is a mistake in this engine, never in the user's program.
"""

from __future__ import annotations

from collections.abc import Mapping

from chainrule.engines.cpu.grouping import NESTS, Grouping
from chainrule.engines.cpu.memory import Memory, bytes_of
from chainrule.engines.cpu.nest import Nest, Section
from chainrule.engines.cpu.scalars import EXPRESSIONS
from chainrule.engines.cpu.slabs import batch_axis, keeps_rows
from chainrule.engines.cpu.widen import computing_narrow
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Dim, Size, product
from chainrule.ir.verify import verify

_IN_PLACE = frozenset({*EXPRESSIONS, "cast", "stop_gradient"})
# Their operands have to lie in memory, because a loop or a tile reads them at places of its own choosing.
_READ_FROM_MEMORY = frozenset({"contract", "scan", "fixed_point"})


def check_inlined(graph: Graph) -> None:
    """The graph is well formed, and no call is left in it."""
    verify(graph)

    def visit(graph: Graph) -> None:
        for node in graph.nodes:
            if node.primitive.name == "call":
                raise AssertionError(f"a call is left in {node.origin}")
            for _, body in node.subgraphs():
                visit(body)

    visit(graph)


def check_widened(graph: Graph) -> None:
    """The graph is well formed, and nothing computes with bfloat16 itself."""
    check_inlined(graph)
    for node in computing_narrow(graph):
        raise AssertionError(f"{node.primitive.name} in {node.origin} computes with bfloat16")


def check_stored(grouping: Grouping) -> None:
    """Everything has memory that must, and what shares the bytes of another value is as large."""
    for value, source in grouping.alias.items():
        if source in grouping.alias or value.dtype != source.dtype or product(value.shape) != product(source.shape):
            raise AssertionError(f"{_show(value, grouping)} cannot have the bytes of {_show(source, grouping)}")
    needed = [*grouping.graph.inputs, *grouping.graph.outputs]
    for node in grouping.graph.nodes:
        name = node.primitive.name
        needed += [value for value in node.outputs if name in NESTS and value not in grouping.alias]
        copied = grouping.copies(node) if name == "contract" else ()
        if name in _READ_FROM_MEMORY:
            given = [value for number, value in enumerate(node.inputs) if number not in copied]
            needed += [grouping.rows[value][0] if value in grouping.rows else value for value in given]
        needed += node.inputs[:1] if name == "gather" else ()
        needed += [node.output] if name == "constant" and node.output.shape else ()
    for value in needed:
        if not grouping.is_stored(value):
            raise AssertionError(f"{_show(value, grouping)} has no memory")


def check_nests(grouping: Grouping) -> None:
    """Every stored value is written once, before it is read; each nest can compute what it writes, and says what it reads for that."""
    ready = {*grouping.graph.inputs}
    constants = [node.output for node in grouping.graph.nodes if node.primitive.name == "constant"]
    # A number that something reads from memory is written there by a nest.
    ready.update(value for value in constants if value.shape or not grouping.is_stored(value))
    for nest in grouping.nests:
        for value in reads_of(nest, grouping):
            if value not in ready:
                raise AssertionError(f"{_show_nest(nest)} reads {_show(value, grouping)} before it is written")
            if value not in nest.reads:
                raise AssertionError(f"{_show_nest(nest)} reads {_show(value, grouping)}, and nothing says so")
        for value in nest.written:
            if value in ready:
                raise AssertionError(f"{_show(value, grouping)} is written twice")
            if value not in grouping.stored:
                raise AssertionError(f"{_show_nest(nest)} writes {_show(value, grouping)}, which has no memory")
            ready.add(value)
    for value in grouping.results:
        if value not in ready:
            raise AssertionError(f"{_show(value, grouping)} is a result, and never written")


def check_sections(grouping: Grouping) -> None:
    """The nests of a section follow each other, compute rows of what they write from the same rows alone or add them up, and
    keep to themselves only what no other nest reads."""
    order = {nest: position for position, nest in enumerate(grouping.nests)}
    taken: set[Nest] = set()
    for section in grouping.sections:
        first = order[section.nests[0]]
        if [order[nest] for nest in section.nests] != list(range(first, first + len(section.nests))):
            raise AssertionError("the nests of a section do not follow each other")
        if not taken.isdisjoint(section.nests):
            raise AssertionError("a nest is in two sections")
        taken.update(section.nests)
        written = {value for nest in section.nests for value in nest.written}
        if not section.private | section.totals <= written:
            raise AssertionError("a section keeps what it does not write")
        for nest in section.nests:
            _check_rows(nest, section, grouping)
        inside = set(section.nests)
        for nest in grouping.nests:
            unseen = section.totals if nest in inside else section.private
            for value in reads_of(nest, grouping):
                if value in unseen:
                    raise AssertionError(f"{_show_nest(nest)} reads {_show(value, grouping)}, which is not there yet")
        for value in section.private.intersection(grouping.results):
            raise AssertionError(f"{_show(value, grouping)} is a result, and private to a section")


def _check_rows(nest: Nest, section: Section, grouping: Grouping) -> None:
    reads = reads_of(nest, grouping)
    for value in (*reads, *nest.written):
        axis = batch_axis(value)
        if axis is not None and product(value.shape[:axis]) != 1:
            raise AssertionError(f"the rows of {_show(value, grouping)} are not its outermost axis")
        if axis is None and value in nest.written and value not in section.totals:
            raise AssertionError(f"{_show(value, grouping)} has no rows, and no sum over slabs")
    seen: set[Value] = set()

    def visit(value: Value) -> None:
        source = grouping.canonical(value)
        if source in seen or (source in reads and source not in nest.made):
            return
        seen.add(source)
        node = grouping.makers[source]
        if value in section.totals:
            if batch_axis(node.inputs[0]) not in node.attributes["axes"]:
                raise AssertionError(f"{_show(value, grouping)} is no sum over rows")
        elif not keeps_rows(node):
            raise AssertionError(f"{_show(value, grouping)} needs other rows")
        for operand in node.inputs:
            visit(operand)

    for value in nest.made:
        visit(value)


def check_memory(grouping: Grouping, memory: Memory, donated: frozenset[int]) -> None:
    """No two values are in one place at the same time, every place is large enough, and operands keep their numbers: only a
    donated one is written over, after its last read, or during it by what reads it only at the element that is written."""
    end = len(grouping.nests)
    # The slabs of a section are at different nests at the same time: outside of their own memory it is one moment.
    moment = list(range(end + 1))
    for section in grouping.sections:
        start = grouping.nests.index(section.nests[0])
        moment[start : start + len(section.nests)] = [start] * len(section.nests)
    # When the value in a place is last needed, and whether then only at the elements that the same nest writes.
    last: dict[Value, tuple[int, bool]] = dict.fromkeys(grouping.graph.inputs, (-1, True))
    first: dict[Value, int] = dict.fromkeys(grouping.graph.inputs, -1)
    for position, nest in enumerate(grouping.nests):
        for value in nest.written:
            first[value] = position
            last[value] = position, False
        for value, same in reads_of(nest, grouping).items():
            last[value] = position, same
    for value in grouping.results:
        last[value] = end, False
    places: dict[int, list[Value]] = {}
    for value in first:
        if value not in memory.slots:
            raise AssertionError(f"{_show(value, grouping)} has no place")
        places.setdefault(memory.slots[value], []).append(value)
    for slot, values in places.items():
        values.sort(key=first.__getitem__)
        for before, after in zip(values, values[1:]):
            position, same = last[before]
            # Each element of an operand is read just before it is written over.
            in_place = slot < len(grouping.graph.inputs) and same and before.type == after.type
            apart = memory.fixed <= slot < memory.shared and moment[position] == moment[first[after]]
            if position > first[after] or apart or (position == first[after] and not in_place):
                raise AssertionError(
                    f"{_show(after, grouping)} is written over {_show(before, grouping)}, which is still to be read"
                )
        _check_place(slot, values, grouping, memory, donated)
    _check_results(grouping, memory, places)


def _check_place(slot: int, values: list[Value], grouping: Grouping, memory: Memory, donated: frozenset[int]) -> None:
    if slot >= memory.shared:
        _check_within(slot, values, grouping, memory)
    elif slot >= memory.fixed:
        for value in values:
            if not covers(memory.arena[slot - memory.fixed], bytes_of(value)):
                raise AssertionError(f"{_show(value, grouping)} does not fit into arena slot {slot}")
    elif slot < len(grouping.graph.inputs):
        if len(values) > 1 and slot not in donated:
            raise AssertionError(f"operand {slot} was not donated, but {_show(values[1], grouping)} is written over it")
    elif len(values) > 1:
        raise AssertionError(f"the results {', '.join(_show(value, grouping) for value in values)} have one place")


def _check_within(slot: int, values: list[Value], grouping: Grouping, memory: Memory) -> None:
    for value in values:
        (sizes,) = (
            sizes for section, sizes in zip(grouping.sections, memory.within, strict=True) if value in section.private
        )
        if not covers(sizes[slot - memory.shared], bytes_of(value)):
            raise AssertionError(f"{_show(value, grouping)} does not fit into slot {slot} of its section")


def _check_results(grouping: Grouping, memory: Memory, places: Mapping[int, list[Value]]) -> None:
    """Every result is at the end where the caller looks for it: in its own place, in its operand's, or copied there."""
    copies = {target: source for source, target, _ in memory.copies}
    for number, value in enumerate(grouping.results):
        own = len(grouping.graph.inputs) + number
        slot = copies.get(own, memory.written_over.get(number, own))
        is_constant = value in memory.constants and memory.slots[value] == slot
        if not is_constant and (not places.get(slot) or places[slot][-1] is not value):
            raise AssertionError(f"result {number}, {_show(value, grouping)}, is not where the caller looks for it")
        if own in copies and own in places:
            raise AssertionError(f"result {number} is copied over {_show(places[own][-1], grouping)}")


def reads_of(nest: Nest, grouping: Grouping) -> dict[Value, bool]:
    """What a nest reads from memory, and whether only at the element that it writes, from the graph alone."""
    own = set(nest.made)
    found: dict[Value, bool] = {}
    seen: set[tuple[Value, bool]] = set()

    def visit(value: Value, same: bool) -> None:
        source = grouping.canonical(value)
        if (source, same) in seen or source in own:
            return
        seen.add((source, same))
        if source in grouping.stored:
            found[source] = found.get(source, True) and same
            return
        node = grouping.makers[source]
        if node.primitive.name in NESTS:
            raise AssertionError(f"{_show_nest(nest)} reads {_show(source, grouping)}, which nothing keeps")
        follow(node, same)

    def follow(node: Node, same: bool) -> None:
        same = same and (node.primitive.name in _IN_PLACE or node.output in grouping.alias)
        for value in node.inputs:
            visit(value, same)

    for value in nest.made:
        maker = grouping.makers[value]
        if maker in nest.sides:  # what is summed along is read where the nest is
            visit(maker.inputs[0], True)
        else:
            follow(maker, maker is not nest.node)
    return found


def covers(slot: Dim, wanted: Dim) -> bool:
    """Whether a size is at least another for every batch size, 0 included."""
    difference = slot - wanted
    return all(c >= 0 for c in (difference.coefficients if isinstance(difference, Size) else (difference,)))


def _show(value: Value, grouping: Grouping) -> str:
    maker = grouping.makers.get(value)
    if maker is None:
        return f"input {value.name!r}"
    return f"{maker.primitive.name} of type {value.type} in {maker.origin}"


def _show_nest(nest: Nest) -> str:
    maker = f" of {nest.node.origin}" if nest.node is not None else ""
    return f"the nest {nest.kind}{maker}"
