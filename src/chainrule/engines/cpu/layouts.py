"""Operands that many rows share, such as weights, are brought into the layout that their contractions want, once.

A tile reads one operand in vectors, along an index of the output. Where that operand lies otherwise, is as wide as the caches alias,
or ends within a vector, the contraction would copy it whenever it runs: in every step of a loop, and for every slab of the batch; where
items of a batch read a large one in steps wider than a tile, they would read it badly. If it has no batch axis, a transposition in
front does so once for all contractions that read it alike; the rows that use it are many.

    y[b, n] = Σ_k x[b, k]·w[n, k]      becomes   v = transpose(reshape(w, [N/P, P, K])), v[p, k, l] = w[P·p + l, k]
                                                 y[b, P·p + l] = Σ_k x[b, k]·v[p, k, l]

The panels of P columns, one or more vectors wide, are read from their beginnings to their ends. Where the columns do not fill whole
vectors, the copy has rows with zeros at their ends instead. In the body of a loop what the copy is made of is a constant of the
loop, and so the copy leaves the loop, as far as it can; there every operand in vectors gets panels, because every step reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.contraction import solved
from chainrule.engines.cpu.inline import live
from chainrule.engines.cpu.lattice import index_variable
from chainrule.engines.cpu.nest import ELEMENTWISE
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.tile_kernel import KernelWriter
from chainrule.engines.cpu.tile_plan import ALIASING, Way, can_tile
from chainrule.engines.cpu.tile_shape import FIRST_CACHE, NOMINAL
from chainrule.engines.cpu.tiles import Layout, TileWriter, follows
from chainrule.engines.cpu.winograd import bundles_in
from chainrule.engines.cpu.winograd_bundles import Convolution
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction, IndexMap, affine
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import at, is_symbolic, product

# A loop of fewer iterations does not pay for copies of what could be read as it is.
FEWEST_ITERATIONS = 4
# What makes a constant of constants.
_FROM_CONSTANTS = ELEMENTWISE | {"reshape", "transpose", "slice", "pad", "flip", "broadcast", "concatenate", "constant"}
_LOOPS = frozenset({"scan", "fixed_point"})


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The copy of an operand: ``axis`` runs in vectors, in panels of so many elements, or (0) in rows of so many with zeros."""

    axis: int
    panel: int
    row: int

    def write(self, b: Builder, x: Value) -> Value:
        order = [*(axis for axis in range(len(x.shape)) if axis != self.axis), self.axis]
        size = x.shape[self.axis]
        assert isinstance(size, int), "an axis in vectors has a constant size"
        if self.panel:
            parts = b.reshape(x, (*x.shape[: self.axis], size // self.panel, self.panel, *x.shape[self.axis + 1 :]))
            moved = [axis + (axis > self.axis) for axis in order[:-1]]
            return b.transpose(parts, (self.axis, *moved, self.axis + 1))
        if order != sorted(order):
            x = b.transpose(x, order)
        none = (0,) * len(order)
        return b.pad(x, none, (*none[1:], self.row - size)) if self.row > size else x

    def read(self, spec: Contraction, operand: int, index: int) -> Contraction:
        """A contraction whose ``index`` runs along the axis, reading the copy instead of its operand."""
        maps = [spec.a, spec.b]
        own = maps[operand]
        others = own[: self.axis] + own[self.axis + 1 :]
        maps[operand] = (*others, own[self.axis])
        if not self.panel:
            return replace(spec, a=maps[0], b=maps[1])
        extent, new = spec.extents[index], len(spec.extents)
        assert isinstance(extent, int), "an index in vectors has a constant extent"
        maps[operand] = (affine((new, 1)), *others, own[self.axis])

        def divided(coordinate: Affine) -> Affine:
            whole = [(new, c * self.panel) for k, c in coordinate.terms if k == index]
            return affine(*coordinate.terms, *whole, offset=coordinate.offset)

        out: IndexMap = tuple(map(divided, spec.out))
        maps[1 - operand] = tuple(map(divided, maps[1 - operand]))
        extents = (*spec.extents[:index], self.panel, *spec.extents[index + 1 :], extent // self.panel)
        return Contraction(extents, out, maps[0], maps[1], spec.shape)


def choose_layouts(graph: Graph, vector_bytes: int) -> Graph:
    """The same graph, loop bodies included, with such copies as nodes of their own."""
    return _Scope(graph, vector_bytes).rewritten()


class _Scope:
    """A graph on its way: a program, whose constants are its inputs, or the body of a loop of ``steps``, where they have names in the
    graph around it."""

    def __init__(
        self,
        graph: Graph,
        vector_bytes: int,
        around: _Scope | None = None,
        constants: Mapping[Value, Value] | None = None,
        steps: int = 1,
    ) -> None:
        self.graph, self.vector_bytes, self.around, self.steps = graph, vector_bytes, around, steps
        self.constants = dict(zip(graph.inputs, graph.inputs, strict=True) if constants is None else constants)
        self.builder = Builder()
        self.builder.inputs.extend(graph.inputs)
        self.makers: dict[Value, Node] = {}
        self.copies: dict[tuple[Value, Arrangement], Value] = {}
        # Of a program for every batch size, what has no batch axis is no rows, whatever it is made of.
        self.batched = around is None and any(is_symbolic(value.shape) for value in graph.inputs)
        self.lifted: dict[Value, Value] = {}

    def rewritten(self) -> Graph:
        for node in self.graph.nodes:
            with self.builder.at(node.origin):
                if node.primitive.name in _LOOPS:
                    node = self._loop(node)
                elif node.primitive.name == "contract":
                    node = self._contraction(node)
            self.builder.append(node)
            self.makers.update(dict.fromkeys(node.outputs, node))
        return self.builder.finish(self.graph.name, self.graph.outputs, self.graph.output_names)

    def _loop(self, node: Node) -> Node:
        body: Graph = node.attributes["body"]
        count: int = node.attributes["consts"]
        constants = dict(zip(body.inputs[:count], node.inputs[:count], strict=True))
        steps = node.attributes["length"] if node.primitive.name == "scan" else node.attributes["max_iterations"]
        scope = _Scope(body, self.vector_bytes, self, constants, steps)
        body = live(scope.rewritten())
        used = {value for inner in body.nodes for value in inner.inputs}.union(body.outputs)
        kept = [value for value in scope.constants if value in used]
        body = replace(body, inputs=(*kept, *body.inputs[count:]))
        inputs = (*(scope.constants[value] for value in kept), *node.inputs[count:])
        return replace(node, inputs=inputs, attributes={**node.attributes, "body": body, "consts": len(kept)})

    def _contraction(self, node: Node) -> Node:
        pieces = solved(node)
        if pieces is None or not can_tile(node, pieces, self.vector_bytes):
            return node
        bundles = bundles_in(node, pieces, self.vector_bytes, contiguous=False) if self.around is None else None
        if bundles is not None:
            return self._along_vectors(node, bundles[0].whole)
        kernel = KernelWriter(node, _nothing, _name_in(node), (), True)
        layout = TileWriter(kernel, pieces, self.vector_bytes).layout()
        inputs, spec = list(node.inputs), node.attributes["spec"]
        for number, value in enumerate(node.inputs):
            if not self._is_constant(value):
                continue
            # What a thread would lay out in panels for itself it would lay out in every step.
            again = self.steps >= FEWEST_ITERATIONS or any(planned and planned[0].in_panels for planned in layout.plans)
            found = _arrangement(node, number, layout, self.around is not None and again)
            if found is not None:
                arrangement, index = found
                spec = arrangement.read(spec, number, index)
                inputs[number] = self.copy(value, arrangement)
            elif self.around is not None:
                inputs[number] = self._lift(value)
        if inputs == list(node.inputs):
            return node
        return Node(node.primitive, tuple(inputs), {**node.attributes, "spec": spec}, node.outputs, node.origin)

    def _along_vectors(self, node: Node, convolution: Convolution) -> Node:
        """A short convolution whose weights lie along the vectors of the result."""
        number, spec = 1 - convolution.number, node.attributes["spec"]
        value, places = node.inputs[number], convolution.operands[number]
        if convolution.gives_taps or not self._is_constant(value):
            return node
        (axis,) = (k for k, place in enumerate(places) if place.coefficient(convolution.vector) != 0)
        if axis == len(value.shape) - 1:
            return node
        size = value.shape[axis]
        assert isinstance(size, int), "an axis in vectors has a constant size"
        arrangement = Arrangement(axis, 0, size)
        inputs = tuple(self.copy(value, arrangement) if k == number else x for k, x in enumerate(node.inputs))
        attributes = {**node.attributes, "spec": arrangement.read(spec, number, 0)}
        return Node(node.primitive, inputs, attributes, node.outputs, node.origin)

    # Copies, as far out as what they are made of is known.

    def copy(self, value: Value, arrangement: Arrangement) -> Value:
        """The name here of such a copy."""
        key = value, arrangement
        if key not in self.copies:
            if self.around is not None and self._is_constant(value):
                self.copies[key] = self._constant(self.around.copy(self._outside(value), arrangement))
            else:
                self.copies[key] = arrangement.write(self.builder, value)
        return self.copies[key]

    def _is_constant(self, value: Value) -> bool:
        """Whether a value without a batch axis belongs to no row: in a program for every batch size whatever it is made of, otherwise
        if it is made of nothing but inputs, or constants of the loop, by views and maps."""
        if is_symbolic(value.shape):
            return False
        if self.batched:
            return True
        node = self.makers.get(value)
        if node is None:
            return value in self.constants
        return node.primitive.name in _FROM_CONSTANTS and all(map(self._is_constant, node.inputs))

    def _outside(self, value: Value) -> Value:
        """A constant value as a value of the graph around."""
        if value in self.constants:
            return self.constants[value]
        assert self.around is not None, "only loops have constants"
        node, builder = self.makers[value], self.around.builder
        if value not in self.lifted:
            inputs = tuple(map(self._outside, node.inputs))
            made = Node(node.primitive, inputs, node.attributes, (Value(value.type, value.name),), node.origin)
            builder.append(made)
            self.around.makers[made.output] = made
            self.lifted[value] = made.output
        return self.lifted[value]

    def _lift(self, value: Value) -> Value:
        """A constant value that the loop is handed instead of making it in every step."""
        return value if value in self.constants else self._constant(self._outside(value))

    def _constant(self, outside: Value) -> Value:
        """The name in the body of a value around it, which becomes a constant of the loop."""
        known = {around: inside for inside, around in self.constants.items()}
        if outside not in known:
            known[outside] = Value(outside.type, outside.name)
            self.constants[known[outside]] = outside
        return known[outside]


def _nothing() -> Body:
    raise AssertionError("a plan is made before anything is written")


def _name_in(node: Node) -> Callable[[Value], str]:
    return lambda value: f"operand_{node.inputs.index(value)}"


def _arrangement(node: Node, number: int, layout: Layout, in_loop: bool) -> tuple[Arrangement, int] | None:
    """How an operand is better copied, and the index of the contraction that runs along the vectors; None if it stays."""
    spec, value, way = node.attributes["spec"], node.inputs[number], layout.way
    maps: Sequence[IndexMap] = (spec.a, spec.b)
    index = next((k for k, n in enumerate(spec.extents) if index_variable(k, n) == way.vector), None)
    if way.along_sum or index is None or node.inputs[0] is node.inputs[1]:
        return None
    axes = [axis for axis, coordinate in enumerate(maps[number]) if index in dict(coordinate.terms)]
    if len(axes) != 1 or maps[number][axes[0]].plain != index or value.shape[axes[0]] != spec.extents[index]:
        return None
    (axis,), size = axes, way.vector.extent
    assert isinstance(size, int), "an index in vectors has a constant extent"
    tail = size % way.lanes
    copied = _is_packed(node, number, layout) or (tail and _ends_in_vector(layout, number, axis))
    if not (copied or in_loop or _is_read_by_items(node, number, layout)):
        return None
    panel = 0 if tail or _is_used(maps[1 - number], index) else _panel(size, way, layout)
    if panel in (0, size):
        row = size + (way.lanes - tail if tail else 0)
        row += way.lanes if row * BYTES[value.dtype] % ALIASING == 0 else 0
        is_there = axis == len(value.shape) - 1 and row == size
        return None if is_there else (Arrangement(axis, 0, row), index)
    return Arrangement(axis, panel, 0), index


def _is_packed(node: Node, number: int, layout: Layout) -> bool:
    """Whether the contraction would copy the whole operand into vectors."""
    pointer = _name_in(node)(node.inputs[number])
    packings = [packing for planned in layout.plans if planned is not None for packing in planned[1]]
    return any(packing.source.pointer == pointer and not follows(packing, layout.items, ()) for packing in packings)


def _is_read_by_items(node: Node, number: int, layout: Layout) -> bool:
    """Whether every item of a batch reads a large operand in steps that leave out most of it."""
    value, pointer = node.inputs[number], _name_in(node)(node.inputs[number])
    plans = [planned[0] for planned in layout.plans if planned is not None]
    bytes = BYTES[value.dtype]
    if not layout.items or at(product(value.shape), NOMINAL) * bytes <= FIRST_CACHE:
        return False
    return any(
        plan.y.pointer == pointer and plan.summed and at(plan.y.at.coefficient(plan.summed[-1]), NOMINAL) > plan.panel
        for plan in plans
    )


def _ends_in_vector(layout: Layout, number: int, axis: int) -> bool:
    """Whether the contraction would copy an operand only because the last vector along an axis goes beyond its end."""
    border = layout.borders[number]
    if border is None:
        return False
    low, high = border
    return not any(n != 0 for n in low) and all(n == 0 for k, n in enumerate(high) if k != axis)


def _is_used(index_map: IndexMap, index: int) -> bool:
    return any(index in dict(coordinate.terms) for coordinate in index_map)


def _panel(size: int, way: Way, layout: Layout) -> int:
    """The width of panels: that of the tiles if it divides the size, else the next that does."""
    planned = max(plan[0].vectors for plan in layout.plans if plan is not None)
    vectors = [planned, 2, 3, 4, *range(5, size // way.lanes)]
    return next((n * way.lanes for n in vectors if n > 1 and size % (n * way.lanes) == 0), size)
