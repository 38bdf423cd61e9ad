"""Nodes that are elementwise in disguise, written as maps and sums, which can be computed where their operands are made.

    Σ_k a[i, k]·b[i, k]                              becomes   reduce_sum(mul(a, b))
    out[i, p[i]] += x[i], one p for each row         becomes   select(j == p[i], x[i], 0)

The squares of a gradient and the products of a normalisation's backward pass are such sums; the gradient of choosing one logit
in each row is such a scatter.

    y = select(x <= 0, 0, x), and x <= 0 again       becomes   y, and y == 0

Where a rectifier cuts off is then told by its result, which is kept in any case, also where x is NaN or -0: there is no array of
conditions to write, and what is computed after a product stays in vectors of one width.
"""

from __future__ import annotations

from collections.abc import Mapping

from chainrule.core.dtypes import FLOATS
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, IndexMap
from chainrule.ir.graph import Graph, Node, Value


def write_as_maps(graph: Graph) -> Graph:
    """The same graph, loop bodies included, with such nodes written as maps and sums."""
    builder = Builder()
    builder.inputs.extend(graph.inputs)
    known: dict[Value, Value] = {}
    makers: dict[Value, Node] = {}
    for node in graph.nodes:
        makers.update((value, node) for value in node.outputs)
        inputs = tuple(known.get(value, value) for value in node.inputs)
        axes = _summed_axes(node)
        with builder.at(node.origin):
            if axes is not None:
                product = builder.mul(*inputs)
                known[node.output] = builder.reduce_sum(product, axes) if axes else product
            elif _is_selection(node):
                known[node.output] = _selection(builder, node, *inputs)
            else:
                attributes = {k: write_as_maps(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
                builder.append(Node(node.primitive, inputs, attributes, node.outputs, node.origin))
                if _is_rectifier(node, makers):
                    known[node.inputs[0]] = builder.eq(node.output, inputs[1])
    return builder.finish(graph.name, [known.get(value, value) for value in graph.outputs], graph.output_names)


def _is_rectifier(node: Node, makers: Mapping[Value, Node]) -> bool:
    """Whether a node is ``select(x <= 0, 0, x)``."""
    if node.primitive.name != "select" or node.output.dtype not in FLOATS:
        return False
    condition, zero, x = node.inputs
    compared = makers.get(condition)
    if compared is None or compared.primitive.name != "le" or compared.inputs[0] is not x:
        return False
    return _is_zero(compared.inputs[1], makers) and _is_zero(zero, makers)


def _is_zero(value: Value, makers: Mapping[Value, Node]) -> bool:
    node = makers.get(value)
    while node is not None and node.primitive.name == "broadcast":
        node = makers.get(node.inputs[0])
    return node is not None and node.primitive.name == "constant" and not node.attributes["value"].any()


def _is_selection(node: Node) -> bool:
    """Whether a scatter has one place for each row, so that no two elements are added up."""
    return node.primitive.name == "scatter_add" and node.attributes["batch"] == len(node.inputs[1].shape)


def _selection(builder: Builder, node: Node, x: Value, places: Value) -> Value:
    batch, shape = node.attributes["batch"], node.output.shape
    leading = tuple(range(batch))
    wanted = builder.broadcast(places, shape, leading)
    here = builder.eq(builder.iota(shape, batch, places.dtype), wanted)
    spread = builder.broadcast(x, shape, (*leading, *range(batch + 1, len(shape))))
    return builder.select(here, spread, builder.full(node.output.type, 0))


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
