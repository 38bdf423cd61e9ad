"""From a graph to C in a straight list of named steps. Each can be printed (``steps_of``), and each is checked when it is done.

The bodies of loops are graphs of their own: every step does its work on each of them, and on the program last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from chainrule.engines.cpu import checks, show
from chainrule.engines.cpu.as_maps import write_as_maps
from chainrule.engines.cpu.conditions import keep_conditions
from chainrule.engines.cpu.contraction import solved
from chainrule.engines.cpu.emit import Source, emit_program
from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.inline import inline_calls
from chainrule.engines.cpu.joined_products import join_products
from chainrule.engines.cpu.known_sums import use_known_sums
from chainrule.engines.cpu.layouts import choose_layouts
from chainrule.engines.cpu.memory import Memory, plan_memory
from chainrule.engines.cpu.recomputed import recompute
from chainrule.engines.cpu.sections import cut_into_sections
from chainrule.engines.cpu.sunk_products import sink_products
from chainrule.engines.cpu.tile_items import adds_up_items, computed_by_item
from chainrule.engines.cpu.tile_plan import can_tile
from chainrule.engines.cpu.widen import widen
from chainrule.engines.cpu.winograd import bundles_in
from chainrule.engines.cpu.winograd_bundles import Bundle
from chainrule.ir.graph import Graph, Node


@dataclass(slots=True)
class Lowering:
    """A graph on its way: what the steps so far have made of it. ``groupings`` has the bodies of loops before what runs them,
    ``convolutions`` the contractions of the program that run by Winograd's algorithms."""

    graph: Graph
    donated: frozenset[int]
    vector_bytes: int
    profiled: bool = False
    groupings: list[Grouping] = field(default_factory=list)
    convolutions: dict[Node, list[Bundle]] = field(default_factory=dict)
    memories: list[Memory] = field(default_factory=list)
    source: Source = field(default_factory=lambda: Source("", [], {}))


@dataclass(frozen=True, slots=True)
class Step:
    """``key`` is its name in ``CHAINRULE_DEBUG`` and in file names."""

    name: str
    key: str
    run: Callable[[Lowering], None]
    check: Callable[[Lowering], None]
    text: Callable[[Lowering], str]


def _inline(lowering: Lowering) -> None:
    lowering.graph = inline_calls(lowering.graph)


def _widen(lowering: Lowering) -> None:
    lowering.graph = widen(lowering.graph)


def _write_as_maps(lowering: Lowering) -> None:
    lowering.graph = use_known_sums(write_as_maps(lowering.graph))


def _join_products(lowering: Lowering) -> None:
    lowering.graph = join_products(sink_products(lowering.graph))


def _choose_layouts(lowering: Lowering) -> None:
    lowering.graph = choose_layouts(lowering.graph, lowering.vector_bytes)


def _choose_stored(lowering: Lowering) -> None:
    pieces_of = cache(solved)

    @cache
    def has_epilogue(node: Node) -> bool:
        """Whether maps of the node's result can be computed along with it."""
        return node.primitive.name == "contract" and can_tile(node, pieces_of(node), lowering.vector_bytes)

    def has_sides(node: Node) -> bool:
        """Whether sums of such can be, too."""
        pieces = pieces_of(node) if has_epilogue(node) else None
        return pieces is not None and len(pieces) == 1

    @cache
    def copies(node: Node) -> frozenset[int]:
        """The operands that are copied before they are used, and may be computed on the way."""
        pieces = pieces_of(node) if has_epilogue(node) else None
        return computed_by_item(node, pieces, lowering.vector_bytes) if pieces is not None else frozenset()

    def adds_up(node: Node, number: int) -> bool:
        """Whether such a copy may add up its operand, too."""
        pieces = pieces_of(node) if number in copies(node) else None
        return pieces is not None and adds_up_items(pieces, number)

    lowering.groupings = [
        Grouping(graph, has_epilogue, has_sides, copies, adds_up) for graph in with_bodies(lowering.graph)
    ]


def _group(lowering: Lowering) -> None:
    for grouping in lowering.groupings:
        grouping.group()


def _cut_into_sections(lowering: Lowering) -> None:
    # The bodies of loops are called by slabs that the loop makes (slabs.py); no slab transforms weights for itself.
    program = lowering.groupings[-1]
    for node in program.graph.nodes:
        if node.primitive.name == "contract":
            found = bundles_in(node, solved(node), lowering.vector_bytes)
            if found is not None:
                lowering.convolutions[node] = found
    cut_into_sections(program, lowering.convolutions.__contains__)


def _keep_conditions(lowering: Lowering) -> None:
    # As with what is computed again, bodies of loops have what they need in a cache.
    keep_conditions(lowering.groupings[-1])


def _recompute(lowering: Lowering) -> None:
    # What the bodies of loops make for a slab stays in a cache.
    recompute(lowering.groupings[-1])


def _plan_memory(lowering: Lowering) -> None:
    *bodies, program = lowering.groupings
    lowering.memories = [plan_memory(grouping, frozenset()) for grouping in bodies]
    lowering.memories.append(plan_memory(program, lowering.donated))


def _write(lowering: Lowering) -> None:
    plans = list(zip(lowering.groupings, lowering.memories, strict=True))
    lowering.source = emit_program(plans, lowering.vector_bytes, lowering.convolutions, profiled=lowering.profiled)


def _each(check: Callable[[Grouping], None]) -> Callable[[Lowering], None]:
    def check_all(lowering: Lowering) -> None:
        for grouping in lowering.groupings:
            check(grouping)

    return check_all


def _check_sections(lowering: Lowering) -> None:
    for grouping in lowering.groupings:
        checks.check_nests(grouping)
        checks.check_sections(grouping)


def _check_memory(lowering: Lowering) -> None:
    *bodies, program = zip(lowering.groupings, lowering.memories, strict=True)
    for body in bodies:
        checks.check_memory(*body, frozenset())
    checks.check_memory(*program, lowering.donated)


STEPS = (
    Step(
        "inline calls",
        "inline",
        _inline,
        lambda lowering: checks.check_inlined(lowering.graph),
        lambda lowering: show.graph_text(lowering.graph),
    ),
    Step(
        "widen bfloat16",
        "widen",
        _widen,
        lambda lowering: checks.check_widened(lowering.graph),
        lambda lowering: show.graph_text(lowering.graph),
    ),
    Step(
        "write as maps",
        "maps",
        _write_as_maps,
        lambda lowering: checks.check_inlined(lowering.graph),
        lambda lowering: show.graph_text(lowering.graph),
    ),
    Step(
        "join products",
        "products",
        _join_products,
        lambda lowering: checks.check_inlined(lowering.graph),
        lambda lowering: show.graph_text(lowering.graph),
    ),
    Step(
        "choose layouts",
        "layouts",
        _choose_layouts,
        lambda lowering: checks.check_inlined(lowering.graph),
        lambda lowering: show.graph_text(lowering.graph),
    ),
    Step(
        "choose stored values",
        "stored",
        _choose_stored,
        _each(checks.check_stored),
        lambda lowering: show.stored_text(lowering.groupings),
    ),
    Step(
        "group into nests",
        "nests",
        _group,
        _each(checks.check_nests),
        lambda lowering: show.nests_text(lowering.groupings),
    ),
    Step(
        "cut into sections",
        "sections",
        _cut_into_sections,
        _check_sections,
        lambda lowering: show.sections_text(lowering.groupings),
    ),
    Step(
        "keep conditions",
        "conditions",
        _keep_conditions,
        _check_sections,
        lambda lowering: show.nests_text(lowering.groupings),
    ),
    Step(
        "compute again",
        "again",
        _recompute,
        _each(checks.check_nests),
        lambda lowering: show.nests_text(lowering.groupings),
    ),
    Step(
        "plan memory",
        "memory",
        _plan_memory,
        _check_memory,
        lambda lowering: show.memory_text(lowering.groupings, lowering.memories),
    ),
    # What the C reads and writes is checked access by access while it is written (``bounds.py``).
    Step("write C", "c", _write, lambda lowering: None, lambda lowering: lowering.source.text),
)


def lower(
    graph: Graph,
    donated: frozenset[int],
    vector_bytes: int,
    watch: Callable[[Step, Lowering], None] | None = None,
    *,
    profiled: bool = False,
) -> Lowering:
    """A verified graph as C, with a clock around every loop nest if ``profiled``. ``watch`` is called after each step, when it
    has been checked.

    Raises:
        AssertionError: if what a step made is wrong, which is a mistake in this engine; the message names the step and the value.
    """
    lowering = Lowering(graph, donated, vector_bytes, profiled)
    for step in STEPS:
        step.run(lowering)
        try:
            step.check(lowering)
        except AssertionError as error:
            raise AssertionError(f"lowering graph {graph.name!r}, after {step.name!r}: {error}") from None
        if watch is not None:
            watch(step, lowering)
    return lowering


def steps_of(graph: Graph, donated: frozenset[int], vector_bytes: int) -> list[tuple[str, str]]:
    """The name of every step and what it made, as text: the whole lowering is done again for it."""
    texts: list[tuple[str, str]] = []
    lower(graph, donated, vector_bytes, lambda step, lowering: texts.append((step.name, step.text(lowering))))
    return texts


def with_bodies(graph: Graph) -> list[Graph]:
    """The bodies of loops in a graph, each before what runs it, and the graph itself."""

    def visit(graph: Graph) -> Iterator[Graph]:
        for node in graph.nodes:
            for _, body in node.subgraphs():
                yield from visit(body)
        yield graph

    return list(dict.fromkeys(visit(graph)))
