"""The cotangent of every value of a graph: what backpropagation computes on its way to the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import GraphError
from chainrule.grad import STANDARD, RuleSet
from chainrule.grad.backprop import Backward
from chainrule.ir.build import Builder
from chainrule.ir.graph import Graph, Origin, Value
from chainrule.ir.verify import verify


class WithCotangents(NamedTuple):
    """A graph followed by its backward half, and the value of the latter that is ∂L/∂v for each value v of the former."""

    graph: Graph
    cotangents: Mapping[Value, Value]


def with_cotangents(graph: Graph, output: str | int = 0, rules: RuleSet = STANDARD) -> WithCotangents:
    """Append backpropagation of a scalar output, given by name or number, to a graph whose values it keeps.

    ``cotangents[v]`` is ∂L/∂v for every floating-point value v through which an input reaches the output L. Running the
    result with :func:`~chainrule.insight.observe` gives the numbers of both halves. Raises :class:`GraphError` where the
    graph has no such output or the output is no floating-point scalar.
    """
    loss = _output(graph, output)
    builder = Builder()
    builder.inputs, builder.nodes = list(graph.inputs), list(graph.nodes)
    with builder.at(Origin(phase="backward")):
        seed = builder.full(loss.type, 1)
    backward = Backward(builder, rules)
    backward.add(loss, seed)
    backward.run(graph.nodes, [value for value in graph.inputs if value.dtype in FLOATS])
    whole = replace(graph, nodes=tuple(builder.nodes))
    forward = (*graph.inputs, *(value for node in graph.nodes for value in node.outputs))
    found = {value: backward.cotangent(value) for value in forward}
    return WithCotangents(verify(whole), {value: g for value, g in found.items() if g is not None})


def _output(graph: Graph, output: str | int) -> Value:
    if isinstance(output, str):
        if output not in graph.output_names:
            names = ", ".join(name for name in graph.output_names if name) or "none with a name"
            raise GraphError(f"graph {graph.name!r} has no output {output!r}; it has {names}")
        output = graph.output_names.index(output)
    if not 0 <= output < len(graph.outputs):
        raise GraphError(f"graph {graph.name!r} has {len(graph.outputs)} outputs and none numbered {output}")
    loss = graph.outputs[output]
    if loss.shape != () or loss.dtype not in FLOATS:
        raise GraphError(f"only a floating-point scalar is backpropagated, and output {output} is {loss.type}")
    return loss
