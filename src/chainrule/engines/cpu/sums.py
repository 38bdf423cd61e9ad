"""Contractions that only multiply element by element and add up, written as what they are: a product and a sum.

    Σ_k a[i, k]·b[i, k]   becomes   reduce_sum(mul(a, b))

The squares of a gradient and the products of a normalisation's backward pass are such sums. As maps and reductions they can be
computed where their operands are made (``grouping.py``), without a pass over memory of their own.
"""

from __future__ import annotations

from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, IndexMap
from chainrule.ir.graph import Graph, Node, Value


def write_sums(graph: Graph) -> Graph:
    """The same graph, loop bodies included, without contractions of elementwise products."""
    builder = Builder()
    builder.inputs.extend(graph.inputs)
    known: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = tuple(known.get(value, value) for value in node.inputs)
        axes = _summed_axes(node)
        if axes is None:
            attributes = {k: write_sums(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
            builder.append(Node(node.primitive, inputs, attributes, node.outputs, node.origin))
            continue
        with builder.at(node.origin):
            product = builder.mul(*inputs)
            known[node.output] = builder.reduce_sum(product, axes) if axes else product
    return builder.finish(graph.name, [known.get(value, value) for value in graph.outputs], graph.output_names)


def _summed_axes(node: Node) -> tuple[int, ...] | None:
    """The axes of the operands that a contraction adds up, if it is a sum of elementwise products; else None."""
    if node.primitive.name != "contract" or node.inputs[0].type != node.inputs[1].type:
        return None
    spec: Contraction = node.attributes["spec"]
    a, b, out = _places(spec.a), _places(spec.b), _places(spec.out)
    if a is None or a != b or out is None or sorted(a) != list(range(len(spec.extents))):
        return None
    if node.inputs[0].shape != tuple(spec.extents[k] for k in a) or out != [k for k in a if k in out]:
        return None
    if node.output.shape != tuple(spec.extents[k] for k in out):
        return None
    return tuple(axis for axis, k in enumerate(a) if k not in out)


def _places(index_map: IndexMap) -> list[int] | None:
    """The indices that a map gives one by one, or None where it does anything else."""
    found = []
    for coordinate in index_map:
        if coordinate.offset != 0 or len(coordinate.terms) != 1 or coordinate.terms[0][1] != 1:
            return None
        found.append(coordinate.terms[0][0])
    return found
