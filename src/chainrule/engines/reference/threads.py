"""Which programs run their matrix products on one thread: those whose products are all small, with the same bits either way."""

from __future__ import annotations

from chainrule.ir.graph import Graph
from chainrule.ir.sizes import at

# Multiply-adds below which a product is left to one thread: some 0.2 ms of work.
SMALL = 2**23


def largest_product(graph: Graph, batch: int) -> int:
    """The multiply-adds of the largest contraction of a graph, bodies of loops included."""
    largest = 0
    for node in graph.nodes:
        if node.primitive.name == "contract":
            work = 1
            for extent in node.attributes["spec"].extents:
                work *= at(extent, batch)
            largest = max(largest, work)
        for _, body in node.subgraphs():
            largest = max(largest, largest_product(body, batch))
    return largest
