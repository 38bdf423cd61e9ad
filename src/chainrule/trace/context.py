"""The builders that operations write to: a :class:`Trace` records, an :class:`Eager` computes at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrule.core.dtypes import UINT32
from chainrule.core.errors import TraceError
from chainrule.engines.reference import evaluate_node
from chainrule.ir.build import Builder
from chainrule.ir.graph import NOWHERE, ArrayType, Graph, Node, Origin, Value
from chainrule.trace import scope
from chainrule.trace.seeds import default_key

NDArray = np.ndarray[Any, Any]
KEY = ArrayType((2,), UINT32)


class _Stack(threading.local):
    def __init__(self) -> None:
        self.builders: list[Context] = []


_stack = _Stack()


class Context(Builder):
    """A builder that operations can be applied in. ``parent`` is the context whose values it may capture."""

    def __init__(self, parent: Context | None = None) -> None:
        super().__init__()
        self.parent = parent
        self.closed = False
        self.captures: dict[Value, Value] = {}
        self.key: Value | None = None
        self.keys_drawn = 0

    def locate(self) -> Origin:
        return scope.origin() if self.origin is NOWHERE else self.origin

    def capture(self, value: Value, home: Context) -> Value:
        """The value as seen from here; a value of an enclosing context becomes a captured input."""
        if home is self:
            return value
        if self.parent is None:
            raise TraceError(
                f"a symbolic array {value.type} is used outside the function in whose tracing it was made; "
                "return it from that function instead of storing it elsewhere"
            )
        outer = self.parent.capture(value, home)
        if outer not in self.captures:
            self.captures[outer] = self.input(outer.type, outer.name)
        return self.captures[outer]

    def request_key(self) -> Value:
        """The key from which this context draws; the number of draws so far makes each one different."""
        if self.key is None:
            self.key = self.new_key()
        return self.key

    def derive_key(self) -> Value:
        """A key that is used for nothing else in this context."""
        source = self.request_key()
        self.keys_drawn += 1
        return self.random_bits(source, self.constant(self.keys_drawn, UINT32), (2,))

    def new_key(self) -> Value:
        """By default one derived from the key of the enclosing context."""
        assert self.parent is not None, "a root context has a key of its own"
        return self.capture(self.parent.derive_key(), self.parent)


class Trace(Context):
    """Records a function. A root trace that needs random numbers gets an input named ``key``; ``key_input`` tells."""

    def __init__(self, parent: Context | None = None, *, own_key: bool = False) -> None:
        super().__init__(parent)
        self.own_key = own_key or parent is None
        self.key_input: Value | None = None

    def new_key(self) -> Value:
        if not self.own_key:
            return super().new_key()
        self.key_input = Value(KEY, "key")
        return self.key_input

    def close(self, name: str, outputs: Sequence[Value], output_names: Sequence[str] = ()) -> Graph:
        self.closed = True
        return self.finish(name, outputs, output_names)


class Eager(Context):
    """Computes every node as it is appended, by the definitions of the reference engine."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: dict[Value, NDArray] = {}
        # Arrays that belong to callers, by identity; this context keeps them alive.
        self.owned_outside: set[int] = set()

    def new_key(self) -> Value:
        return self.hold(default_key(), KEY)

    def append(self, node: Node) -> None:
        results = evaluate_node(node, [self.arrays[value] for value in node.inputs])
        self.arrays.update(zip(node.outputs, results, strict=True))

    def hold(self, array: NDArray, type: ArrayType) -> Value:
        value = Value(type)
        self.arrays[value] = array
        self.owned_outside.add(id(array))
        return value


def current() -> Context | None:
    """The context that operations are applied in, or None when nothing is being traced or evaluated."""
    return _stack.builders[-1] if _stack.builders else None


@contextmanager
def entered(context: Context) -> Iterator[None]:
    """Apply operations in this context."""
    _stack.builders.append(context)
    try:
        yield
    finally:
        _stack.builders.pop()
