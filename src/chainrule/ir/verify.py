"""The verifier: what must hold of every graph, checked after tracing, after every pass and after reading text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from chainrule.core.dtypes import ALL
from chainrule.core.errors import ChainruleError, GraphError
from chainrule.ir.attributes import check_attributes
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import Size


def verify(graph: Graph) -> Graph:
    """Check that a graph is well formed and return it.

    Every value is defined once and before it is used; every primitive is in the table and has exactly its attributes and
    operands; every result type is the one that the typing rule gives; bodies of loops are well formed too. What concerns a node
    alone is checked once in its life. Raises :class:`GraphError` naming the graph, the node's number and its origin.
    """
    defined: set[Value] = set()
    where: Callable[[], str] = partial("graph {!r}, inputs".format, graph.name)
    for value in graph.inputs:
        _check_type(value, where)
        _define(value, defined, where)
    for number, node in enumerate(graph.nodes):
        where = partial(_place, graph, number, node)
        for value in node.inputs:
            if value not in defined:
                raise GraphError(f"{where()}: an operand is used before it is defined")
        for _, body in node.subgraphs():
            verify(body)
        if not node.is_typed:
            _check_node(node, where)
            node.note_typed()
        for value in node.outputs:
            _define(value, defined, where)
    for value in graph.outputs:
        if value not in defined:
            raise GraphError(f"graph {graph.name!r} returns a value that nothing in it defines: {value!r}")
    if len(graph.output_names) != len(graph.outputs):
        raise GraphError(f"graph {graph.name!r} has {len(graph.outputs)} outputs but {len(graph.output_names)} names")
    return graph


def _place(graph: Graph, number: int, node: Node) -> str:
    return f"graph {graph.name!r}, node {number} ({node.primitive.name}) from {node.origin}"


def _define(value: Value, defined: set[Value], where: Callable[[], str]) -> None:
    if value in defined:
        raise GraphError(f"{where()}: a value is defined twice")
    defined.add(value)


def _check_type(value: Value, where: Callable[[], str]) -> None:
    sizes = [size for size in value.shape if not isinstance(size, Size)]
    if value.dtype not in ALL or any(type(size) is not int or size < 0 for size in sizes):
        raise GraphError(f"{where()}: a value has the impossible type {value.dtype} of shape {value.shape}")


def _check_node(node: Node, where: Callable[[], str]) -> None:
    """What must hold of a node wherever it stands."""
    primitive = node.primitive
    if PRIMITIVES.get(primitive.name) is not primitive:
        raise GraphError(f"{where()}: it is not in the primitive table")
    if set(node.attributes) != set(primitive.attributes):
        raise GraphError(
            f"{where()}: it has attributes {sorted(node.attributes)} instead of {sorted(primitive.attributes)}"
        )
    if primitive.arity is not None and primitive.arity != len(node.inputs):
        raise GraphError(f"{where()}: it has {len(node.inputs)} operands instead of {primitive.arity}")
    try:
        check_attributes(primitive.name, node.attributes)
        types = primitive.infer([value.type for value in node.inputs], node.attributes)
    except ChainruleError as error:
        raise GraphError(f"{where()}: {error}") from None
    found = tuple(value.type for value in node.outputs)
    if types != found:
        raise GraphError(f"{where()}: its results are typed {found} but the typing rule gives {types}")
    for value in node.outputs:
        _check_type(value, where)
