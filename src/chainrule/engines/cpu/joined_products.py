"""Sums of products as one product of what stands side by side.

    x @ v + h @ w   becomes   [x, h] @ [v; w]

One tile then adds up all of it in registers, and no product is written to be read again. That is done in the bodies of loops, where
weights are constants of the loop, so that they are put below each other once for all of its steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from chainrule.engines.cpu.inline import live
from chainrule.engines.cpu.layouts import FEWEST_ITERATIONS
from chainrule.engines.cpu.tile_shape import NOMINAL
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, IndexMap, plain
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Shape, at, is_symbolic, product


def join_products(graph: Graph) -> Graph:
    """The same graph with such sums joined in the bodies of its loops; last digits may change."""
    nodes = []
    for node in graph.nodes:
        attributes = {k: join_products(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
        if node.primitive.name == "scan" and node.attributes["length"] >= FEWEST_ITERATIONS:
            attributes["body"] = _Body(join_products(node.attributes["body"]), node.attributes["consts"]).rewritten()
        nodes.append(Node(node.primitive, node.inputs, attributes, node.outputs, node.origin))
    return replace(graph, nodes=tuple(nodes))


@dataclass(frozen=True, slots=True)
class _Product:
    """A contraction over one index, of an operand and a constant, in a box of the axes of the result and then the sum."""

    node: Node
    operands: tuple[Value, Value]
    maps: tuple[IndexMap, IndexMap]
    depth: int

    def fits(self, other: _Product) -> bool:
        """Whether two products read their operands alike, but for the length of the sum."""
        return self.maps == other.maps and all(
            x.dtype == y.dtype and _without(x.shape, axis) == _without(y.shape, axis)
            for x, y, axis in zip(self.operands, other.operands, self.summed(), strict=True)
        )

    def summed(self) -> list[int]:
        """The axes of the operands that are summed."""
        (summed,) = plain(len(self.node.output.shape))
        return [index_map.index(summed) for index_map in self.maps]


def _joined(products: Sequence[_Product], known: Mapping[Value, Value], builder: Builder) -> Value:
    """The sum of products that fit."""
    maps, shape = products[0].maps, products[0].node.output.shape
    a, b = (
        builder.concatenate([known.get(p.operands[k], p.operands[k]) for p in products], axis)
        for k, axis in enumerate(products[0].summed())
    )
    extents = (*shape, sum(p.depth for p in products))
    return builder.contract(Contraction(extents, plain(*range(len(shape))), *maps, shape), a, b)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


class _Body:
    """The body of a loop, its constants, and how often each value is read."""

    def __init__(self, graph: Graph, constants: int) -> None:
        self.graph = graph
        self.builder = Builder()
        self.uses = Counter([*(value for node in graph.nodes for value in node.inputs), *graph.outputs])
        self.makers = {value: node for node in graph.nodes for value in node.outputs}
        self.constants = set(graph.inputs[:constants])
        for node in graph.nodes:
            if self.constants.issuperset(node.inputs) and not any(is_symbolic(value.shape) for value in node.outputs):
                self.constants.update(node.outputs)
        # What values of the old graph are called in the new one.
        self.known: dict[Value, Value] = {}

    def rewritten(self) -> Graph:
        self.builder.inputs.extend(self.graph.inputs)
        parts = {x for node in self.graph.nodes if self._is_sum(node) for x in node.inputs if self._is_part(x)}
        for node in self.graph.nodes:
            inputs = tuple(self.known.get(value, value) for value in node.inputs)
            self.builder.append(Node(node.primitive, inputs, node.attributes, node.outputs, node.origin))
            if self._is_sum(node) and node.output not in parts:
                self._join(node.output)
        outputs = [self.known.get(value, value) for value in self.graph.outputs]
        return live(self.builder.finish(self.graph.name, outputs, self.graph.output_names))

    def _is_sum(self, node: Node | None) -> bool:
        return node is not None and node.primitive.name == "add"

    def _is_part(self, value: Value) -> bool:
        """Whether a value is a sum that only one other node reads."""
        return self.uses[value] == 1 and self._is_sum(self.makers.get(value))

    def _join(self, total: Value) -> None:
        """Write a sum with products that fit as one, if it has such; the others are added to it in their order."""
        terms = [term for x in self.makers[total].inputs for term in self._terms(x)]
        products = [p for p in map(self._product, terms) if p is not None]
        together = max(([q for q in products if q.fits(p)] for p in products), key=len, default=[])
        if len(together) < 2 or not _is_small(together):
            return
        joined = {p.node.output for p in together}
        with self.builder.at(together[0].node.origin):
            value = _joined(together, self.known, self.builder)
        with self.builder.at(self.makers[total].origin):
            for term in terms:
                if term not in joined:
                    value = self.builder.add(value, self.known.get(term, term))
        self.known[total] = value

    def _terms(self, value: Value) -> list[Value]:
        if not self._is_part(value):
            return [value]
        return [term for x in self.makers[value].inputs for term in self._terms(x)]

    def _product(self, value: Value) -> _Product | None:
        """A value as a product of a constant that nothing else reads; None where it is none."""
        node = self.makers.get(value)
        if node is None or node.primitive.name != "contract" or self.uses[value] != 1:
            return None
        spec: Contraction = node.attributes["spec"]
        places = [coordinate.plain for coordinate in spec.out]
        summed = [k for k in range(len(spec.extents)) if k not in places]
        if None in places or len(summed) != 1 or len(places) + 1 != len(spec.extents):
            return None
        depth = spec.extents[summed[0]]
        if not isinstance(depth, int) or tuple(spec.extents[k] for k in places if k is not None) != spec.shape:
            return None
        number = {k: axis for axis, k in enumerate([*places, *summed])}
        operands = []
        for x, index_map in zip(node.inputs, (spec.a, spec.b), strict=True):
            read = [coordinate.plain for coordinate in index_map]
            if len(set(read)) != len(read) or summed[0] not in read or None in read:
                return None
            if x.shape != tuple(spec.extents[k] for k in read if k is not None):
                return None
            operands.append((x, plain(*(number[k] for k in read))))
        operands.sort(key=lambda pair: pair[0] in self.constants)
        if [x in self.constants for x, _ in operands] != [False, True]:
            return None
        (x, x_map), (w, w_map) = operands
        return _Product(node, (x, w), (x_map, w_map), depth)


def _is_small(products: Sequence[_Product]) -> bool:
    """Whether putting the operands side by side writes less than is written and read of products that are only added up."""
    copied = sum(at(product(p.operands[0].shape), NOMINAL) for p in products)
    return copied <= 2 * sum(at(product(p.node.output.shape), NOMINAL) for p in products[1:])
