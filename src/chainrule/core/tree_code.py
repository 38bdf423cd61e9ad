"""Python written for trees of one structure, for functions that are called again and again with it.

Taking a tree apart in general builds a :class:`~chainrule.core.trees.TreeDef` and compares it; code for one definition only
checks that a tree has it. No name or key of a tree is ever part of the text: they are constants that the text refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from chainrule.core.trees import TreeDef


class Code:
    """The body of a function that returns ``MISS`` where its arguments do not have the structure it was written for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {"MISS": MISS}
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def constant(self, value: Any) -> str:
        name = self.name()
        self.constants[name] = value
        return name

    def line(self, text: str) -> None:
        self.lines.append(text)

    def miss_if(self, condition: str) -> None:
        self.line(f"if {condition}: return MISS")

    def function(self, parameters: str) -> Callable[..., Any]:
        text = f"def call({parameters}):\n" + "".join(f"    {line}\n" for line in self.lines)
        scope = dict(self.constants)
        exec(compile(text, "<written for one structure>", "exec"), scope)
        return scope["call"]  # type: ignore[no-any-return]


class Miss:
    """That the arguments have another structure."""


MISS = Miss()


def write_reading(code: Code, definition: TreeDef, source: str) -> list[str]:
    """Check that the tree called ``source`` has this definition; returns the names of what stands at its leaves, unchecked."""
    kind = definition.kind
    if kind is None:
        return [source]
    if kind is type(None):
        code.miss_if(f"{source} is not None")
        return []
    names = [code.name() for _ in definition.children]
    count = len(names)
    code.miss_if(f"type({source}) is not {code.constant(kind)}")
    children = source
    if kind is dict:
        code.miss_if(f"[*{source}] != {code.constant(list(definition.names))}")
        children = f"{source}.values()"
    elif kind is list or kind is tuple:
        code.miss_if(f"len({source}) != {count}")
    elif not issubclass(kind, tuple):
        children, found, static = code.name(), code.name(), code.name()
        wanted = code.constant(definition.static)
        code.line(f"{found}, {children}, {static} = {source}.tree_flatten()")
        code.miss_if(f"{found} != {code.constant(definition.names)}")
        code.miss_if(f"{static} is not {wanted} and {static} != {wanted}")
    if names:
        code.line(f"{', '.join(names)}, = {children}")
    return [leaf for name, child in zip(names, definition.children) for leaf in write_reading(code, child, name)]


def write_building(code: Code, definition: TreeDef, leaves: Iterator[str]) -> str:
    """An expression for the tree of this definition with the named leaves."""
    kind = definition.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return "None"
    children = [write_building(code, child, leaves) for child in definition.children]
    inside = "".join(f"{child}, " for child in children)
    if kind is dict:
        return "{" + "".join(f"{code.constant(k)}: {c}, " for k, c in zip(definition.names, children)) + "}"
    if kind is list:
        return f"[{inside}]"
    if kind is tuple:
        return f"({inside})"
    if issubclass(kind, tuple):
        return f"{code.constant(kind)}({inside})"
    rebuild = code.constant(kind.tree_unflatten)  # type: ignore[attr-defined]
    return f"{rebuild}({code.constant(definition.static)}, {code.constant(definition.names)}, ({inside}))"
