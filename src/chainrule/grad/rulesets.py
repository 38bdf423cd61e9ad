"""Rule sets: which backward rule a node has, as a value.

A rule takes the running :class:`~chainrule.grad.backprop.Backward`, a node and the cotangents of its results (None where a result
is not used) and returns a cotangent, or None, for each operand. A set maps primitives to rules, with overrides for parts of a
model that are selected by the module path of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from chainrule.core.errors import ConfigError, RuleError
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
    """A name, a rule per primitive, and overrides of which the last that matches wins. With ``for_part`` the set is used for a part
    of a network, in which not every scope need be found."""

    name: str
    table: Mapping[str, Rule]
    overrides: tuple[Override, ...] = ()
    for_part: bool = False

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

        ``scope`` is a pattern of shell style over dotted module paths: ``*`` matches everything, ``layers.0*`` a layer. The
        gradient of a loss in which another pattern than ``*`` finds none of these primitives raises :class:`ConfigError`.
        """
        for primitive in rules:
            if primitive not in PRIMITIVES:
                raise RuleError(f"there is no primitive {primitive!r}; {hint(primitive, PRIMITIVES)}")
        added = tuple(Override(primitive, scope, rule) for primitive, rule in rules.items())
        return replace(self, name=name, overrides=(*self.overrides, *added))

    def check_scopes(self, nodes: Iterable[Node]) -> None:
        """Raise :class:`ConfigError` for a scope in which none of these nodes has one of the primitives that it is for."""
        if self.for_part or all(override.scope == "*" for override in self.overrides):
            return
        primitives: dict[str, set[str]] = {}
        for node in _all(nodes):
            primitives.setdefault(node.origin.path, set()).add(node.primitive.name)
        for scope in {override.scope: None for override in self.overrides if override.scope != "*"}:
            matching = [path for path in primitives if fnmatchcase(path, scope)]
            layers = [path for path in primitives if path]
            if not matching:
                near = hint(scope.rstrip("*."), layers)
                raise ConfigError(f"rule set {self.name!r}: no layer matches the scope {scope!r}; {near}")
            wanted = {override.primitive: None for override in self.overrides if override.scope == scope}
            if not any(name in primitives[path] for path in matching for name in wanted):
                raise ConfigError(
                    f"rule set {self.name!r}: what matches the scope {scope!r} computes no {' or '.join(wanted)}, so its rule "
                    f"would change nothing; it matches {', '.join(matching)}"
                )


def _all(nodes: Iterable[Node]) -> Iterator[Node]:
    """These nodes and those of the graphs in them."""
    for node in nodes:
        yield node
        for _, body in node.subgraphs():
            yield from _all(body.nodes)
