"""Products of all steps of a loop at once, computed in the loop instead, step by step.

    s[t] = x[t] @ w + b for all t, then a loop that reads s[t] alone   becomes   a loop that reads x[t], and computes x[t] @ w + b

A recurrent layer multiplies its whole input before its loop. What comes of it is several times as large as the input, is written to
memory and read again, where a slab of the loop (``slabs.py``) has the weights in its cache in any case. Where the loop adds another
product to it, both become one (``joined_products.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from chainrule.engines.cpu.inline import live
from chainrule.engines.cpu.layouts import FEWEST_ITERATIONS
from chainrule.engines.cpu.slabs import slabs_of
from chainrule.engines.cpu.tile_shape import NOMINAL
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction, IndexMap
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Dim, at, product

# What the loop reads instead is at most one part in so many of what it read.
SMALLER = 2


def sink_products(graph: Graph) -> Graph:
    """The same graph, loop bodies included, with such products in the loops that read them."""
    builder = Builder()
    builder.inputs.extend(graph.inputs)
    makers: dict[Value, Node] = {}
    uses = Counter([*(value for node in graph.nodes for value in node.inputs), *graph.outputs])
    for node in graph.nodes:
        attributes = {k: sink_products(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
        node = Node(node.primitive, node.inputs, attributes, node.outputs, node.origin)
        if node.primitive.name == "scan":
            node = _Loop(node, builder, makers, uses).rewritten()
        builder.append(node)
        makers.update(dict.fromkeys(node.outputs, node))
    return live(builder.finish(graph.name, graph.outputs, graph.output_names))


@dataclass(frozen=True, slots=True)
class OneStep:
    """A contraction at one step: its maps, and the axes along which its operands have steps (None where they are the same in all)."""

    spec: Contraction
    axes: tuple[int | None, int | None]


def at_one_step(spec: Contraction, shapes: Sequence[Sequence[Dim]], length: int) -> OneStep | None:
    """The contraction whose result is row t of the given one's, for operands that have rows t; None where there is none."""
    step = spec.out[0].plain if spec.out else None
    if step is None or spec.extents[step] != length or spec.shape[0] != length or _axes(spec.out[1:], step):
        return None
    axes: list[int | None] = []
    for index_map, shape in zip((spec.a, spec.b), shapes, strict=True):
        found = _axes(index_map, step)
        if len(found) > 1 or any(index_map[axis].plain != step or shape[axis] != length for axis in found):
            return None
        axes.append(found[0] if found else None)
    if axes == [None, None]:
        return None
    out, a, b = (_without(index_map, step) for index_map in (spec.out, spec.a, spec.b))
    extents = (*spec.extents[:step], *spec.extents[step + 1 :])
    return OneStep(Contraction(extents, out, a, b, spec.shape[1:]), (axes[0], axes[1]))


def _axes(index_map: IndexMap, index: int) -> list[int]:
    return [axis for axis, coordinate in enumerate(index_map) if index in dict(coordinate.terms)]


def _without(index_map: IndexMap, index: int) -> IndexMap:
    """The coordinates that do not follow an index, in a box without it."""
    return tuple(
        Affine(tuple((k - (k > index), c) for k, c in coordinate.terms), coordinate.offset)
        for coordinate in index_map
        if index not in dict(coordinate.terms)
    )


@dataclass(slots=True)
class _Loop:
    """A loop, and what there is around it: the nodes so far, by their results, and how often each value is read."""

    node: Node
    builder: Builder
    makers: dict[Value, Node]
    uses: Counter[Value]
    body: Builder = field(default_factory=Builder)
    # What the new body is handed, by the values around it: the same in every step, and step by step.
    constants: dict[Value, Value] = field(default_factory=dict)
    steps: dict[Value, Value] = field(default_factory=dict)

    def rewritten(self) -> Node:
        body, length = self.node.attributes["body"], self.node.attributes["length"]
        first = self.node.attributes["consts"] + self.node.attributes["carries"]
        sunk = [value for value in self.node.inputs[first:] if self._pays(value)]
        if length < FEWEST_ITERATIONS or not sunk or slabs_of(self.node) == "1":
            return self.node
        count, before = self.node.attributes["consts"], len(self.builder.nodes)
        self.constants = dict(zip(self.node.inputs[:count], body.inputs[:count], strict=True))
        known: dict[Value, Value] = {}
        kept: list[tuple[Value, Value]] = []
        for outside, inside in zip(self.node.inputs[first:], body.inputs[first:], strict=True):
            if outside in sunk:
                known[inside] = self._written(outside)
            else:
                kept.append((outside, inside))
        for node in body.nodes:
            inputs = tuple(known.get(value, value) for value in node.inputs)
            self.body.append(Node(node.primitive, inputs, node.attributes, node.outputs, node.origin))
        kept += self.steps.items()
        carries = list(zip(self.node.inputs[count:first], body.inputs[count:first], strict=True))
        pairs = [*self.constants.items(), *carries, *kept]
        new = Graph(
            body.name,
            tuple(inside for _, inside in pairs),
            tuple(self.body.nodes),
            tuple(known.get(value, value) for value in body.outputs),
            body.output_names,
        )
        attributes: dict[str, Any] = {**self.node.attributes, "body": new, "consts": len(self.constants)}
        candidate = replace(self.node, inputs=tuple(outside for outside, _ in pairs), attributes=attributes)
        if slabs_of(candidate) == "1":
            del self.builder.nodes[before:]
            return self.node
        return candidate

    def _pays(self, value: Value) -> bool:
        """Whether an operand can be computed step by step from others that are smaller."""
        made = self._made_of(value)
        return bool(made) and SMALLER * sum(map(_elements, made or ())) <= _elements(value)

    def _made_of(self, value: Value) -> list[Value] | None:
        """The operands with steps of the products that a value is made of, by maps; None where it is made of anything else."""
        node = self.makers.get(value)
        if node is None:
            return None
        name, length = node.primitive.name, self.node.attributes["length"]
        if name == "broadcast" and 0 not in node.attributes["axes"]:
            return []
        if self.uses[value] != 1 or value.shape[:1] != (length,):
            return None
        if name == "contract":
            found = at_one_step(node.attributes["spec"], [x.shape for x in node.inputs], length)
            if found is None:
                return None
            return [x for x, axis in zip(node.inputs, found.axes, strict=True) if axis is not None]
        is_repeated = name == "broadcast" and node.attributes["axes"][0] == 0
        if not node.inputs or not (node.primitive.family in ("map", "compare") or is_repeated):
            return None
        parts = [self._made_of(x) for x in node.inputs]
        return None if None in parts else [x for part in parts for x in part or ()]

    def _written(self, value: Value) -> Value:
        """The value of a step, in the body."""
        node = self.makers[value]
        attributes = dict(node.attributes)
        with self.body.at(node.origin):
            match node.primitive.name:
                case "contract":
                    shapes = [x.shape for x in node.inputs]
                    found = at_one_step(attributes["spec"], shapes, self.node.attributes["length"])
                    assert found is not None, "it was looked at before"
                    operands = [self._operand(*pair) for pair in zip(node.inputs, found.axes, strict=True)]
                    return self.body.contract(found.spec, *operands)
                case "broadcast":
                    (x,), axes, shape = node.inputs, attributes["axes"], attributes["shape"][1:]
                    repeated = [axis - 1 for axis in axes if axis]
                    return self.body.broadcast(
                        self._operand(x, None) if 0 not in axes else self._written(x), shape, repeated
                    )
                case name:
                    return self.body.emit(name, [self._written(x) for x in node.inputs], attributes)[0]

    def _operand(self, x: Value, axis: int | None) -> Value:
        """An operand of the loop that is the same in every step, or has steps along an axis."""
        if axis is None:
            return self.constants.setdefault(x, Value(x.type, x.name))
        if axis:
            x = self._by_steps(x, axis)
        if x not in self.steps:
            self.steps[x] = Value(replace(x.type, shape=x.shape[1:]), x.name)
        return self.steps[x]

    def _by_steps(self, x: Value, axis: int) -> Value:
        order = (axis, *(k for k in range(len(x.shape)) if k != axis))
        with self.builder.at(self.node.origin):
            return self.builder.transpose(x, order)


def _elements(value: Value) -> int:
    return at(product(value.shape), NOMINAL)
