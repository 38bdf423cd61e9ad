"""The C of a whole program: one function per loop nest, one per graph, and one to call from Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest

from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.contraction import solved, write_plain, write_scattered
from chainrule.engines.cpu.exports import exports_text
from chainrule.engines.cpu.formula import formula_of, formulas_of
from chainrule.engines.cpu.functions import Functions, layout_of
from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.indexing import c_size
from chainrule.engines.cpu.loop_ahead import looks_ahead
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.map_nests import write_map
from chainrule.engines.cpu.memory import Memory
from chainrule.engines.cpu.nest import Nest, Section
from chainrule.engines.cpu.nests import Task
from chainrule.engines.cpu.prelude import PRELUDE
from chainrule.engines.cpu.reductions import write_argmax, write_reduce
from chainrule.engines.cpu.row_nests import RowWriter
from chainrule.engines.cpu.scalars import STORED
from chainrule.engines.cpu.scans import write_fixed_point, write_scan
from chainrule.engines.cpu.scatters import write_scatter
from chainrule.engines.cpu.section_function import scratch_of, write_section
from chainrule.engines.cpu.sides import Side, sides_of
from chainrule.engines.cpu.slabs import draws_by_row
from chainrule.engines.cpu.straight import is_small, write_straight
from chainrule.engines.cpu.tile_kernel import KernelWriter
from chainrule.engines.cpu.tile_plan import can_tile
from chainrule.engines.cpu.tiles import TileWriter
from chainrule.engines.cpu.timing import shared_out, timed, timing_text
from chainrule.engines.cpu.vectors import transposition_text, vector_text
from chainrule.engines.cpu.winograd_bundles import Bundle
from chainrule.engines.cpu.winograd_gradients import GradientWriter
from chainrule.engines.cpu.winograd_results import ResultsWriter
from chainrule.engines.cpu.work import Work, work_of_nest
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import BATCH, Dim, Size, product


@dataclass(slots=True)
class Source:
    """The generated program: its text, the constants it is called with, and where results are written over operands.

    ``work`` has one entry for every loop nest that the program times, if it does.
    """

    text: str
    constants: list[Value]
    written_over: dict[int, int]
    arrays: dict[Value, Node] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)


def emit_program(
    plans: Sequence[tuple[Grouping, Memory]],
    vector_bytes: int,
    convolutions: Mapping[Node, Sequence[Bundle]],
    *,
    profiled: bool = False,
) -> Source:
    """The source of a program, from the plans for the bodies of its loops, each before what runs it, and for itself; with
    a clock around every loop nest if ``profiled``. ``convolutions`` are the contractions that run by Winograd's algorithms."""
    emitter = _Emitter(vector_bytes, convolutions, profiled)
    loops = [node for grouping, _ in plans for node in grouping.graph.nodes if node.primitive.name == "scan"]
    emitter.bodies.update(node.attributes["body"] for node in loops)
    emitter.looking_ahead.update(node.attributes["body"] for node in loops if looks_ahead(node))
    for grouping, memory in plans[:-1]:
        # What is written out does not know the number of its row, from which random bits in a slab of a loop follow.
        may_be_alone = not any(map(draws_by_row, grouping.graph.nodes))
        emitter.graph(grouping, memory, may_be_alone=may_be_alone)
    grouping, memory = plans[-1]
    emitter.graph(grouping, memory)
    graph, number = grouping.graph, len(plans) - 1
    text = (
        vector_text(vector_bytes)
        + PRELUDE
        + _transpositions(emitter.functions.texts)
        + (timing_text(len(emitter.work)) if profiled else "")
        + "".join(f"\n{function}" for function in emitter.functions.texts)
        + "\n"
        + exports_text(graph, f"graph_{number}", emitter.alone.get(number))
    )
    return Source(text, emitter.constants, memory.written_over, emitter.makers, emitter.work)


def _transpositions(functions: Sequence[str]) -> str:
    """The transpositions of blocks that are called."""
    used = sorted({found for text in functions for found in re.findall(r"\bcr_transpose_(float\d\d)x(\d+)\(", text)})
    return "".join(transposition_text(dtype, int(lanes)) for dtype, lanes in used)


class _Emitter:
    """Numbers functions and constants across the graph and its bodies."""

    def __init__(self, vector_bytes: int, convolutions: Mapping[Node, Sequence[Bundle]], profiled: bool) -> None:
        self.vector_bytes, self.convolutions, self.profiled = vector_bytes, convolutions, profiled
        self.work: list[Work] = []
        self.functions = Functions()
        self.called: set[str] = set()
        self.constants: list[Value] = []
        self.makers: dict[Value, Node] = {}
        self.numbers: dict[Graph, int] = {}
        # The bodies of loops, and of those that fetch what their next step needs.
        self.bodies: set[Graph] = set()
        self.looking_ahead: set[Graph] = set()
        self.alone: dict[int, str] = {}
        self.nests, self.loops, self.sections = 0, 0, 0

    def graph(self, grouping: Grouping, memory: Memory, *, may_be_alone: bool = True) -> None:
        """Write the functions of a graph whose bodies are already written."""
        first_constant = len(self.constants)
        self.constants.extend(memory.constants)
        self.makers.update(grouping.makers)
        calls = Writer()
        calls.depth = 1
        lowering = _Lowering(self, grouping, memory, calls)
        begins = {section.nests[0]: section for section in grouping.sections}
        ends = {section.nests[-1]: section for section in grouping.sections}
        for nest in grouping.nests:
            if nest in begins:
                lowering.begin_section()
            try:
                lowering.nest(nest)
            except AssertionError as error:
                shown = formula_of(nest, grouping, lowering.pointer_name)
                raise AssertionError(f"{error}; in the nest {shown}") from None
            if nest in ends:
                lowering.end_section(ends[nest])
        number = self.numbers[grouping.graph] = len(self.numbers)
        if may_be_alone and not self.profiled and is_small(grouping.graph):
            self.alone[number] = f"graph_{number}_of_one"
            self.functions.texts.append(write_straight(grouping.graph, memory, self.alone[number]))
        self._arena_functions(number, memory, lowering)
        self._graph_function(number, grouping.graph, memory, first_constant, calls, lowering.moved)

    def _arena_functions(self, number: int, memory: Memory, lowering: _Lowering) -> None:
        """The bytes that a graph works in, and those that the tasks of its loops borrow from a thread."""
        w = Writer()
        with w.block(f"static long graph_{number}_arena(long B)"):
            w.line(f"long own = 0, most = {c_size(lowering.scratch)};")
            for size in memory.arena:
                w.line(f"own += cr_apart({c_size(size)});")
            _write_most(w, lowering.inner)
            w.line("return own + cr_round(most) + 64;")
        with w.block(f"static long graph_{number}_borrowed(long B)"):
            w.line("long most = 0;")
            _write_most(w, lowering.borrowed)
            w.line("return most;")
        self.functions.texts.append(w.text)

    def _graph_function(
        self, number: int, graph: Graph, memory: Memory, first_constant: int, calls: Writer, moved: int
    ) -> None:
        w = Writer()
        head = f"static void graph_{number}(char **arrays, char **constants, char *arena, long B, long row)"
        total = memory.shared
        alone = self.alone.get(number)
        with w.block(head):
            if alone is not None:
                slots = len(graph.inputs) + len(graph.outputs)
                with w.block("if (B == 1)"):
                    w.line(f"static const int64_t still[{max(1, slots)}];")
                    w.line("const cr_repetition once = {.steps = 1, .batch = 1, .bytes = still};")
                    w.line(f"{alone}(arrays, &once);")
                    w.line("return;")
            w.line(f"char *slot[{max(1, total)}];")
            given = len(graph.inputs) + len(graph.outputs)
            ahead = f", (struct ahead *)arrays[{given}]" if graph in self.looking_ahead else ""
            w.line(f"for (long k = 0; k < {given}; k++) slot[k] = arrays[k];")
            for k in range(len(memory.constants)):
                w.line(f"slot[{given + k}] = constants[{first_constant + k}];")
            for k, size in enumerate(memory.arena):
                w.line(f"slot[{memory.fixed + k}] = arena, arena += cr_apart({c_size(size)});")
            w.line(f"struct frame frame = {{slot, constants, arena, B, row, 0{ahead}}};")
            if "in_slab" in calls.text:
                w.line("const _Bool in_slab = 0;")
            if moved:
                w.line(f"char *moved[{moved}];")
                w.line("struct frame other = frame;")
                w.line("other.slot = moved;")
            w.lines.extend(calls.lines)
            for source, target, size in memory.copies:
                # A loop may have given both the same place.
                unless = f"if (slot[{target}] != slot[{source}]) " if graph in self.bodies else ""
                w.line(f"{unless}memcpy(slot[{target}], slot[{source}], {c_size(size)});")
        self.functions.texts.append(w.text)


class _Lowering:
    """One graph: a function for every nest, and the calls of them in order."""

    def __init__(self, emitter: _Emitter, grouping: Grouping, memory: Memory, calls: Writer) -> None:
        self.emitter, self.grouping, self.memory, self.calls = emitter, grouping, memory, calls
        self.scratch: Dim = 0
        self.inner: list[str] = []
        self.borrowed: list[str] = []
        self.moved = 0
        self._outside: tuple[Writer, Dim, int] = calls, 0, 0

    def pointer_name(self, value: Value) -> str:
        source = self.grouping.canonical(value)
        slot = self.memory.slots[source]
        inputs = self.grouping.graph.inputs
        named = inputs[slot].name if slot < len(inputs) else source.name or _role(self.grouping.makers.get(source))
        return f"{identifier(named)}_{slot}"

    def nest(self, nest: Nest) -> None:
        if nest.kind in ("scan", "fixed_point"):
            self._loop(nest)
        else:
            tasks = self._tasks(nest)
            with timed(self.calls, len(self.emitter.work)) if self.emitter.profiled else nullcontext():
                for task, pointers in tasks:
                    self._function(nest, task, pointers)
            if self.emitter.profiled:
                what = formulas_of(nest, self.grouping, self.pointer_name)
                self.emitter.work.append(work_of_nest(nest, self.grouping, what))

    def begin_section(self) -> None:
        """The calls of nests from here on are those of a section's function, with slots and working memory of its own."""
        self._outside = self.calls, self.scratch, self.moved
        self.calls, self.scratch, self.moved = Writer(), 0, 0
        self.calls.depth = 1

    def end_section(self, section: Section) -> None:
        emitter = self.emitter
        name, number = f"section_{emitter.sections}", self.grouping.sections.index(section)
        emitter.sections += 1
        within = self.memory.within[number]
        text = write_section(
            section, name, self.memory, within, self.scratch, self.calls, self.moved, profiled=emitter.profiled
        )
        emitter.functions.texts.append(text)
        self.calls, self.scratch, self.moved = self._outside
        self.scratch = _larger(self.scratch, scratch_of(section))
        self.borrowed.append(f"{name}_bytes((B + {name}_slabs(B) - 1) / {name}_slabs(B))")
        with shared_out(self.calls) if emitter.profiled else nullcontext():
            self.calls.line(f"cr_parallel({name}, &frame, {name}_slabs(B));")
            if section.totals:
                self.calls.line(f"{name}_after(&frame);")

    def _body(self, nest: Nest) -> tuple[Body, dict[str, Value], Callable[[Value], str]]:
        used: dict[str, Value] = {}
        own = set(nest.made)

        def name(value: Value) -> str:
            found = self.pointer_name(value)
            used[found] = value
            return found

        def pointer(value: Value) -> str | None:
            source = self.grouping.canonical(value)
            return name(value) if source in self.grouping.stored and source not in own else None

        return Body(self.grouping.makers.get, pointer), used, name

    def _tasks(self, nest: Nest) -> list[tuple[Task, dict[str, Value]]]:
        body, used, name = self._body(nest)
        node = nest.node
        if nest.members:
            sides = sides_of([node for member in nest.members for node in member.sides], name)
            rows = RowWriter(nest, sides, body.maker, body.pointer, name, self.grouping.canonical)
            return [(rows.write(), used)]
        if node is None:
            roots = [(value, name(value)) for value in nest.roots]
            sides = sides_of(nest.sides, name)
            bytes = self.emitter.vector_bytes
            task = write_map(lambda: Body(body.maker, body.pointer), nest.shape, roots, sides, vector_bytes=bytes)
            return [(task, used)]
        if nest.kind == "contract":
            return self._contraction(nest, node)
        target = name(node.outputs[0])
        match nest.kind:
            case "reduce_sum" | "reduce_max":
                return [(write_reduce(body, node, target), used)]
            case "argmax":
                return [(write_argmax(body, node, target), used)]
            case "scatter_add":
                return [(write_scatter(body, node, target), used)]
        raise AssertionError(f"no lowering for {nest.kind}")

    def _contraction(self, nest: Nest, node: Node) -> list[tuple[Task, dict[str, Value]]]:
        pieces = solved(node)
        if pieces is None:
            body, used, name = self._body(nest)
            return [(write_scattered(body, node, name(node.output)), used)]
        bytes, bundles = self.emitter.vector_bytes, self.emitter.convolutions.get(node)
        if bundles is not None or can_tile(node, pieces, bytes):
            first, used, name = self._body(nest)

            def body_again() -> Body:
                return Body(first.maker, first.pointer)

            sides = sides_of([*nest.sides, *nest.operand_sums], name)
            sides, of_operands = sides[: len(nest.sides)], self._by_operand(node, sides[len(nest.sides) :])
            computed = frozenset(k for k, value in enumerate(node.inputs) if first.pointer(value) is None)
            in_loop = self.grouping.graph in self.emitter.looking_ahead
            kernel = KernelWriter(node, body_again, name, nest.roots, nest.keeps_result, sides, in_loop)
            # Only what has items is computed where it is copied: weights are not.
            one = bundles[0].whole if bundles is not None else None
            if bundles is not None and one is not None and (one.gives_taps or 1 - one.number not in computed):
                writer = GradientWriter if one.gives_taps else ResultsWriter
                return [(task, used) for task in writer(kernel, bundles, bytes, computed, of_operands).write()]
            return [(task, used) for task in TileWriter(kernel, pieces, bytes, computed, of_operands).write()]
        tasks = []
        for piece in pieces:
            body, used, name = self._body(nest)
            tasks.append((write_plain(body, node, piece, name(node.output), len(pieces) == 1), used))
        return tasks

    def _by_operand(self, node: Node, sums: Sequence[Side]) -> dict[int, list[Side]]:
        """The sums of operands by the number of the operand."""
        operands = [self.grouping.canonical(value) for value in node.inputs]
        found: dict[int, list[Side]] = {}
        for side in sums:
            found.setdefault(operands.index(self.grouping.canonical(side.node.inputs[0])), []).append(side)
        return found

    def _function(self, nest: Nest, task: Task, pointers: dict[str, Value]) -> None:
        name = f"nest_{self.emitter.nests}"
        self.emitter.nests += 1
        self.scratch = _larger(self.scratch, layout_of(task.regions)[1])
        comment = task.comment or formula_of(nest, self.grouping, self.pointer_name)
        texts = (
            (f"{name}_before", "void *context", task.before),
            (name, "void *context, long chunk", task.text),
            (f"{name}_after", "void *context", task.after and f"const long chunks = {task.chunks};\n{task.after}"),
        )
        for called, text in task.functions.items():
            if called not in self.emitter.called:
                self.emitter.called.add(called)
                self.emitter.functions.texts.append(text)
        declared = {pointer: (STORED[value.dtype], self.pointer_slot(value)) for pointer, value in pointers.items()}
        for title, parameters, text in texts:
            if not text:
                continue
            shown = comment if title == name else ""
            called, moved = self.emitter.functions.nest(title, parameters, declared, task.regions, text, shown)
            frame = self._frame(moved)
            if title != name:
                self.calls.line(f"{called}({frame});")
            elif task.chunks == "1":
                self.calls.line(f"{called}({frame}, 0);")
            else:
                self.calls.line(f"cr_parallel({called}, {frame}, {task.chunks});")

    def _frame(self, moved: Mapping[int, int]) -> str:
        """The frame of a call; where slots are ``moved``, of the function of another nest."""
        if not moved:
            return "&frame"
        self.moved = max(self.moved, *(there + 1 for there in moved))
        self.calls.line(" ".join(f"moved[{there}] = slot[{here}];" for there, here in moved.items()))
        return "&other"

    def pointer_slot(self, value: Value) -> int:
        return self.memory.slots[self.grouping.canonical(value)]

    def _loop(self, nest: Nest) -> None:
        """A loop: a function that calls that of its body, and the call of it."""
        node = nest.node
        assert node is not None, "a loop is a node"
        name = f"loop_{self.emitter.loops}"
        self.emitter.loops += 1
        number = self.emitter.numbers[node.attributes["body"]]
        write = write_scan if nest.kind == "scan" else write_fixed_point
        loop = write(node, name, number, self.pointer_slot, self.grouping.rows, profiled=self.emitter.profiled)
        comment = f"/* {formula_of(nest, self.grouping, self.pointer_name)} */\n"
        self.emitter.functions.texts.extend([loop.sizes, comment + loop.text])
        self.inner.append(loop.arena)
        self.borrowed.append(loop.borrowed)
        with shared_out(self.calls) if self.emitter.profiled and loop.is_shared_out else nullcontext():
            self.calls.line(loop.call)


def _write_most(w: Writer, sizes: Sequence[str]) -> None:
    """``most`` becomes the largest of these and itself."""
    for text in sizes:
        with w.block(""):
            w.line(f"const long inner = {text};")
            w.line("if (inner > most) most = inner;")


def _larger(x: Dim, y: Dim) -> Dim:
    """A size that covers both."""
    terms = zip_longest(*(d.coefficients if isinstance(d, Size) else (d,) for d in (x, y)), fillvalue=0)
    total: Dim = 0
    for power, pair in enumerate(terms):
        total = total + product([BATCH] * power) * max(pair)
    return total


def _role(maker: Node | None) -> str:
    """The layer that a value is computed in; ``d`` before it is a derivative with respect to something there."""
    if maker is None:
        return ""
    short = maker.origin.path.removeprefix("model.")
    return ".".join(part for part in ({"backward": "d", "update": "u"}.get(maker.origin.phase), short) if part)


def identifier(name: str) -> str:
    """A C identifier that tells of a name; anything unusual becomes an underscore."""
    short = name.removeprefix("state.").removeprefix("model.")
    clean = re.sub(r"[^A-Za-z0-9]+", "_", short).strip("_")[:48]
    return clean if clean and clean[0].isalpha() else f"t{clean}"
