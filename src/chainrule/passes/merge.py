"""Compute once what is written several times (common subexpressions)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from chainrule.ir.graph import Graph, Node, Value


def merge_equal(graph: Graph) -> Graph:
    """Let nodes with the same primitive, operands and attributes share one result. Loops are left apart."""
    known: dict[Value, Value] = {}
    first: dict[Hashable, Node] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        bodies = {name: merge_equal(body) for name, body in node.subgraphs()}
        node = node.rewired(known, bodies)
        if bodies:
            kept.append(node)
            continue
        key = (
            node.primitive.name,
            node.inputs,
            tuple((name, attribute_key(value)) for name, value in sorted(node.attributes.items())),
        )
        twin = first.setdefault(key, node)
        if twin is node:
            kept.append(node)
        else:
            known.update(zip(node.outputs, twin.outputs, strict=True))
    return graph.rewritten(kept, [known.get(value, value) for value in graph.outputs])


def attribute_key(value: Any) -> Hashable:
    """Something hashable that is equal for equal attributes only: -0.0 is not 0.0, and 1 is not 1.0 nor True."""
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, tuple):
        return tuple(attribute_key(item) for item in value)
    if isinstance(value, float):
        return ("float", value.hex())
    return (type(value).__name__, value)
