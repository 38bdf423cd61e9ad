"""Reverse mode: walk the nodes backwards, apply one rule per node, add up what meets at a value.

The backward program is appended to the builder that holds the forward program, in the same primitives, so it is differentiated,
printed and compiled like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import GraphError
from chainrule.grad.rulesets import RuleSet
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Graph, Node, Origin, Value


class Backward:
    """One backward pass: the builder that it writes to, the rules, and the cotangents found so far."""

    def __init__(self, builder: Builder, rules: RuleSet) -> None:
        self.build = builder
        self.rules = rules
        self._cotangents: dict[Value, Value] = {}
        self._sums: dict[Value, Value] = {}

    def cotangent(self, value: Value) -> Value | None:
        return self._cotangents.get(value)

    def add(self, value: Value, cotangent: Value) -> None:
        """Add to the cotangent of a value."""
        if cotangent.type != value.type:
            raise GraphError(f"a cotangent of type {cotangent.type} was given to a value of type {value.type}")
        known = self._cotangents.get(value)
        if known is None:
            self._cotangents[value] = cotangent
            return
        # Of many small cotangents in bfloat16 the later ones would vanish beside the sum, were it not kept in float32.
        b = self.build
        self._sums[value] = b.add(self._sums.get(value) or b.wide(known), b.wide(cotangent))
        self._cotangents[value] = b.as_type(self._sums[value], value.dtype)

    def run(self, nodes: Sequence[Node], wrt: Sequence[Value]) -> None:
        """Apply the rules of the nodes that lie between ``wrt`` and the values that already have cotangents."""
        needed = _reached(nodes, wrt)
        for node in reversed(nodes):
            given = [self.cotangent(value) for value in node.outputs]
            if all(cotangent is None for cotangent in given):
                continue
            if not any(value in needed for value in node.inputs):
                continue
            with self.build.at(node.origin.in_phase("backward")):
                found = self.rules.rule(node)(self, node, given)
                for value, cotangent in zip(node.inputs, found, strict=True):
                    if cotangent is not None and value in needed:
                        self.add(value, cotangent)


def _reached(nodes: Sequence[Node], wrt: Sequence[Value]) -> set[Value]:
    """Every floating-point value that depends on one of ``wrt``."""
    reached = {value for value in wrt if value.dtype in FLOATS}
    for node in nodes:
        if node.primitive.name != "stop_gradient" and any(value in reached for value in node.inputs):
            reached.update(value for value in node.outputs if value.dtype in FLOATS)
    return reached


def backprop(
    builder: Builder, nodes: Sequence[Node], seeds: Mapping[Value, Value], wrt: Sequence[Value], rules: RuleSet
) -> list[Value | None]:
    """Append the backward program of ``nodes`` to the builder that holds them.

    ``seeds`` gives the cotangents of the results. Returns the cotangent of every value of ``wrt``: the sum over all paths of
    the products of local derivatives (the chain rule), or None where no path leads there. The primitives' rules come from
    ``rules``. Linnainmaa 1970; Rumelhart, Hinton & Williams 1986.
    """
    backward = Backward(builder, rules)
    for value, cotangent in seeds.items():
        backward.add(value, cotangent)
    backward.run(nodes, wrt)
    return [backward.cotangent(value) for value in wrt]


def backprop_graph(graph: Graph, rules: RuleSet, wrt: Sequence[int] | None = None) -> Graph:
    """The graph from (inputs, cotangents of the outputs) to (outputs, cotangents of the inputs numbered ``wrt``)."""
    builder = Builder()
    inputs = [builder.input(value.type, value.name) for value in graph.inputs]
    cotangent_inputs = [
        builder.input(value.type, f"d_{name}" if name else "") for value, name in zip(graph.outputs, graph.output_names)
    ]
    outputs, _ = builder.inline(graph, inputs)
    chosen = [inputs[i] for i in (wrt if wrt is not None else range(len(inputs)))]
    results = pull_back(builder, tuple(builder.nodes), outputs, cotangent_inputs, chosen, rules)
    names = (*graph.output_names, *(f"d_{value.name}" if value.name else "" for value in chosen))
    return builder.finish(f"{graph.name}.backward", [*outputs, *results], names)


def pull_back(
    builder: Builder,
    nodes: Sequence[Node],
    outputs: Sequence[Value],
    cotangents: Sequence[Value | None],
    wrt: Sequence[Value],
    rules: RuleSet,
) -> list[Value]:
    """Like :func:`backprop`, for outputs that may repeat and cotangents that may be absent; zeros where no path leads."""
    backward = Backward(builder, rules)
    for value, cotangent in zip(outputs, cotangents, strict=True):
        if cotangent is not None and value.dtype in FLOATS:
            backward.add(value, cotangent)
    backward.run(nodes, wrt)
    with builder.at(Origin(phase="backward")):
        return [backward.cotangent(value) or zeros(builder, value.type) for value in wrt]


def zeros(builder: Builder, type: ArrayType) -> Value:
    return builder.full(type, 0)
