"""Arithmetic on bfloat16 written as arithmetic on float32 between casts, which is what it means.

    z = f(x, y)        becomes   z = bfloat16(f(float32(x), float32(y)))

Then bfloat16 is only moved, stored and converted, and in C its elements are the 16 bits they are. What several operations read,
forwards and backwards, is converted for them once.
"""

from __future__ import annotations

from collections.abc import Iterator

from chainrule.core.dtypes import BFLOAT16, INT64
from chainrule.ir.build import Builder
from chainrule.ir.graph import Graph, Node, Value

# These do nothing with elements but move them; loops are widened inside.
_MOVES = frozenset({"select", "cast", "stop_gradient", "gather"})
_FAMILIES = frozenset({"view", "source", "loop"})


def widen(graph: Graph) -> Graph:
    """The same graph, loop bodies included, with every operation on bfloat16 written so."""
    builder = Builder()
    builder.inputs.extend(graph.inputs)
    known: dict[Value, Value] = {}
    converted: dict[Value, Value] = {}

    def wide(value: Value) -> Value:
        if value not in converted:
            converted[value] = builder.wide(value)
        return converted[value]

    for node in graph.nodes:
        inputs = tuple(known.get(value, value) for value in node.inputs)
        name = node.primitive.name
        with builder.at(node.origin):
            if name == "iota" and node.output.dtype == BFLOAT16:
                (counted,) = builder.emit(name, (), {**node.attributes, "dtype": INT64})
                known[node.output] = builder.cast(counted, BFLOAT16)
            elif _computes_narrow(node):
                (result,) = builder.emit(name, [wide(value) for value in inputs], node.attributes)
                known[node.output] = builder.as_type(result, node.output.dtype)
            else:
                attributes = {k: widen(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
                builder.append(Node(node.primitive, inputs, attributes, node.outputs, node.origin))
    return builder.finish(graph.name, [known.get(value, value) for value in graph.outputs], graph.output_names)


def _computes_narrow(node: Node) -> bool:
    moves = node.primitive.name in _MOVES or node.primitive.family in _FAMILIES
    return not moves and any(value.dtype == BFLOAT16 for value in node.inputs)


def computing_narrow(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of its loop bodies that compute with bfloat16."""
    for node in graph.nodes:
        if _computes_narrow(node):
            yield node
        for _, body in node.subgraphs():
            yield from computing_narrow(body)
