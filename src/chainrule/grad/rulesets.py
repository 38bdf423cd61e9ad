"""Rule sets: which backward rule a node has, as a value.

A rule takes the running :class:`~chainrule.grad.backprop.Backward`, a node and the cotangents of its results (None where a result
is not used) and returns a cotangent, or None, for each operand. A set maps primitives to rules, with overrides for parts of a
model that are selected by the module path of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from chainrule.core.errors import RuleError
from chainrule.core.names import hint
from chainrule.ir.graph import Node, Value
from chainrule.ir.primitives import PRIMITIVES

if TYPE_CHECKING:
    from chainrule.grad.backprop import Backward

Rule = Callable[["Backward", Node, Sequence[Value | None]], Sequence[Value | None]]


@dataclass(frozen=True, slots=True)
class Override:
    """A rule for one primitive within the scopes that match a pattern such as ``encoder.*`` or ``*``."""

    primitive: str
    scope: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A name, a rule per primitive, and overrides of which the last that matches wins."""

    name: str
    table: Mapping[str, Rule]
    overrides: tuple[Override, ...] = ()

    def rule(self, node: Node) -> Rule:
        """The rule of a node; raises :class:`RuleError` where the set has none."""
        name = node.primitive.name
        for override in reversed(self.overrides):
            if override.primitive == name and fnmatchcase(node.origin.path, override.scope):
                return override.rule
        if name not in self.table:
            raise RuleError(f"rule set {self.name!r} has no rule for primitive {name}, used in {node.origin}")
        return self.table[name]

    def extend(self, name: str, rules: Mapping[str, Rule], scope: str = "*") -> RuleSet:
        """A new set in which the given primitives have other rules wherever the module path matches ``scope``.

        ``scope`` is a pattern of shell style over dotted module paths: ``*`` matches everything, ``layers.0*`` a layer.
        """
        for primitive in rules:
            if primitive not in PRIMITIVES:
                raise RuleError(f"there is no primitive {primitive!r}; {hint(primitive, PRIMITIVES)}")
        added = tuple(Override(primitive, scope, rule) for primitive, rule in rules.items())
        return replace(self, name=name, overrides=(*self.overrides, *added))
