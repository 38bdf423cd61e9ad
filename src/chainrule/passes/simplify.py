"""Algebra that never changes a bit of the result: one short rule per primitive.

A rule sees a node whose operands are already simplified and returns the value to use instead, or None. Only identities that hold
for NaN, infinities and signed zeros are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS, convert
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction
from chainrule.ir.graph import Graph, Node, Value


class _Context:
    """What a rule may look at and write with."""

    def __init__(self) -> None:
        self.build = Builder()
        self.made: dict[Value, Node] = {}
        self.position = 0

    def note(self) -> None:
        """Remember who made the values of the nodes appended since the last call."""
        for node in self.build.nodes[self.position :]:
            for value in node.outputs:
                self.made[value] = node
        self.position = len(self.build.nodes)

    def maker(self, value: Value, primitive: str) -> Node | None:
        node = self.made.get(value)
        return node if node is not None and node.primitive.name == primitive else None

    def number(self, value: Value) -> Any:
        """The number that every element of a value is, if that is written in the graph; else None."""
        spread = self.maker(value, "broadcast")
        while spread is not None:
            value = spread.inputs[0]
            spread = self.maker(value, "broadcast")
        constant = self.maker(value, "constant")
        if constant is None or constant.attributes["value"].ndim:
            return None
        return constant.attributes["value"]

    def is_number(self, value: Value, number: float) -> bool:
        """Whether every element is this very number, sign of zero included."""
        found = self.number(value)
        return found is not None and bool(found == number) and bool(np.signbit(found) == np.signbit(number))


Rule = Callable[[_Context, Node], Value | None]


def _mul(c: _Context, node: Node) -> Value | None:
    x, y = node.inputs
    if c.is_number(y, 1):
        return x
    return y if c.is_number(x, 1) else None


def _div(c: _Context, node: Node) -> Value | None:
    return node.inputs[0] if c.is_number(node.inputs[1], 1) else None


def _add(c: _Context, node: Node) -> Value | None:
    # x + (-0) is x for every x; x + 0 is not (it turns -0 into 0).
    x, y = node.inputs
    if c.is_number(y, -0.0) and x.dtype in FLOATS:
        return x
    return y if c.is_number(x, -0.0) and x.dtype in FLOATS else None


def _sub(c: _Context, node: Node) -> Value | None:
    x, y = node.inputs
    return x if c.is_number(y, 0.0) else None


def _neg(c: _Context, node: Node) -> Value | None:
    inner = c.maker(node.inputs[0], "neg")
    return inner.inputs[0] if inner is not None else None


def _pow(c: _Context, node: Node) -> Value | None:
    x, p = node.inputs
    return x if c.is_number(p, 1) else None


def _cast(c: _Context, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.dtype == node.output.dtype:
        return x
    number = c.number(x)
    if number is None:
        return None
    converted: Any = convert(number, node.output.dtype)
    return c.build.full(node.output.type, converted)


def _reshape(c: _Context, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.shape == node.output.shape:
        return x
    inner = c.maker(x, "reshape")
    return c.build.reshape(inner.inputs[0], node.output.shape) if inner is not None else None


def _transpose(c: _Context, node: Node) -> Value | None:
    order = node.attributes["order"]
    (x,) = node.inputs
    if list(order) == list(range(len(order))):
        return x
    inner = c.maker(x, "transpose")
    if inner is None:
        return None
    return c.build.transpose(inner.inputs[0], [inner.attributes["order"][axis] for axis in order])


def _broadcast(c: _Context, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.shape == node.output.shape:
        return x
    inner = c.maker(x, "broadcast")
    if inner is None:
        return None
    axes = [node.attributes["axes"][axis] for axis in inner.attributes["axes"]]
    return c.build.broadcast(inner.inputs[0], node.output.shape, axes)


def _reduce(c: _Context, node: Node) -> Value | None:
    return c.build.as_type(node.inputs[0], node.output.dtype) if not node.attributes["axes"] else None


def _slice(c: _Context, node: Node) -> Value | None:
    whole = node.output.shape == node.inputs[0].shape and all(s == 1 for s in node.attributes["strides"])
    return node.inputs[0] if whole else None


def _pad(c: _Context, node: Node) -> Value | None:
    return node.inputs[0] if node.output.shape == node.inputs[0].shape else None


def _concatenate(c: _Context, node: Node) -> Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _flip(c: _Context, node: Node) -> Value | None:
    return node.inputs[0] if not node.attributes["axes"] else None


def _contract(c: _Context, node: Node) -> Value | None:
    """Take transpositions of the operands into the index maps: a contraction reads in any order at no cost."""
    spec: Contraction = node.attributes["spec"]
    maps, operands = [spec.a, spec.b], list(node.inputs)
    for k, value in enumerate(operands):
        inner = c.maker(value, "transpose")
        if inner is not None:
            coordinates: list[Affine] = [Affine()] * len(maps[k])
            for axis, source in enumerate(inner.attributes["order"]):
                coordinates[source] = maps[k][axis]
            maps[k], operands[k] = tuple(coordinates), inner.inputs[0]
    if operands == list(node.inputs):
        return None
    return c.build.contract(Contraction(spec.extents, spec.out, maps[0], maps[1], spec.shape), *operands)


def _outer_stop(c: _Context, node: Node) -> Value | None:
    return node.inputs[0]


RULES: Mapping[str, Rule] = {
    "mul": _mul,
    "div": _div,
    "add": _add,
    "sub": _sub,
    "neg": _neg,
    "pow": _pow,
    "cast": _cast,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "reduce_sum": _reduce,
    "reduce_max": _reduce,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "flip": _flip,
    "contract": _contract,
    # By the time a graph is optimised every gradient has been taken.
    "stop_gradient": _outer_stop,
}


def simplify(graph: Graph) -> Graph:
    """Rewrite every node by the rule of its primitive until none applies."""
    context = _Context()
    build = context.build
    known: dict[Value, Value] = {}
    for node in graph.nodes:
        current = node.rewired(known, {name: simplify(body) for name, body in node.subgraphs()})
        replacement = _rewrite(context, current)
        if replacement is None:
            build.append(current)
            context.note()
        else:
            known[node.output] = replacement
    return graph.rewritten(build.nodes, [known.get(value, value) for value in graph.outputs])


def _rewrite(context: _Context, node: Node) -> Value | None:
    rule = RULES.get(node.primitive.name)
    if rule is None:
        return None
    with context.build.at(node.origin):
        replacement = rule(context, node)
    context.note()
    while replacement is not None:
        maker = context.made.get(replacement)
        if maker is None or maker.primitive.name not in RULES or maker is not context.build.nodes[-1]:
            break
        with context.build.at(maker.origin):
            further = RULES[maker.primitive.name](context, maker)
        context.note()
        if further is None:
            break
        replacement = further
    return replacement
