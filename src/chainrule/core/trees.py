"""Trees of arrays: nested tuples, lists, dicts, named tuples and modules, taken apart into leaves and put together again.

A tree is flattened into its leaves plus a :class:`TreeDef` that describes everything else. Definitions are hashable and
compare by value, so they can key a cache of compiled steps. Classes of our own join in by having the two methods of
:class:`TreeNode`; there is no registry.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from chainrule.core.errors import ConfigError

Tree = Any


@runtime_checkable
class TreeNode(Protocol):
    """What a class offers to be an inner node of a tree."""

    def tree_flatten(self) -> tuple[tuple[str, ...], tuple[Tree, ...], Hashable]:
        """Names of the children, the children, and everything static that is needed to rebuild the node."""
        ...

    @classmethod
    def tree_unflatten(cls, static: Hashable, names: tuple[str, ...], children: tuple[Tree, ...]) -> Tree: ...


@dataclass(frozen=True, slots=True)
class TreeDef:
    """The shape of a tree without its leaves. ``kind`` is None for a leaf."""

    kind: type | None
    names: tuple[Any, ...] = ()
    static: Hashable = None
    children: tuple[TreeDef, ...] = ()

    @property
    def leaf_count(self) -> int:
        return 1 if self.kind is None else sum(child.leaf_count for child in self.children)


LEAF = TreeDef(None)


class State:
    """A leaf that a network carries but gradients and optimisers leave alone, such as running statistics.

    ``State(x).value`` is ``x``.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten(self) -> tuple[tuple[str, ...], tuple[Tree, ...], Hashable]:
        return ("",), (self.value,), None

    @classmethod
    def tree_unflatten(cls, static: Hashable, names: tuple[str, ...], children: tuple[Tree, ...]) -> State:
        return cls(children[0])

    def __repr__(self) -> str:
        return f"State({self.value!r})"


def _open(tree: Tree) -> tuple[type, tuple[Any, ...], Hashable, Iterable[Tree]] | None:
    """One level of a tree: its kind, child names, static part and children; None when it is a leaf."""
    if tree is None:
        return type(None), (), None, ()
    kind = type(tree)
    if kind is dict:
        return dict, tuple(tree), None, tree.values()
    if kind is list or kind is tuple:
        return kind, tuple(range(len(tree))), None, tree
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return kind, tuple(tree._fields), None, tree
    if hasattr(kind, "tree_flatten"):
        names, children, static = cast(TreeNode, tree).tree_flatten()
        return kind, names, static, children
    return None


def _close(definition: TreeDef, children: list[Tree]) -> Tree:
    kind = definition.kind
    assert kind is not None
    if kind is type(None):
        return None
    if kind is dict:
        return dict(zip(definition.names, children, strict=True))
    if kind is list:
        return children
    if kind is tuple:
        return tuple(children)
    if issubclass(kind, tuple):
        return kind(*children)
    return cast(Any, kind).tree_unflatten(definition.static, definition.names, tuple(children))


def flatten(tree: Tree) -> tuple[list[Any], TreeDef]:
    """The leaves of a tree in order, and its definition."""
    leaves: list[Any] = []
    return leaves, _flatten_into(tree, leaves)


def _flatten_into(tree: Tree, leaves: list[Any]) -> TreeDef:
    opened = _open(tree)
    if opened is None:
        leaves.append(tree)
        return LEAF
    kind, names, static, children = opened
    return TreeDef(kind, names, static, tuple([_flatten_into(child, leaves) for child in children]))


def unflatten(definition: TreeDef, leaves: Iterable[Any]) -> Tree:
    """The inverse of :func:`flatten`; the number of leaves must be exactly right."""
    source = iter(leaves)
    tree = _unflatten_from(definition, source)
    if next(source, source) is not source:
        raise ConfigError("there are more leaves than places in the tree")
    return tree


def _unflatten_from(definition: TreeDef, leaves: Iterator[Any]) -> Tree:
    if definition.kind is None:
        try:
            return next(leaves)
        except StopIteration:
            raise ConfigError("there are fewer leaves than places in the tree") from None
    return _close(definition, [_unflatten_from(child, leaves) for child in definition.children])


def leaves(tree: Tree) -> list[Any]:
    return [tree] if type(tree) is np.ndarray else flatten(tree)[0]


def tree_map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply ``function`` to corresponding leaves of trees of one structure."""
    if type(tree) is np.ndarray and not rest:
        return function(tree)
    first, definition = flatten(tree)
    columns = [first]
    for index, other in enumerate(rest):
        more, other_definition = flatten(other)
        if len(more) != len(first) or not _same_structure(definition, other_definition):
            raise ConfigError(f"tree {index + 2} does not have the structure of the first tree")
        columns.append(more)
    return unflatten(definition, [function(*row) for row in zip(*columns, strict=True)])


def _same_structure(a: TreeDef, b: TreeDef) -> bool:
    return (
        (a.kind is None) == (b.kind is None)
        and a.names == b.names
        and all(_same_structure(x, y) for x, y in zip(a.children, b.children, strict=True))
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a leaf sits: its dotted path, and whether it lies under a :class:`State`."""

    path: str
    is_state: bool


def places(definition: TreeDef) -> list[Place]:
    """The place of every leaf of a tree, in leaf order; paths look like ``layers.2.weight``."""
    found: list[Place] = []
    _collect_places(definition, "", False, found)
    return found


def _collect_places(definition: TreeDef, prefix: str, is_state: bool, found: list[Place]) -> None:
    if definition.kind is None:
        found.append(Place(prefix, is_state))
        return
    below_state = is_state or definition.kind is State
    for name, child in zip(definition.names, definition.children, strict=True):
        path = f"{prefix}.{name}" if prefix and str(name) else prefix or str(name)
        _collect_places(child, path, below_state, found)


def named_leaves(tree: Tree) -> dict[str, Any]:
    """``{path: leaf}`` for every leaf of the tree."""
    found, definition = flatten(tree)
    return {place.path: leaf for place, leaf in zip(places(definition), found, strict=True)}


def replace_leaves(tree: Tree, replacements: Mapping[str, Any]) -> Tree:
    """A copy of the tree in which the leaves named by path are replaced."""
    found, definition = flatten(tree)
    names = [place.path for place in places(definition)]
    unknown = set(replacements) - set(names)
    if unknown:
        raise ConfigError(f"the tree has no leaf named {sorted(unknown)[0]!r}")
    return unflatten(definition, [replacements.get(name, leaf) for name, leaf in zip(names, found, strict=True)])
