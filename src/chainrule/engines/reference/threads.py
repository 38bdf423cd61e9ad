"""Small matrix products run on one thread.

A BLAS wakes all its threads for products that one thread finishes in a fraction of a millisecond, and where other processes use the
cores, waiting for those threads takes a hundred times as long as the product. The results have the same bits either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

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


@cache
def _libraries() -> list[Any]:
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let matrix products inside use one thread."""
    before = [library.get_num_threads() for library in _libraries()]
    for library in _libraries():
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, threads in zip(_libraries(), before, strict=True):
            library.set_num_threads(threads)
