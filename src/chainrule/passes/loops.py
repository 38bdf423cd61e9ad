"""Work that need not be done step by step leaves the loop.

* A contraction of a scan's body that does not depend on the carry is computed for all steps at once before the loop.
* One that only a stacked result depends on is computed for all steps at once after it.
* A running sum of contractions, such as the cotangent of a weight in backpropagation through time, becomes one contraction after
  the loop with the step among its summed indices: no accumulator is read and written in every step.

The values are the same but for the rounding of sums. Memory stays linear in the number of steps, with a bound on the factor:
what a loop stacks in addition is at most ``GROWTH`` times what it stacked. Loops without a carry are left as they are, because
a plain map is written as a loop to keep little in memory; and so is what stands inside a ``call``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Graph, Node, Value
from chainrule.ir.sizes import Dim, at, product
from chainrule.passes.stacked import at_all_steps, can_stack, over_steps

GROWTH = 4
# Sizes are compared at this batch size where they depend on it.
_TYPICAL_BATCH = 32
# Σ over steps of f(x) is f(Σ x) for these.
_LINEAR = frozenset({"neg", "reshape", "transpose", "slice", "flip"})


def move_out_of_loops(graph: Graph) -> Graph:
    """Apply the rules above to every scan, inner loops first."""
    build = Builder()
    build.inputs = list(graph.inputs)
    known: dict[Value, Value] = {}
    for node in graph.nodes:
        node = node.rewired(known, {name: move_out_of_loops(body) for name, body in node.subgraphs()})
        if node.primitive.name == "scan" and node.attributes["carries"] and node.attributes["length"] > 1:
            known.update(zip(node.outputs, _Loop(build, node).rewritten(), strict=True))
        else:
            build.append(node)
    return graph.rewritten(build.nodes, [known.get(value, value) for value in graph.outputs])


class _Loop:
    """One scan: what its body's values are outside, where they are known there, and what it still stacks."""

    def __init__(self, build: Builder, node: Node) -> None:
        self.build, self.node = build, node
        self.after = Builder()
        at_ = node.attributes
        self.body: Graph = at_["body"]
        self.length: int = at_["length"]
        self.consts, self.carries = at_["consts"], at_["carries"]
        first = self.consts + self.carries
        self.fixed: dict[Value, Value] = dict(
            zip(self.body.inputs[: self.consts], node.inputs[: self.consts], strict=True)
        )
        self.steps: dict[Value, Value] = dict(zip(self.body.inputs[first:], node.inputs[first:], strict=True))
        self.stacked: dict[Value, Value] = dict(
            zip(self.body.outputs[self.carries :], node.outputs[self.carries :], strict=True)
        )
        self.nodes = list(self.body.nodes)
        self.made = {value: n for n in self.nodes for value in n.outputs}
        self.read: set[Value] = set()
        self.allowed = GROWTH * sum(_elements(value) for value in [*self.steps, *self.stacked])

    def rewritten(self) -> list[Value]:
        """Append the loop and what left it; returns the values of its results."""
        self._hoist()
        kept: list[int] = []
        results = list(self.node.outputs)
        for k in range(self.carries):
            total = self._running_sum(k)
            if total is None:
                kept.append(k)
            else:
                start = self.node.inputs[self.consts + k]
                results[k] = self.after.add(start, total)
        self._drop_unused(kept)
        later = self._sink(kept)
        for k in range(self.carries, len(results)):
            value = self.body.outputs[k]
            results[k] = later[value] if value in later else self.stacked[value]
        self._append_loop(kept, [value for value in self.stacked if value not in later])
        self.build.nodes.extend(self.after.nodes)
        return results

    # --- before the loop ---------------------------------------------------------------------------------------------

    def _hoist(self) -> None:
        """Contractions of what is known before the loop, together with what leads to them."""
        for node in self.nodes:
            if node.primitive.name != "contract":
                continue
            needed = self._known_before(node)
            if needed is None:
                continue
            value = node.output
            operands = [v for n in needed for v in n.inputs]
            if any(v in self.steps for v in operands) and not self._afford([value]):
                continue
            found: dict[Value, Value] = {}
            for n in needed:
                given = [self._outside(v, found) for v in n.inputs]
                stacked = [v in self.steps or (v in found and self._moves(v)) for v in n.inputs]
                with self.build.at(n.origin):
                    found[n.output] = at_all_steps(self.build, n, given, stacked, self.length)
            # From here on the body takes it as an operand.
            (self.steps if self._moves(value) else self.fixed)[value] = found[value]
            del self.made[value]
        self.nodes = [n for n in self.nodes if any(value in self.made for value in n.outputs)]

    def _outside(self, value: Value, found: dict[Value, Value]) -> Value:
        for place in (self.fixed, self.steps, found):
            if value in place:
                return place[value]
        raise AssertionError("a value that is known before the loop has a name there")

    def _moves(self, value: Value) -> bool:
        """Whether a value that is known before the loop differs between steps."""
        if value in self.steps or value in self.fixed:
            return value in self.steps
        return any(self._moves(v) for v in self.made[value].inputs)

    def _known_before(self, node: Node) -> list[Node] | None:
        """The nodes that compute this one from operands of the loop, in order; None where the carry comes in."""
        wanted: set[Value] = set(node.inputs)
        chosen = [node]
        position = self.nodes.index(node)
        for earlier in reversed(self.nodes[:position]):
            if not wanted.intersection(earlier.outputs) or any(
                v in self.fixed or v in self.steps for v in earlier.outputs
            ):
                continue
            if not (can_stack(earlier) or not earlier.inputs) or len(earlier.outputs) > 1:
                return None
            wanted.update(earlier.inputs)
            chosen.append(earlier)
        carried = self.body.inputs[self.consts : self.consts + self.carries]
        return None if wanted.intersection(carried) else chosen[::-1]

    # --- after the loop ----------------------------------------------------------------------------------------------

    def _running_sum(self, k: int) -> Value | None:
        """What a carry that only ever has contractions added to it gains over all steps."""
        carry, result = self.body.inputs[self.consts + k], self.body.outputs[k]
        adding = self.made.get(result)
        if (
            adding is None
            or adding.primitive.name != "add"
            or carry not in adding.inputs
            or adding.inputs[0] is adding.inputs[1]
        ):
            return None
        uses = sum(n.inputs.count(carry) for n in self.nodes)
        if uses > 1 or carry in self.body.outputs or self._users(result) or self.body.outputs.count(result) > 1:
            return None
        (term,) = [value for value in adding.inputs if value is not carry]
        leaves = self._summands(term)
        if leaves is None:
            return None
        # Stacking writes and reads these once each step, as adding writes and reads the sum: what is larger stays a sum.
        operands = [v for n in leaves for v in n.inputs]
        if self._extra(operands) >= _elements(result) or not self._afford(operands):
            return None
        return self._sum(term)

    def _summands(self, value: Value) -> list[Node] | None:
        """The contractions and sums that a value is a sum of, through additions and rearrangements."""
        node = self.made.get(value)
        name = node.primitive.name if node is not None else ""
        if node is None:
            return None
        if name in ("contract", "reduce_sum"):
            return [node] if any(self._varies(v) for v in node.inputs) else None
        if name == "add" or name in _LINEAR or (name == "pad" and node.attributes["value"] == 0):
            parts = [self._summands(v) for v in node.inputs]
            return None if any(part is None for part in parts) else [n for part in parts if part for n in part]
        return None

    def _sum(self, value: Value) -> Value:
        node, b = self.made[value], self.after
        with b.at(node.origin):
            match node.primitive.name:
                case "contract":
                    operands = [self._at_every_step(v) for v in node.inputs]
                    varies = [self._varies(v) for v in node.inputs]
                    return b.contract(over_steps(node.attributes["spec"], self.length, *varies, summed=True), *operands)
                case "reduce_sum":
                    axes = [0, *(axis + 1 for axis in node.attributes["axes"])]
                    return b.reduce_sum(self._at_every_step(node.inputs[0]), axes)
                case name:
                    return b.emit(name, [self._sum(v) for v in node.inputs], node.attributes)[0]

    def _sink(self, kept: list[int]) -> dict[Value, Value]:
        """Stacked results that are contractions nothing else reads: computed from stacked operands instead."""
        found: dict[Value, Value] = {}
        needed = {self.body.outputs[k] for k in kept}
        for value in list(self.stacked):
            node = self.made.get(value)
            if node is None or node.primitive.name != "contract" or value in needed | self.read or self._users(value):
                continue
            varies = [self._varies(v) for v in node.inputs]
            if not any(varies) or not self._afford(node.inputs):
                continue
            operands = [self._at_every_step(v) for v in node.inputs]
            with self.after.at(node.origin):
                found[value] = at_all_steps(self.after, node, operands, varies, self.length)
        return found

    def _drop_unused(self, kept: list[int]) -> None:
        """Leave out the nodes of sums that have left the loop."""
        needed = {self.body.outputs[k] for k in kept} | set(self.stacked)
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        self.nodes = nodes[::-1]

    def _users(self, value: Value) -> int:
        return sum(n.inputs.count(value) for n in self.nodes)

    def _varies(self, value: Value) -> bool:
        return value not in self.fixed

    def _at_every_step(self, value: Value) -> Value:
        """A value of the body outside the loop: an operand as it is, anything else stacked."""
        if value in self.fixed:
            return self.fixed[value]
        if value in self.steps:
            return self.steps[value]
        self.read.add(value)
        return self.stacked.setdefault(value, Value(ArrayType((self.length, *value.shape), value.dtype)))

    def _afford(self, values: Iterable[Value]) -> bool:
        """Whether these may be stacked too; if so they count from now on."""
        extra = self._extra(values)
        if extra > self.allowed:
            return False
        self.allowed -= extra
        return True

    def _extra(self, values: Iterable[Value]) -> int:
        """How many elements of these each step would have to stack in addition."""
        known = (self.fixed, self.steps, self.stacked)
        return sum(_elements(value) for value in set(values) if not any(value in place for place in known))

    def _append_loop(self, kept: list[int], stacked: list[Value]) -> None:
        carried = self.consts
        inputs = [*self.fixed, *(self.body.inputs[carried + k] for k in kept), *self.steps]
        outputs = [*(self.body.outputs[k] for k in kept), *stacked]
        body = Graph(self.body.name, tuple(inputs), tuple(self.nodes), tuple(outputs))
        operands = [*self.fixed.values(), *(self.node.inputs[carried + k] for k in kept), *self.steps.values()]
        results = [*(self.node.outputs[k] for k in kept), *(self.stacked[value] for value in stacked)]
        attributes: dict[str, Any] = {
            **self.node.attributes,
            "body": body,
            "consts": len(self.fixed),
            "carries": len(kept),
        }
        self.build.append(replace(self.node, inputs=tuple(operands), outputs=tuple(results), attributes=attributes))


def _elements(value: Value) -> int:
    size: Dim = product(value.shape)
    return at(size, _TYPICAL_BATCH)
