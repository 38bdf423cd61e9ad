"""Calls written out: a graph without ``call`` nodes, and without what then nothing needs, bodies of loops included."""

from __future__ import annotations

from dataclasses import replace

from chainrule.ir.build import Builder
from chainrule.ir.graph import Graph, Node, Value


def inline_calls(graph: Graph) -> Graph:
    """The same graph with every call replaced by the nodes of its body."""
    if not any(node.primitive.name == "call" or any(node.subgraphs()) for node in graph.nodes):
        return live(graph)
    builder = Builder()
    known: dict[Value, Value] = {value: value for value in graph.inputs}
    builder.inputs.extend(graph.inputs)
    for node in graph.nodes:
        inputs = tuple(known[value] for value in node.inputs)
        if node.primitive.name == "call":
            results, _ = builder.inline(inline_calls(node.attributes["body"]), inputs)
            known.update(zip(node.outputs, results, strict=True))
            continue
        attributes = {k: inline_calls(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
        builder.append(Node(node.primitive, inputs, attributes, node.outputs, node.origin))
        known.update(zip(node.outputs, node.outputs, strict=True))
    return live(builder.finish(graph.name, [known[value] for value in graph.outputs], graph.output_names))


def live(graph: Graph) -> Graph:
    """The graph without nodes whose results nothing needs."""
    needed = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    return replace(graph, nodes=tuple(reversed(nodes)))
