"""Building graphs: one method per primitive, each appending a node and returning its value.

Gradient rules, passes and tracing all write graphs through this class, so every node is typed the moment it exists. A
builder is the only mutable thing in the representation; :meth:`Builder.finish` freezes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrule.core.dtypes import BFLOAT16, DType, accumulator, convert, to_numpy
from chainrule.core.errors import ChainruleError, ShapeError
from chainrule.ir.attributes import check_attributes, normal_attributes
from chainrule.ir.contraction import Contraction, plain
from chainrule.ir.graph import NOWHERE, ArrayType, Graph, Node, Origin, Value
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import Dim, Shape


class Builder:
    """Collects inputs and nodes. ``origin`` is given to every node appended while it is set."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.origin: Origin = NOWHERE

    def input(self, type: ArrayType, name: str = "") -> Value:
        value = Value(type, name)
        self.inputs.append(value)
        return value

    def emit(
        self, name: str, inputs: Sequence[Value], attributes: Mapping[str, Any] | None = None
    ) -> tuple[Value, ...]:
        """Append one node; raises what its typing rule raises, with the primitive and origin put in front."""
        primitive = PRIMITIVES[name]
        given = normal_attributes(attributes) if attributes else {}
        origin = self.locate()
        try:
            if primitive.arity is not None and primitive.arity != len(inputs):
                raise ShapeError(f"it takes {primitive.arity} operands, not {len(inputs)}")
            check_attributes(name, given)
            types = primitive.infer([value.type for value in inputs], given)
        except ChainruleError as error:
            raise type(error)(f"{name} in {origin}: {error}") from None
        node = Node(primitive, tuple(inputs), given, tuple([Value(type) for type in types]), origin)
        if given.keys() == set(primitive.attributes):  # otherwise the verifier has something to say
            node.note_typed()
        self.append(node)
        return node.outputs

    def locate(self) -> Origin:
        """The origin for the next node; tracing overrides this with the user's line."""
        return self.origin

    def append(self, node: Node) -> None:
        self.nodes.append(node)

    def finish(self, name: str, outputs: Sequence[Value], output_names: Sequence[str] = ()) -> Graph:
        return Graph(name, tuple(self.inputs), tuple(self.nodes), tuple(outputs), tuple(output_names))

    @contextmanager
    def at(self, origin: Origin) -> Iterator[None]:
        """Give the nodes appended inside this origin."""
        before, self.origin = self.origin, origin
        try:
            yield
        finally:
            self.origin = before

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        with self.at(self.origin.in_phase(phase)):
            yield

    def inline(
        self, graph: Graph, arguments: Sequence[Value], phase: str | None = None
    ) -> tuple[list[Value], dict[Value, Value]]:
        """Append the nodes of a graph, applied to ``arguments``; also returns the map from its values to the new ones.

        The nodes keep their origins, or move to another ``phase`` of the step.
        """
        known = dict(zip(graph.inputs, arguments, strict=True))
        for node in graph.nodes:
            copies = tuple(Value(value.type, value.name) for value in node.outputs)
            known.update(zip(node.outputs, copies, strict=True))
            inputs = tuple(known[value] for value in node.inputs)
            origin = node.origin if phase is None else node.origin.in_phase(phase)
            self.append(Node(node.primitive, inputs, node.attributes, copies, origin))
        return [known[value] for value in graph.outputs], known

    def _one(self, name: str, *inputs: Value, **attributes: Any) -> Value:
        return self.emit(name, inputs, attributes)[0]

    # Elementwise.
    def neg(self, x: Value) -> Value:
        return self._one("neg", x)

    def abs(self, x: Value) -> Value:
        return self._one("abs", x)

    def sign(self, x: Value) -> Value:
        return self._one("sign", x)

    def floor(self, x: Value) -> Value:
        return self._one("floor", x)

    def exp(self, x: Value) -> Value:
        return self._one("exp", x)

    def expm1(self, x: Value) -> Value:
        return self._one("expm1", x)

    def log(self, x: Value) -> Value:
        return self._one("log", x)

    def log1p(self, x: Value) -> Value:
        return self._one("log1p", x)

    def sqrt(self, x: Value) -> Value:
        return self._one("sqrt", x)

    def sin(self, x: Value) -> Value:
        return self._one("sin", x)

    def cos(self, x: Value) -> Value:
        return self._one("cos", x)

    def tanh(self, x: Value) -> Value:
        return self._one("tanh", x)

    def logistic(self, x: Value) -> Value:
        return self._one("logistic", x)

    def erf(self, x: Value) -> Value:
        return self._one("erf", x)

    def logical_not(self, x: Value) -> Value:
        return self._one("logical_not", x)

    def is_finite(self, x: Value) -> Value:
        return self._one("is_finite", x)

    def add(self, x: Value, y: Value) -> Value:
        return self._one("add", x, y)

    def sub(self, x: Value, y: Value) -> Value:
        return self._one("sub", x, y)

    def mul(self, x: Value, y: Value) -> Value:
        return self._one("mul", x, y)

    def div(self, x: Value, y: Value) -> Value:
        return self._one("div", x, y)

    def floor_div(self, x: Value, y: Value) -> Value:
        return self._one("floor_div", x, y)

    def remainder(self, x: Value, y: Value) -> Value:
        return self._one("remainder", x, y)

    def pow(self, x: Value, y: Value) -> Value:
        return self._one("pow", x, y)

    def maximum(self, x: Value, y: Value) -> Value:
        return self._one("maximum", x, y)

    def minimum(self, x: Value, y: Value) -> Value:
        return self._one("minimum", x, y)

    def logical_and(self, x: Value, y: Value) -> Value:
        return self._one("logical_and", x, y)

    def logical_or(self, x: Value, y: Value) -> Value:
        return self._one("logical_or", x, y)

    def eq(self, x: Value, y: Value) -> Value:
        return self._one("eq", x, y)

    def ne(self, x: Value, y: Value) -> Value:
        return self._one("ne", x, y)

    def lt(self, x: Value, y: Value) -> Value:
        return self._one("lt", x, y)

    def le(self, x: Value, y: Value) -> Value:
        return self._one("le", x, y)

    def select(self, condition: Value, x: Value, y: Value) -> Value:
        return self._one("select", condition, x, y)

    def cast(self, x: Value, dtype: DType) -> Value:
        return self._one("cast", x, dtype=dtype)

    def as_type(self, x: Value, dtype: DType) -> Value:
        """x if it has the type, else a cast of it."""
        return x if x.dtype == dtype else self.cast(x, dtype)

    def wide(self, x: Value) -> Value:
        """x in the type that sums of its elements are kept in."""
        return self.as_type(x, accumulator(x.dtype))

    def alias(self, x: Value) -> Value:
        """A new name for x, so that a derivative with respect to it is not one with respect to x."""
        return self.cast(x, x.dtype)

    # Reductions and contraction.
    def reduce_sum(self, x: Value, axes: Sequence[int]) -> Value:
        return self._one("reduce_sum", x, axes=tuple(axes))

    def reduce_max(self, x: Value, axes: Sequence[int]) -> Value:
        return self._one("reduce_max", x, axes=tuple(axes))

    def argmax(self, x: Value, axis: int) -> Value:
        return self._one("argmax", x, axis=axis)

    def contract(self, spec: Contraction, a: Value, b: Value) -> Value:
        return self._one("contract", a, b, spec=spec)

    def matmul(self, a: Value, b: Value) -> Value:
        """(m, k) · (k, n)."""
        (m, k), (k2, n) = a.shape, b.shape
        if k != k2:
            raise ShapeError(f"matrices {a.type} and {b.type} cannot be multiplied: {k} is not {k2}")
        return self.contract(Contraction((m, n, k), plain(0, 1), plain(0, 2), plain(2, 1), (m, n)), a, b)

    # Views.
    def reshape(self, x: Value, shape: Shape) -> Value:
        return self._one("reshape", x, shape=tuple(shape))

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        return self._one("transpose", x, order=tuple(order))

    def broadcast(self, x: Value, shape: Shape, axes: Sequence[int]) -> Value:
        return self._one("broadcast", x, shape=tuple(shape), axes=tuple(axes))

    def slice(self, x: Value, starts: Sequence[int], limits: Sequence[Dim], strides: Sequence[int]) -> Value:
        return self._one("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))

    def pad(
        self, x: Value, low: Sequence[int], high: Sequence[int], inner: Sequence[int] | None = None, value: float = 0
    ) -> Value:
        between = tuple(inner) if inner is not None else (0,) * len(low)
        return self._one("pad", x, low=tuple(low), high=tuple(high), inner=between, value=value)

    def flip(self, x: Value, axes: Sequence[int]) -> Value:
        return self._one("flip", x, axes=tuple(axes))

    def concatenate(self, xs: Sequence[Value], axis: int) -> Value:
        return self.emit("concatenate", xs, {"axis": axis})[0]

    # Indexing.
    def gather(self, x: Value, indices: Value, batch: int = 0) -> Value:
        return self._one("gather", x, indices, batch=batch)

    def scatter_add(self, x: Value, indices: Value, size: Dim, batch: int = 0) -> Value:
        return self._one("scatter_add", x, indices, batch=batch, size=size)

    # Sources.
    def constant(self, value: Any, dtype: DType | None = None) -> Value:
        given = convert(np.asarray(value), dtype) if dtype == BFLOAT16 else value
        array = np.array(given, dtype=None if dtype is None else to_numpy(dtype), order="C")
        array.flags.writeable = False
        return self._one("constant", value=array)

    def full(self, type: ArrayType, value: float) -> Value:
        """An array of one number."""
        scalar = self.constant(value, type.dtype)
        return self.broadcast(scalar, type.shape, ()) if type.shape else scalar

    def full_like(self, x: Value, value: float) -> Value:
        return self.full(x.type, value)

    def iota(self, shape: Shape, axis: int, dtype: DType) -> Value:
        return self._one("iota", shape=tuple(shape), axis=axis, dtype=dtype)

    def extent(self, size: Dim) -> Value:
        return self._one("extent", size=size)

    def random_bits(self, key: Value, stream: Value, shape: Shape) -> Value:
        return self._one("random_bits", key, stream, shape=tuple(shape))

    # Loops and markers.
    def scan(
        self, body: Graph, inputs: Sequence[Value], *, length: int, consts: int, carries: int, reverse: bool
    ) -> tuple[Value, ...]:
        attributes = {"body": body, "length": length, "carries": carries, "consts": consts, "reverse": reverse}
        return self.emit("scan", inputs, attributes)

    def fixed_point(
        self, body: Graph, inputs: Sequence[Value], *, consts: int, tolerance: float, max_iterations: int
    ) -> tuple[Value, ...]:
        attributes = {"body": body, "consts": consts, "tolerance": tolerance, "max_iterations": max_iterations}
        return self.emit("fixed_point", inputs, attributes)

    def stop_gradient(self, x: Value) -> Value:
        return self._one("stop_gradient", x)

    def call(self, body: Graph, inputs: Sequence[Value], *, label: str, backward: Graph | None) -> tuple[Value, ...]:
        return self.emit("call", inputs, {"body": body, "label": label, "backward": backward})
