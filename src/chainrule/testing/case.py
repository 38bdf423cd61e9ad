"""A case: one application of one primitive to operands that can be drawn for any batch size.

Every engine and every table keyed by primitive is proved on the same cases, so a new primitive is tested everywhere by adding
rows to :mod:`chainrule.testing.cases`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.core.dtypes import BOOL, FLOATS, UINT32, DType, to_numpy
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction
from chainrule.ir.graph import ArrayType, Graph, Node, Value
from chainrule.ir.sizes import BATCH, Dim, Size, at, is_symbolic, shape_at
from chainrule.ir.verify import verify

NDArray = np.ndarray[Any, Any]
Domain = Callable[[np.random.Generator, tuple[int, ...], DType], NDArray]


def real(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray:
    """Ordinary numbers of any type."""
    if dtype in FLOATS:
        return rng.normal(size=shape)
    if dtype == BOOL:
        return rng.integers(0, 2, shape)
    return rng.integers(0 if dtype == UINT32 else -9, 10, shape)


def nonzero(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray:
    """Away from 0, where a derivative may jump or grow without bound."""
    drawn = real(rng, shape, dtype)
    return np.where(drawn < 0, drawn - 0.3, drawn + 0.3) if dtype in FLOATS else np.where(drawn == 0, 1, drawn)


def positive(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray:
    return rng.uniform(0.4, 2.5, shape)


def between_integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray:
    return rng.integers(-3, 4, shape) + rng.uniform(0.2, 0.8, shape)


def apart(shift: float = 0.0) -> Domain:
    """Numbers that differ from each other by 0.4, and from those of another shift by that."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray:
        count = int(np.prod(shape))
        if dtype not in FLOATS:
            return real(rng, shape, dtype)
        return (rng.permutation(count).reshape(shape) - count // 2) * 0.4 + shift

    return draw


def index_below(size: int) -> Domain:
    """Positions of an axis, some outside it on either side."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray:
        return rng.integers(0 if dtype == UINT32 else -1, size + 1, shape)

    return draw


def word(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray:
    return rng.integers(0, 2**32, shape)


@dataclass(frozen=True, slots=True)
class Case:
    """One node: the primitive, its operand types (some with the symbolic batch size), attributes, and operand domains."""

    primitive: str
    label: str
    types: tuple[ArrayType, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domains: tuple[Domain, ...] = ()

    def __str__(self) -> str:
        return f"{self.primitive} {self.label}"

    @property
    def is_symbolic(self) -> bool:
        """Whether the symbolic batch size appears in the case."""
        return self._operand_sizes_tell() or is_symbolic((*self._attribute_sizes(),))

    def _operand_sizes_tell(self) -> bool:
        return any(is_symbolic(type.shape) for type in self.types)

    def _attribute_sizes(self) -> tuple[Dim, ...]:
        return (*self.attributes.get("shape", ()), self.attributes.get("size", 0))

    def _input_types(self) -> tuple[ArrayType, ...]:
        """The operands, and where none tells the batch size an unused operand that does."""
        lacking = self.is_symbolic and not self._operand_sizes_tell()
        return (*self.types, ArrayType((BATCH,), BOOL)) if lacking else self.types

    def graph(self) -> Graph:
        """A graph of this node alone."""
        builder = Builder()
        inputs = [builder.input(type, f"x{number}") for number, type in enumerate(self._input_types())]
        results = builder.emit(self.primitive, inputs[: len(self.types)], self.attributes)
        return verify(builder.finish(self.primitive, results))

    def operands(self, batch: int = 5) -> list[NDArray]:
        """The operands at a batch size: always the same numbers for the same case, in every float type alike."""
        drawn = []
        for number, type in enumerate(self._input_types()):
            domain = self.domains[number] if number < len(self.domains) else real
            rng = np.random.default_rng(zlib.crc32(f"{self} {number} {batch}".encode()))
            drawn.append(np.asarray(domain(rng, shape_at(type.shape, batch), type.dtype)).astype(to_numpy(type.dtype)))
        return drawn


def at_batch(graph: Graph, batch: int) -> Graph:
    """The same graph with a number in place of the symbolic batch size, bodies included."""
    known: dict[Value, Value] = {}

    def fixed(value: Value) -> Value:
        known[value] = Value(ArrayType(shape_at(value.shape, batch), value.dtype), value.name)
        return known[value]

    inputs = tuple(fixed(value) for value in graph.inputs)
    nodes = []
    for node in graph.nodes:
        attributes = {name: _fixed_attribute(value, batch) for name, value in node.attributes.items()}
        operands = tuple(known[value] for value in node.inputs)
        nodes.append(
            Node(node.primitive, operands, attributes, tuple(fixed(value) for value in node.outputs), node.origin)
        )
    outputs = tuple(known[value] for value in graph.outputs)
    return verify(Graph(graph.name, inputs, tuple(nodes), outputs, graph.output_names))


def _fixed_attribute(value: Any, batch: int) -> Any:
    match value:
        case Size():
            return at(value, batch)
        case tuple():
            return tuple(_fixed_attribute(item, batch) for item in value)
        case Graph():
            return at_batch(value, batch)
        case Contraction():
            extents, shape = shape_at(value.extents, batch), shape_at(value.shape, batch)
            return Contraction(extents, value.out, value.a, value.b, shape)
        case _:
            return value


def float_positions(types: Sequence[ArrayType]) -> list[int]:
    """The numbers of the operands that have gradients."""
    return [number for number, type in enumerate(types) if type.dtype in FLOATS]
