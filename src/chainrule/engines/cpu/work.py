"""How much work a loop nest is: operations and bytes, by the shapes of its values, as sizes in the batch size."""

from __future__ import annotations

from dataclasses import dataclass

from chainrule.core.dtypes import WIDE_FLOATS
from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.memory import bytes_of
from chainrule.engines.cpu.nest import ELEMENTWISE, Nest
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Dim, product


@dataclass(frozen=True, slots=True)
class Work:
    """One loop nest as a row of a profile: where it comes from, what it computes, operations and bytes per call."""

    layer: str
    phase: str
    what: str
    dtype: str
    flops: Dim
    bytes: Dim


def work_of_nest(nest: Nest, grouping: Grouping, what: str) -> Work:
    flops: Dim = 0
    for node in nodes_of_nest(nest, grouping):
        flops = flops + operations_of(node)
    traffic: Dim = 0
    for value in dict.fromkeys((*nest.reads, *nest.written)):
        if value not in nest.made or value in nest.written:
            traffic = traffic + bytes_of(value)
    origins = [grouping.makers[value].origin for value in nest.made]
    layers = dict.fromkeys(origin.path for origin in origins if origin.path)
    types = [value.dtype for value in (*nest.made, *nest.reads) if value.dtype in WIDE_FLOATS]
    return Work(
        ", ".join(layers) or "-",
        "+".join(dict.fromkeys(origin.phase for origin in origins)),
        what,
        types[0] if types else nest.made[0].dtype,
        flops,
        traffic,
    )


def nodes_of_nest(nest: Nest, grouping: Grouping) -> list[Node]:
    """The nodes that a nest evaluates: its own, and the maps expanded into it, each once."""
    found: dict[Node, None] = {}
    made = set(nest.made)

    def visit(value: Value, top: bool = False) -> None:
        node = grouping.makers.get(value)
        if node is None or node in found or (grouping.is_stored(value) and value not in made and not top):
            return
        found[node] = None
        for operand in node.inputs:
            visit(operand)

    for value in nest.made:
        visit(value, True)
    return list(found)


def operations_of(node: Node) -> Dim:
    """The operations of a node, those of a loop of fixed length included."""
    name = node.primitive.name
    if name == "scan":
        body: Graph = node.attributes["body"]
        turn: Dim = 0
        for inner in body.nodes:
            turn = turn + operations_of(inner)
        length: int = node.attributes["length"]
        return turn * length
    if name == "contract":
        return 2 * product(node.attributes["spec"].extents)
    if name in ("reduce_sum", "reduce_max", "argmax", "scatter_add"):
        return product(node.inputs[0].shape)
    if name in ELEMENTWISE or name == "random_bits":
        return product(node.output.shape)
    return 0
