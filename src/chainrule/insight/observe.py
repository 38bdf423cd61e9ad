"""Every intermediate array of a run, and where the first NaN or infinity of a failed run came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.engines.reference import ReferenceProgram
from chainrule.ir.graph import Graph, Node, Origin, Value

NDArray = np.ndarray[Any, Any]


def observe(graph: Graph, arrays: Sequence[NDArray]) -> dict[Value, NDArray]:
    """The array that every value of a graph is, inputs included, when it runs on ``arrays`` on the reference engine.

    Values inside the bodies of loops are not among them: they are another array in every step. Raises
    :class:`ShapeError` naming the input that does not fit.
    """
    outermost = set(graph.nodes)
    seen: dict[Value, NDArray] = dict(zip(graph.inputs, arrays, strict=True))

    def keep(node: Node, operands: Sequence[NDArray], results: Sequence[NDArray]) -> None:
        if node in outermost:
            seen.update(zip(node.outputs, results, strict=True))

    ReferenceProgram(graph).observe(arrays, keep)
    return seen


class FirstNonFinite(NamedTuple):
    """The node that made a NaN or an infinity out of finite numbers, and the layer and source line it comes from.

    ``node`` is None where an input of the graph was not finite; the path of the origin is then the input's name, such
    as ``model.layers.0.weight``.
    """

    node: Node | None
    origin: Origin

    def __str__(self) -> str:
        if self.node is None:
            return f"the input {self.origin.path!r}"
        backward = "the backward pass of " if self.origin.phase == "backward" else ""
        return f"{self.node.primitive.name} in {backward}{self.origin}"


def first_nonfinite(graph: Graph, arrays: Sequence[NDArray]) -> FirstNonFinite | None:
    """Where the first NaN or infinity arose that reached an output of the graph; None where all outputs are finite.

    From the first output that is not finite, the values that are not finite are followed backwards to the nodes whose
    operands were all finite; the earliest is the answer. An infinity that does no harm, such as a mask's, is not
    blamed, nor is a NaN that stands in the program, but the node that lets it through. Inside a loop the node of the
    body is named, at the first step whose results are not finite.
    """
    found = _source(graph, _nonfinite_values(graph, arrays).__contains__)
    while isinstance(found, Node):
        inner = _source_in_bodies(graph, arrays, found)
        if inner is None:
            return FirstNonFinite(found, found.origin)
        found = inner
    return None if found is None else FirstNonFinite(None, Origin(path=found.name))


class _Enough(Exception):  # noqa: N818 - it ends a run early and is no error
    pass


def _nonfinite_values(graph: Graph, arrays: Sequence[NDArray]) -> set[Value]:
    """The values that are not finite, up to the first output that is not: the run ends there, and keeps no arrays."""
    outermost, outputs, written = set(graph.nodes), set(graph.outputs), _Written(graph)
    found = {value for value, array in zip(graph.inputs, arrays, strict=True) if _is_bad(value, array)}

    def watch(node: Node, operands: Sequence[NDArray], results: Sequence[NDArray]) -> None:
        if node not in outermost:
            return
        bad = [value for value, array in zip(node.outputs, results, strict=True) if _is_bad(value, array)]
        if bad and written.made(node):
            return
        found.update(bad)
        if not outputs.isdisjoint(bad):
            raise _Enough

    with suppress(_Enough):
        ReferenceProgram(graph).observe(arrays, watch)
    return found


def _source(graph: Graph, is_bad: Callable[[Value], bool]) -> Node | Value | None:
    """The earliest node, or else input, that is not finite, has finite operands only, and leads to an output."""
    suspects = set(filter(is_bad, graph.outputs))
    source: Node | Value | None = None
    for node in reversed(graph.nodes):
        if any(value in suspects for value in node.outputs):
            causes = list(filter(is_bad, node.inputs))
            suspects.update(causes)
            source = source if causes else node
    spoilt = [value for value in graph.inputs if value in suspects]
    return spoilt[0] if spoilt else source


class _Written:
    """The values that are not finite because the program has it so: constants, and what is made of constants and such values."""

    def __init__(self, graph: Graph) -> None:
        self.outputs = set(graph.outputs)
        self.values: set[Value] = set()
        self.constant: set[Value] = set()
        for node in graph.nodes:
            if self.constant.issuperset(node.inputs):
                self.constant.update(node.outputs)

    def made(self, node: Node) -> bool:
        """Whether results of a node that are not finite are such values, which is noted. Outputs of the graph are none."""
        if not self.constant.issuperset(node.outputs) or not self.outputs.isdisjoint(node.outputs):
            return False
        if node.inputs and self.values.isdisjoint(node.inputs):
            return False
        self.values.update(node.outputs)
        return True


def _is_bad(value: Value, array: NDArray) -> bool:
    return value.dtype in FLOATS and not bool(np.isfinite(array).all())


class _Found(Exception):  # noqa: N818 - it ends a run early and is no error
    def __init__(self, source: Node) -> None:
        self.source = source


def _source_in_bodies(graph: Graph, arrays: Sequence[NDArray], loop: Node) -> Node | None:
    """The node inside the body of ``loop`` that is to blame, at the first pass of the body with results that are bad."""
    bodies = {body.nodes[-1]: body for name, body in loop.subgraphs() if name == "body" and body.nodes}
    if not bodies:
        return None
    members = {node: body for body in bodies.values() for node in body.nodes}
    written = {body: _Written(body) for body in bodies.values()}
    # An input that no node reads is handed through as it is: it is never the source.
    seen: dict[Value, NDArray] = {value: np.zeros(()) for body in bodies.values() for value in body.inputs}

    def watch(node: Node, operands: Sequence[NDArray], results: Sequence[NDArray]) -> None:
        if node in members:
            seen.update(zip(node.inputs, operands, strict=True))
            seen.update(zip(node.outputs, results, strict=True))
            if any(map(_is_bad, node.outputs, results)):
                written[members[node]].made(node)
        if node in bodies:
            known = written[bodies[node]].values
            source = _source(bodies[node], lambda value: value not in known and _is_bad(value, seen[value]))
            if isinstance(source, Node):
                raise _Found(source)

    try:
        ReferenceProgram(graph).observe(arrays, watch)
    except _Found as found:
        return found.source
    return None
