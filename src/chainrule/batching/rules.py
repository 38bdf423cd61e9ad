"""How each primitive is applied to many elements at once: a table keyed by primitive.

A batched value has the elements along its first axis; one that is the same for all elements stays as it is. A rule is only
asked when some operand is batched, and returns batched results. What has no form for many elements runs as a loop over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chainrule.core.errors import ShapeError
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, plain
from chainrule.ir.graph import ArrayType, Graph, Node, Value
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import Dim


@dataclass(frozen=True, slots=True)
class Many:
    """A value, and whether its first axis runs over the elements."""

    value: Value
    batched: bool


@dataclass(frozen=True, slots=True)
class Batching:
    """Where nodes are written, and how many elements there are."""

    build: Builder
    size: Dim

    def lift(self, many: Many) -> Value:
        """The value with the elements along its first axis, repeated if it is the same for all."""
        if many.batched:
            return many.value
        shape = many.value.shape
        return self.build.broadcast(many.value, (self.size, *shape), tuple(range(1, len(shape) + 1)))


Rule = Callable[[Batching, Node, Sequence[Many]], Sequence[Value]]


def batched(graph: Graph, build: Builder, arguments: Sequence[Many], size: Dim) -> list[Many]:
    """Write the nodes of a graph for ``size`` elements; results that are the same for all elements are not batched."""
    batching = Batching(build, size)
    known: dict[Value, Many] = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        given = [known[value] for value in node.inputs]
        with build.at(node.origin):
            if any(many.batched for many in given):
                made = [Many(value, True) for value in RULES[node.primitive.name](batching, node, given)]
            else:
                made = [
                    Many(v, False) for v in build.emit(node.primitive.name, [m.value for m in given], node.attributes)
                ]
        known.update(zip(node.outputs, made, strict=True))
    return [known[value] for value in graph.outputs]


def batched_graph(graph: Graph, size: Dim, which: Sequence[bool]) -> Graph:
    """A graph of its own, whose inputs in ``which`` are batched, and all of whose results are."""
    build = Builder()
    inputs = []
    for value, many in zip(graph.inputs, which, strict=True):
        shape = (size, *value.shape) if many else value.shape
        inputs.append(Many(build.input(ArrayType(shape, value.dtype), value.name), many))
    batching = Batching(build, size)
    return build.finish(graph.name, [batching.lift(many) for many in batched(graph, build, inputs, size)])


def _one_by_one(batching: Batching, node: Node, given: Sequence[Many]) -> Sequence[Value]:
    """A loop over the elements around the node."""
    if not isinstance(batching.size, int):
        raise ShapeError(
            f"{node.primitive.name} in {node.origin} cannot be applied to a batch of unknown size; map over an axis of constant size"
        )
    fixed = [many.value for many in given if not many.batched]
    stacked = [many.value for many in given if many.batched]
    body = Builder()
    first = [body.input(value.type) for value in fixed]
    steps = [body.input(ArrayType(value.shape[1:], value.dtype)) for value in stacked]
    ones, manys = iter(first), iter(steps)
    inputs = [next(manys) if many.batched else next(ones) for many in given]
    outputs = body.emit(node.primitive.name, inputs, node.attributes)
    graph = body.finish(node.primitive.name, outputs)
    operands = [*fixed, *stacked]
    return batching.build.scan(graph, operands, length=batching.size, consts=len(fixed), carries=0, reverse=False)


def _map(batching: Batching, node: Node, given: Sequence[Many]) -> Sequence[Value]:
    return batching.build.emit(node.primitive.name, [batching.lift(many) for many in given], node.attributes)


def _with(change: Callable[[Batching, Mapping[str, Any]], dict[str, Any]]) -> Rule:
    """The same primitive on lifted operands with other attributes."""

    def rule(batching: Batching, node: Node, given: Sequence[Many]) -> Sequence[Value]:
        operands = [batching.lift(many) for many in given]
        attributes = {**node.attributes, **change(batching, node.attributes)}
        return batching.build.emit(node.primitive.name, operands, attributes)

    return rule


def _after(axes: Sequence[int]) -> tuple[int, ...]:
    """Axes of an element as axes of a batch."""
    return tuple(axis + 1 for axis in axes)


def _contract(batching: Batching, node: Node, given: Sequence[Many]) -> Sequence[Value]:
    spec = node.attributes["spec"]
    element: tuple[Affine, ...] = plain(len(spec.extents))
    a, b = ((*element, *index_map) if many.batched else index_map for many, index_map in zip(given, (spec.a, spec.b)))
    wider = replace(
        spec,
        extents=(*spec.extents, batching.size),
        out=(*element, *spec.out),
        a=a,
        b=b,
        shape=(batching.size, *spec.shape),
    )
    return (batching.build.contract(wider, given[0].value, given[1].value),)


def _gather(batching: Batching, node: Node, given: Sequence[Many]) -> Sequence[Value]:
    x, indices = given
    batch = node.attributes["batch"]
    if not x.batched and batch == 0:
        # One table for all elements: their indices are simply more indices.
        return (batching.build.gather(x.value, indices.value, 0),)
    return (batching.build.gather(batching.lift(x), batching.lift(indices), batch + 1),)


def _scan(batching: Batching, node: Node, given: Sequence[Many]) -> Sequence[Value]:
    attributes, build = node.attributes, batching.build
    consts, carries = attributes["consts"], attributes["carries"]
    operands, which = [], []
    for place, many in enumerate(given):
        if place < consts:
            operands.append(many.value)
            which.append(many.batched)
        elif place < consts + carries:
            operands.append(batching.lift(many))
            which.append(True)
        else:
            # Steps come first in a stacked operand, then elements.
            operands.append(_swapped(build, many.value) if many.batched else many.value)
            which.append(many.batched)
    body = batched_graph(attributes["body"], batching.size, which)
    length, reverse = attributes["length"], attributes["reverse"]
    results = build.scan(body, operands, length=length, consts=consts, carries=carries, reverse=reverse)
    return [value if place < carries else _swapped(build, value) for place, value in enumerate(results)]


def _swapped(build: Builder, value: Value) -> Value:
    return build.transpose(value, (1, 0, *range(2, len(value.shape))))


def _call(batching: Batching, node: Node, given: Sequence[Many]) -> Sequence[Value]:
    body, backward = node.attributes["body"], node.attributes["backward"]
    if backward is None:
        which = [many.batched for many in given]
        operands = [many.value for many in given]
        graph = batched_graph(body, batching.size, which)
        return batching.build.call(graph, operands, label=node.attributes["label"], backward=None)
    # The rule gives a cotangent for every operand of the element, so every operand has to be the element's own.
    graph = batched_graph(body, batching.size, [True] * len(body.inputs))
    rule = batched_graph(backward, batching.size, [True] * len(backward.inputs))
    operands = [batching.lift(many) for many in given]
    return batching.build.call(graph, operands, label=node.attributes["label"], backward=rule)


def _table() -> dict[str, Rule]:
    rules: dict[str, Rule] = {name: _map for name, p in PRIMITIVES.items() if p.family in ("map", "compare")}
    rules["stop_gradient"] = _map
    rules["reduce_sum"] = rules["reduce_max"] = _with(lambda _, attributes: {"axes": _after(attributes["axes"])})
    rules["argmax"] = rules["concatenate"] = _with(lambda _, attributes: {"axis": attributes["axis"] + 1})
    rules["contract"] = _contract
    rules["reshape"] = _with(lambda batching, attributes: {"shape": (batching.size, *attributes["shape"])})
    rules["transpose"] = _with(lambda _, attributes: {"order": (0, *_after(attributes["order"]))})
    rules["broadcast"] = _with(
        lambda batching, attributes: {
            "shape": (batching.size, *attributes["shape"]),
            "axes": (0, *_after(attributes["axes"])),
        }
    )
    rules["slice"] = _with(
        lambda batching, attributes: {
            "starts": (0, *attributes["starts"]),
            "limits": (batching.size, *attributes["limits"]),
            "strides": (1, *attributes["strides"]),
        }
    )
    rules["pad"] = _with(lambda _, attributes: {name: (0, *attributes[name]) for name in ("low", "high", "inner")})
    rules["flip"] = _with(lambda _, attributes: {"axes": _after(attributes["axes"])})
    rules["gather"] = _gather
    rules["scatter_add"] = _with(lambda _, attributes: {"batch": attributes["batch"] + 1})
    rules["scan"] = _scan
    rules["call"] = _call
    # The bits of every element come from a key of its own, and each fixed point stops by itself.
    rules["random_bits"] = rules["fixed_point"] = _one_by_one
    # These have no operands, so no rule is ever asked for.
    rules["constant"] = rules["iota"] = rules["extent"] = _map
    return rules


RULES: Mapping[str, Rule] = _table()
