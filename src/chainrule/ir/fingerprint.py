"""A graph's fingerprint: equal for two graphs exactly where everything that their text would say is equal."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from chainrule.ir.contraction import Contraction
from chainrule.ir.graph import Graph, Origin, Value

# Constants of more bytes than a hash has are hashed.
_HASH = 32


def fingerprint(graph: Graph) -> str:
    """A SHA-256 of a verified graph: structure, names, origins, attributes, and the bytes of constants.

    The types of results are left out, because the typing rules give them. It is made in one walk, for it stands on the way of every
    start from a cache.
    """
    return hashlib.sha256("\n".join(_Walk().lines(graph)).encode("utf-8", "backslashreplace")).hexdigest()


class _Walk:
    """What is said of nodes, with what many of them have in common written once. Every part of a line says where it ends."""

    def __init__(self) -> None:
        self._shared: dict[Any, str] = {}
        self._origins: dict[int, str] = {}  # by identity, for tracing makes one for each place

    def lines(self, graph: Graph) -> list[str]:
        numbers: dict[Value, int] = {}
        for value in graph.inputs:
            numbers[value] = len(numbers)
        lines = [repr(graph.name), *(f"{value.name!r}{value.shape}{value.dtype}" for value in graph.inputs)]
        for node in graph.nodes:
            operands = [numbers[value] for value in node.inputs]
            results = ""
            for value in node.outputs:
                numbers[value] = len(numbers)
                results += repr(value.name)
            attributes = ""
            for name, attribute in node.attributes.items():
                attributes += f"{name}={self._attribute(attribute)};"
            origin = self._origins.get(id(node.origin)) or self._origin(node.origin)
            lines.append(f"{node.primitive.name}{operands}{results}{attributes}{origin}")
        lines.append(f"{[numbers[value] for value in graph.outputs]}{graph.output_names}")
        return lines

    def _attribute(self, value: Any) -> str:
        if isinstance(value, tuple | Contraction):  # of integers and sizes only, so that equal ones read alike
            text = self._shared.get(value)
            if text is None:
                text = self._shared[value] = str(value)
            return text
        if isinstance(value, np.ndarray):
            data = value.tobytes()
            if len(data) > _HASH:
                data = hashlib.sha256(data).digest()
            return f"{value.dtype.str}{value.shape}{data!r}"
        return str(self.lines(value)) if isinstance(value, Graph) else repr(value)

    def _origin(self, origin: Origin) -> str:
        text = f"{origin.path!r}{origin.file!r}{origin.line}{origin.phase!r}"
        self._origins[id(origin)] = text
        return text
