"""Remove what no output needs, within loop bodies too."""

from __future__ import annotations

from dataclasses import replace

from chainrule.ir.graph import Graph, Node, Value


def prune(graph: Graph) -> Graph:
    """Drop nodes whose results nothing uses, and stacked results, constants and carries of scans that nothing uses."""
    needed: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not any(value in needed for value in node.outputs):
            continue
        node = node.rewired({}, {name: prune(body) for name, body in node.subgraphs()})
        if node.primitive.name == "scan":
            node = _prune_scan(node, needed)
        needed.update(node.inputs)
        kept.append(node)
    return graph.rewritten(kept[::-1], graph.outputs)


def _prune_scan(node: Node, needed: set[Value]) -> Node:
    """Keep the carries that a kept result depends on, the stacked results that are used, the operands that are read."""
    body: Graph = node.attributes["body"]
    consts, carries = node.attributes["consts"], node.attributes["carries"]
    collected = [k for k in range(carries, len(node.outputs)) if node.outputs[k] in needed]
    kept_carries = {k for k in range(carries) if node.outputs[k] in needed}
    while True:
        read = _read_by(body, [body.outputs[k] for k in (*sorted(kept_carries), *collected)])
        more = {k for k in range(carries) if body.inputs[consts + k] in read}
        if more <= kept_carries:
            break
        kept_carries |= more
    order = sorted(kept_carries)
    kept_consts = [k for k in range(consts) if body.inputs[k] in read]
    stepped = [k for k in range(consts + carries, len(body.inputs)) if body.inputs[k] in read]
    inputs = [*kept_consts, *(consts + k for k in order), *stepped]
    outputs = [*order, *collected]
    if len(inputs) == len(node.inputs) and len(outputs) == len(node.outputs):
        return node
    smaller = prune(
        Graph(
            body.name,
            tuple(body.inputs[k] for k in inputs),
            body.nodes,
            tuple(body.outputs[k] for k in outputs),
            tuple(body.output_names[k] for k in outputs),
        )
    )
    attributes = {**node.attributes, "body": smaller, "consts": len(kept_consts), "carries": len(order)}
    return replace(
        node,
        inputs=tuple(node.inputs[k] for k in inputs),
        outputs=tuple(node.outputs[k] for k in outputs),
        attributes=attributes,
    )


def _read_by(body: Graph, outputs: list[Value]) -> set[Value]:
    needed = set(outputs)
    for node in reversed(body.nodes):
        if any(value in needed for value in node.outputs):
            needed.update(node.inputs)
    return needed
