"""Graphs: immutable straight-line programs in static single assignment form.

A :class:`Graph` lists its nodes in an order in which every value is defined before it is used. Values compare by identity.
Every node carries its :class:`Origin`: the path of the module and the line of the user's program that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from chainrule.core.dtypes import SHORT, DType
from chainrule.ir.sizes import Shape

if TYPE_CHECKING:
    from chainrule.ir.primitives import Primitive


@dataclass(frozen=True, slots=True)
class ArrayType:
    """The type of a value: its shape (at most one symbol, the batch size) and element type. Prints as ``f32[B, 64]``."""

    shape: Shape
    dtype: DType

    def __str__(self) -> str:
        return f"{SHORT[self.dtype]}[{', '.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        return len(self.shape)


class Value:
    """One array of a graph: the result of a node, or an input."""

    __slots__ = ("name", "type")

    def __init__(self, type: ArrayType, name: str = "") -> None:
        self.type = type
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name or 'value'}: {self.type}>"

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node comes from.

    ``path`` is the module path (``encoder.layers.2``), ``file`` and ``line`` the user's source line, ``phase`` the part of
    the training step: ``forward``, ``backward`` or ``update``.
    """

    path: str = ""
    file: str = ""
    line: int = 0
    phase: str = "forward"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file else ""
        named = f"layer {self.path!r}" if self.path else ""
        return " at ".join(part for part in (named, where) if part) or "an unnamed place"

    def in_phase(self, phase: str) -> Origin:
        """The same place in another phase of the step."""
        return _in_phase(self, phase)


@lru_cache(maxsize=4096)
def _in_phase(origin: Origin, phase: str) -> Origin:
    return replace(origin, phase=phase)


NOWHERE = Origin()


_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One application of a primitive.

    ``is_typed`` says that its attributes and types are known to follow the primitive's rules: a builder that typed it, or the
    verifier that checked it, has noted so. Since nodes never change it need not be found out again.
    """

    primitive: Primitive
    inputs: tuple[Value, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[Value, ...]
    origin: Origin = NOWHERE
    is_typed: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)) if self.attributes else _NONE)

    def note_typed(self) -> None:
        object.__setattr__(self, "is_typed", True)

    @property
    def output(self) -> Value:
        """The only output of a node that has one."""
        (only,) = self.outputs
        return only

    def subgraphs(self) -> Iterator[tuple[str, Graph]]:
        """The graphs among the attributes (the body of a loop, the rule of a custom operation)."""
        for name, value in self.attributes.items():
            if isinstance(value, Graph):
                yield name, value

    def rewired(self, known: Mapping[Value, Value], bodies: Mapping[str, Graph]) -> Node:
        """The node that reads ``known[v]`` for every operand v found there and has these bodies; itself where nothing is different."""
        inputs = tuple([known.get(value, value) for value in self.inputs])
        others = {name: body for name, body in bodies.items() if body is not self.attributes[name]}
        if inputs == self.inputs and not others:
            return self
        return replace(self, inputs=inputs, attributes={**self.attributes, **others} if others else self.attributes)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Graph:
    """A program: ``inputs`` in, ``nodes`` in order, ``outputs`` out. Values have names where the user gave them one."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.output_names:
            object.__setattr__(self, "output_names", tuple("" for _ in self.outputs))

    def __repr__(self) -> str:
        sizes = f"{len(self.inputs)} inputs, {len(self.nodes)} nodes, {len(self.outputs)} outputs"
        return f"<graph {self.name!r}: {sizes}; chainrule.print_graph shows it>"

    @property
    def input_types(self) -> tuple[ArrayType, ...]:
        return tuple(value.type for value in self.inputs)

    @property
    def output_types(self) -> tuple[ArrayType, ...]:
        return tuple(value.type for value in self.outputs)

    def rewritten(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> Graph:
        """The graph with these nodes and outputs; itself where they are its own."""
        nodes, outputs = tuple(nodes), tuple(outputs)
        if nodes == self.nodes and outputs == self.outputs:
            return self
        return replace(self, nodes=nodes, outputs=outputs)
