"""Sums over an array that are known from smaller ones, as the gradients of normalisations have them.

    Σ_i c·(x[i] - mean(x))             becomes   c·(mean(x) - mean(x)): 0, or NaN where that sum is NaN
    Σ_i c·g[i], where Σ_i g[i] is there   becomes   c·Σ_i g[i]

The gradient of a variance with respect to its mean is of the first form, that of what is scaled and shifted of the second. Each would
be another pass over the array, or another sum in every step of the one that there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chainrule.core.dtypes import FLOATS
from chainrule.engines.cpu.inline import live
from chainrule.ir.build import Builder
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Dim, product

# Longer sums of terms are left alone.
_MOST_TERMS = 8


def use_known_sums(graph: Graph) -> Graph:
    """The same graph, loop bodies included, with such sums written as what they are; last digits may change."""
    builder = Builder()
    builder.inputs.extend(graph.inputs)
    sums = _Sums(builder)
    known: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = tuple(known.get(value, value) for value in node.inputs)
        attributes = {k: use_known_sums(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
        current = Node(node.primitive, inputs, attributes, node.outputs, node.origin)
        with builder.at(node.origin):
            found = sums.rewritten(current) if node.primitive.name == "reduce_sum" else None
        if found is not None:
            known[node.output] = found
            continue
        builder.append(current)
        sums.note(current)
    # What only such sums needed goes: a value with one reader less may need no memory.
    return live(builder.finish(graph.name, [known.get(value, value) for value in graph.outputs], graph.output_names))


@dataclass(slots=True)
class _Sums:
    """The nodes so far, and their sums by what they add up over which axes."""

    builder: Builder
    makers: dict[Value, Node] = field(default_factory=dict)
    totals: dict[tuple[Value, frozenset[int]], Value] = field(default_factory=dict)

    def note(self, node: Node) -> None:
        self.makers.update((value, node) for value in node.outputs)
        if node.primitive.name == "reduce_sum":
            self.totals[node.inputs[0], frozenset(node.attributes["axes"])] = node.output

    def rewritten(self, node: Node) -> Value | None:
        """A sum as what is known of its terms, and a sum of the others; None where nothing is."""
        (x,), axes = node.inputs, frozenset(node.attributes["axes"])
        terms = self._terms(x) if x.dtype in FLOATS and axes else []
        known, others = [], []
        for negative, term in terms:
            total = self._total(term, axes)
            if total is None:
                others.append((negative, term))
            else:
                known.append((negative, total))
        if not known:
            return None
        if others:
            known.append((False, self.builder.reduce_sum(self._added(others), tuple(sorted(axes)))))
        return self._added(known)

    def _added(self, terms: list[tuple[bool, Value]]) -> Value:
        (negative, total), *rest = terms
        total = self.builder.neg(total) if negative else total
        for negative, term in rest:
            total = self.builder.sub(total, term) if negative else self.builder.add(total, term)
        return total

    def _terms(self, x: Value) -> list[tuple[bool, Value]]:
        """A value as a sum of others, and which of them are subtracted; none if there are many."""
        found: list[tuple[bool, Value]] = []
        waiting = [(False, x)]
        while waiting:
            negative, value = waiting.pop()
            node = self.makers.get(value)
            name = node.primitive.name if node is not None else ""
            if node is not None and name in ("add", "neg"):
                waiting += [(negative != (name == "neg"), operand) for operand in node.inputs]
            else:
                found.append((negative, value))
            if len(found) + len(waiting) > _MOST_TERMS:
                return []
        return found

    def _total(self, term: Value, axes: frozenset[int]) -> Value | None:
        """The sum of a term, if it is a known one times factors that are the same for all that is added up."""
        factors: list[tuple[str, Value]] = []
        value = term
        while True:
            total = self.totals.get((value, axes)) or self._of_centred(value, axes)
            if total is not None:
                break
            node = self.makers.get(value)
            if node is None or node.primitive.name not in ("mul", "div", "neg"):
                return None
            if node.primitive.name == "neg":
                (value,) = node.inputs
                factors.append(("neg", value))
                continue
            x, y = node.inputs
            factor = self._same_for_all(y, axes)
            if factor is None and node.primitive.name == "mul":
                x, factor = y, self._same_for_all(x, axes)
            if factor is None:
                return None
            factors.append((node.primitive.name, factor))
            value = x
        for name, factor in reversed(factors):
            if name == "neg":
                total = self.builder.neg(total)
            else:
                total = self.builder.mul(total, factor) if name == "mul" else self.builder.div(total, factor)
        return total

    def _same_for_all(self, value: Value, axes: frozenset[int]) -> Value | None:
        """What a value repeats along the axes, in the shape of a sum over them."""
        node = self.makers.get(value)
        kept = [axis for axis in range(len(value.shape)) if axis not in axes]
        if node is None or node.primitive.name != "broadcast" or not set(node.attributes["axes"]) <= set(kept):
            return None
        (x,) = node.inputs
        shape, repeated = (
            tuple(value.shape[axis] for axis in kept),
            [kept.index(axis) for axis in node.attributes["axes"]],
        )
        if x.shape == shape and repeated == list(range(len(shape))):
            return x
        return self.builder.broadcast(x, shape, repeated)

    def _of_centred(self, value: Value, axes: frozenset[int]) -> Value | None:
        """The sum of ``x - mean(x)``: the mean minus itself."""
        node = self.makers.get(value)
        if node is None or node.primitive.name != "sub":
            return None
        x, repeated = node.inputs
        mean = self._same_for_all(repeated, axes)
        total = self.totals.get((x, axes))
        if mean is None or total is None:
            return None
        quotient = self._through_shapes(mean)
        divided = self.makers.get(quotient)
        if divided is None or divided.primitive.name != "div" or self._through_shapes(divided.inputs[0]) is not total:
            return None
        count = product(x.shape[axis] for axis in axes)
        return self.builder.sub(mean, mean) if self._is_count(divided.inputs[1], count) else None

    def _through_shapes(self, value: Value) -> Value:
        """The value under another shape whose elements are in the same order."""
        node = self.makers.get(value)
        while node is not None and node.primitive.name == "reshape":
            value = node.inputs[0]
            node = self.makers.get(value)
        return value

    def _is_count(self, value: Value, count: Dim) -> bool:
        node = self.makers.get(value)
        while node is not None and node.primitive.name in ("broadcast", "cast", "reshape"):
            node = self.makers.get(node.inputs[0])
        if node is None:
            return False
        if node.primitive.name == "extent":
            return bool(node.attributes["size"] == count)
        return node.primitive.name == "constant" and bool((node.attributes["value"] == count).all())
