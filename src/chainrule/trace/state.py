"""State that layers record while they run, such as the running statistics of batch normalisation.

A module is immutable: a layer does not change its state, it *records* the new value, and whoever called the model with
``training=True`` collects it. Several calls in one collection chain in order: each reads what the previous one recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chainrule.core.errors import TraceError
from chainrule.core.trees import Tree, tree_map
from chainrule.trace.array import Array
from chainrule.trace.scope import here


class Collection:
    """New values of state leaves, by the identity of the leaf."""

    def __init__(self) -> None:
        self._found: dict[Any, tuple[Any, Any]] = {}

    def get(self, leaf: Any) -> Any:
        found = self._found.get(_identity(leaf))
        return leaf if found is None else found[1]

    def put(self, leaf: Any, value: Any) -> None:
        # The leaf is kept alive with its value: an identity is only unique among living objects.
        self._found[_identity(leaf)] = (leaf, value)

    def __contains__(self, leaf: Any) -> bool:
        return _identity(leaf) in self._found

    def apply(self, tree: Tree) -> Tree:
        """The tree with every recorded leaf replaced."""
        return tree_map(self.get, tree)


def _identity(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Array) else id(leaf)


class _Collections(threading.local):
    def __init__(self) -> None:
        self.stack: list[Collection] = []


_collections = _Collections()


@contextmanager
def collect_state() -> Iterator[Collection]:
    """Collect what layers record inside."""
    collection = Collection()
    _collections.stack.append(collection)
    try:
        yield collection
    finally:
        _collections.stack.pop()


def read_state(leaf: Any) -> Any:
    """The latest value of a state leaf: the one recorded last, or the leaf itself."""
    for collection in reversed(_collections.stack):
        if leaf in collection:
            return collection.get(leaf)
    return leaf


def record_state(leaf: Any, value: Any) -> None:
    """Record the new value of a state leaf; raises :class:`TraceError` naming the layer when nobody collects it."""
    if not _collections.stack:
        raise TraceError(
            f"layer {here().path or 'at the top'!r} was called with training=True and recorded new state that nobody collects; "
            "use value_and_grad(f, state=True), collect_state() or the Trainer, or call the model without training=True"
        )
    _collections.stack[-1].put(leaf, value)
