"""The list of passes that every compiled graph goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.core.errors import GraphError
from chainrule.core.source_code import code_digest
from chainrule.ir.graph import Graph
from chainrule.ir.verify import verify
from chainrule.passes.loops import move_out_of_loops
from chainrule.passes.merge import merge_equal
from chainrule.passes.prune import prune
from chainrule.passes.simplify import simplify

Pass = Callable[[Graph], Graph]

PASSES: Sequence[tuple[str, Pass]] = (
    ("prune", prune),
    ("simplify", simplify),
    ("merge_equal", merge_equal),
    ("move_out_of_loops", move_out_of_loops),
    ("simplify_again", simplify),
    ("prune_again", prune),
)


def identity() -> str:
    """A text that changes with whatever :func:`optimise` depends on besides the graph: the code of the passes and of graphs."""
    return code_digest("chainrule.core", "chainrule.ir", "chainrule.passes")


def optimise(graph: Graph, observe: Callable[[str, Graph], None] | None = None) -> Graph:
    """Run every pass in order; ``observe(name, graph)`` sees the graph after each.

    Whatever a pass has changed is verified, and that inputs and the types of outputs are still the same.
    """
    signature = graph.input_types, graph.output_types
    for name, rewrite in PASSES:
        before, graph = graph, rewrite(graph)
        if graph is not before:
            verify(graph)
            if (graph.input_types, graph.output_types) != signature:
                raise GraphError(f"graph {graph.name!r}: the pass {name} changed the types of its inputs or outputs")
        if observe is not None:
            observe(name, graph)
    return graph
