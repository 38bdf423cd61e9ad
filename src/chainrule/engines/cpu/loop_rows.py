"""Operands of which a loop takes a row in each step, where these are rows of another array: they are read where they lie.

``scan(f, c, x[[2, 0, 1]])`` reads rows 2, 0 and 1 of x, and no array of them is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chainrule.ir.graph import Graph, Node, Value


def rows_of_loops(graph: Graph) -> dict[Value, tuple[Value, list[int]]]:
    """For each value that only loops take rows of, and that has chosen rows of another value: that value, and their numbers."""
    makers = {value: node for node in graph.nodes for value in node.outputs}
    elsewhere = {*graph.outputs}
    steps: set[Value] = set()
    for node in graph.nodes:
        taken = set(_steps(node))
        elsewhere.update(value for number, value in enumerate(node.inputs) if number not in taken)
        steps.update(node.inputs[number] for number in taken)
    found = {}
    for value in makers.keys() & steps - elsewhere:
        numbers = _numbers(makers[value], makers.get)
        if numbers is not None:
            found[value] = makers[value].inputs[0], numbers
    return found


def _steps(node: Node) -> Iterator[int]:
    """The operands of which a loop takes a row in each step."""
    if node.primitive.name == "scan":
        yield from range(node.attributes["consts"] + node.attributes["carries"], len(node.inputs))


def _numbers(node: Node, maker: Callable[[Value], Node | None]) -> list[int] | None:
    """The numbers of the rows that a node chooses, where they are known and there."""
    if node.primitive.name != "gather" or node.attributes["batch"]:
        return None
    x, indices = node.inputs
    table = maker(indices)
    if table is None or table.primitive.name != "constant" or indices.type.rank != 1 or not isinstance(x.shape[0], int):
        return None
    numbers = [int(number) for number in table.attributes["value"]]
    return numbers if all(0 <= number < x.shape[0] for number in numbers) else None
