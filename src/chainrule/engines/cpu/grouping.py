"""Which values get memory, and which nodes run in one loop nest.

Elementwise maps and views are expanded into whatever reads them; a value is stored only if something needs it in memory, or if
computing it again would cost more than reading it back. What a contraction copies before it uses it, the copy may compute on the
way. Maps over the same box then share a nest, and maps of the result of a contraction become its epilogue, so that the result
itself may never be stored. Sums over the leading axes of what a nest computes are added up along with it. Reductions over rows,
and the maps around them, run row by row (``rows.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush

from chainrule.core.dtypes import BOOL, FLOATS
from chainrule.engines.cpu.loop_rows import rows_of_loops
from chainrule.engines.cpu.nest import ELEMENTWISE, Nest, Section, ancestors, same_bytes
from chainrule.engines.cpu.rows import join_rows
from chainrule.engines.cpu.scalars import COSTS
from chainrule.engines.cpu.tile_shape import NOMINAL
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Shape, Size, at, product

# What runs in a nest of its own.
NESTS = frozenset({"reduce_sum", "reduce_max", "argmax", "contract", "scatter_add", "scan", "fixed_point"})
_JOINED = frozenset({"map", "contract"})
# Recomputing up to this many additions is cheaper than a store and a load.
_CHEAP = 3
# Longer chains of maps are cut, because what is computed for an element is found by going down the chain.
_DEEPEST = 100
# An array with zeros between its elements: divisions, and conditions that keep what reads it from vectors.
_SPREAD = 4
# Writing an array takes as long as reading so many of its size, and so does computing this many additions for each element.
WRITING = 2
ADDITIONS_A_PASS = 12
_MAX_ROOTS = 12
# A sum of more numbers than this is not added up along with what makes its operand: every chunk has a sum of its own.
LARGEST_SIDE = 4096


class Grouping:
    """The decisions for one graph without calls: which values are ``stored``, and after :meth:`group` the ``nests`` in the
    order in which they run. ``rows`` are taken by loops where they lie."""

    def __init__(
        self,
        graph: Graph,
        has_epilogue: Callable[[Node], bool],
        has_sides: Callable[[Node], bool] | None = None,
        copies: Callable[[Node], frozenset[int]] | None = None,
        adds_up: Callable[[Node, int], bool] | None = None,
    ) -> None:
        self.graph = graph
        self.has_epilogue, self.has_sides = has_epilogue, has_sides or (lambda node: False)
        self.copies, self.adds_up = copies or (lambda node: frozenset()), adds_up or (lambda node, number: False)
        self.makers: dict[Value, Node] = {value: node for node in graph.nodes for value in node.outputs}
        self.alias: dict[Value, Value] = {}
        for node in graph.nodes:
            if same_bytes(node):
                self.alias[node.output] = self.canonical(node.inputs[0])
        self.results = [self.canonical(value) for value in graph.outputs]
        self.cuts: set[Value] = set()
        self.rows = rows_of_loops(graph)
        self.stored = self._choose_stored()
        self.nests: list[Nest] = []
        self.sections: list[Section] = []

    def group(self) -> None:
        """Put what is computed into nests, in an order in which they can run. What only its own nest reads is stored no more."""
        self.nests = self._schedule(join_rows(self._add_up_operands(self._merge(self._separate())), self))

    def canonical(self, value: Value) -> Value:
        """The value whose bytes these are."""
        return self.alias.get(value, value)

    def is_stored(self, value: Value) -> bool:
        return self.canonical(value) in self.stored

    def _choose_stored(self) -> set[Value]:
        uses = _uses(self.graph)
        stored = {*self.graph.inputs, *self.results}
        copies: set[Value] = set()
        for node in self.graph.nodes:
            name = node.primitive.name
            if name in NESTS:
                stored.update(value for value in node.outputs if value not in self.alias)
                if name in ("contract", "scan", "fixed_point"):
                    copied = self.copies(node) if name == "contract" else ()
                    whole = [x for number, x in enumerate(node.inputs) if number not in copied and x not in self.rows]
                    stored.update(map(self.canonical, whole))
                    copies.update(self.canonical(node.inputs[number]) for number in copied)
            elif name == "gather":
                stored.add(self.canonical(node.inputs[0]))
            elif name == "constant" and node.output.shape:
                stored.add(node.output)
        cost: dict[Value, int] = dict.fromkeys(self.graph.inputs, 0)
        depth: dict[Value, int] = dict.fromkeys(self.graph.inputs, 0)
        readers = self._readers()
        for node in self.graph.nodes:
            grows = node.primitive.name == "broadcast" and product(node.inputs[0].shape) != product(node.output.shape)
            precious = [*node.inputs] if node.primitive.name == "random_bits" else [*node.inputs] if grows else []
            stored.update(self.canonical(value) for value in precious if cost[value] and not self.is_in(value, stored))
            own = _cost(node)
            expanded = [value for value in node.inputs if not self.is_in(value, stored)]
            total = own + sum(cost[value] for value in expanded)
            deepest = 1 + max((depth[value] for value in expanded), default=0)
            for value in node.outputs:
                cost[value], depth[value] = (0, 0) if self.is_in(value, stored) else (total, deepest)
                limit = 0 if value.dtype == BOOL else _CHEAP
                if value in self.alias or value in self.rows:
                    continue
                if depth[value] > _DEEPEST:
                    self.cuts.add(value)
                if value in copies:
                    dear = not self._is_cheaper(value, readers[value], stored)
                else:
                    dear = cost[value] > limit and uses.get(value, 0) > 1
                if value in self.cuts or dear:
                    stored.add(value)
        return stored

    def _is_cheaper(self, value: Value, readers: int, stored: set[Value]) -> bool:
        """Whether computing the value wherever it is read moves less than writing it once and reading it.

        In passes over arrays of its size: writing is two, because what is written over is fetched first, and so many additions take
        as long as one.
        """
        found = made_of(value, self, stored, spread=True)
        if found is None:
            return False
        sources, cost = found
        once = sum(map(_elements, sources)) / _elements(value) + cost / ADDITIONS_A_PASS
        return readers * once < once + WRITING + readers

    def _readers(self) -> dict[Value, int]:
        """How many nodes read a value, under whatever shape, without the sums that the copies of others may add up."""
        found: dict[Value, int] = {}
        added = {
            self.canonical(value)
            for node in self.graph.nodes
            if node.primitive.name == "contract"
            for number, value in enumerate(node.inputs)
            if self.adds_up(node, number)
        }
        for node in self.graph.nodes:
            goes_along = can_be_side(node) and self.canonical(node.inputs[0]) in added
            if node.outputs[0] not in self.alias and not goes_along:
                for value in set(map(self.canonical, node.inputs)):
                    found[value] = found.get(value, 0) + 1
        return found

    def is_in(self, value: Value, stored: set[Value]) -> bool:
        return self.canonical(value) in stored

    def _separate(self) -> list[Nest]:
        """One nest for every node that needs one and for every stored map."""
        nests = []
        for order, node in enumerate(self.graph.nodes):
            name = node.primitive.name
            if name in NESTS and node.outputs[0] not in self.alias:
                nests.append(Nest(name, node, [], order))
                for value in node.inputs:
                    self._collect(value, False, nests[-1].reads)
            elif node.output in self.stored and not (name == "constant" and node.output.shape):
                nests.append(Nest("map", None, [node.output], order))
                self._collect_from(node, True, nests[-1].reads)
        return nests

    def _collect(self, value: Value, same: bool, reads: dict[Value, bool]) -> None:
        """Note what is read from memory to compute a value, and whether only ever at the position of the nest itself."""
        source = self.canonical(value)
        if source in self.stored:
            reads[source] = reads.get(source, True) and same
        elif value in self.makers:
            self._collect_from(self.makers[value], same, reads)

    def _collect_from(self, node: Node, same: bool, reads: dict[Value, bool]) -> None:
        same = same and (node.primitive.name in ELEMENTWISE or same_bytes(node))
        for value in node.inputs:
            self._collect(value, same, reads)

    def _merge(self, nests: list[Nest]) -> list[Nest]:
        groups: list[Nest] = []
        beside: dict[Shape, list[Nest]] = {}  # by their boxes
        home: dict[Value, Nest] = {}
        above: dict[Nest, set[Nest]] = {}  # all that must run before
        for nest in nests:
            target = None
            along = nest if nest.kind == "map" else self._as_side(nest)
            if along is not None:
                direct = {home[value] for value in along.reads if value in home}
                candidates = self._candidates(along, beside.get(along.box, ()), direct, above)
                target = next((g for g in candidates if _may_join(along, g, direct, above)), None)
            if target is None or along is None:
                groups.append(nest)
                if nest.kind in _JOINED:
                    beside.setdefault(nest.box, []).append(nest)
                home.update(dict.fromkeys(nest.made, nest))
                direct = {home[value] for value in nest.reads if value in home} - {nest}
                above[nest] = direct.union(*(above[group] for group in direct))
                continue
            for value, same in along.reads.items():
                target.reads[value] = target.reads.get(value, True) and same
            target.roots.extend(along.roots)
            target.sides.extend(along.sides)
            target.order = max(target.order, along.order)
            home.update(dict.fromkeys(along.made, target))
            before = direct - {target}
            before.update(*(above[group] for group in before))
            for group in groups:
                if group is target or target in above[group]:
                    above[group] |= before
        self._forget_private(groups)
        return groups

    def _add_up_operands(self, groups: list[Nest]) -> list[Nest]:
        """Sums of what a contraction computes while it copies it go along with the copy."""
        home = {value: group for group in groups for value in group.made}
        above = ancestors(groups, home)
        for group in [group for group in groups if group.node is not None and can_be_side(group.node)]:
            assert group.node is not None, "it has just been looked at"
            operand = self.canonical(group.node.inputs[0])
            target = next((g for g in groups if self._computes(g, operand) and group not in above[g]), None)
            if operand in self.stored or target is None:
                continue
            target.operand_sums.append(group.node)
            target.order = max(target.order, group.order)
            groups.remove(group)
            for other in groups:
                if group in above[other]:
                    above[other] |= {target} | above[target]
        return groups

    def _computes(self, nest: Nest, operand: Value) -> bool:
        """Whether a nest is a contraction that copies this operand, and may add it up on the way."""
        if nest.kind != "contract" or nest.node is None:
            return False
        node = nest.node
        return any(self.canonical(x) is operand and self.adds_up(node, k) for k, x in enumerate(node.inputs))

    def _as_side(self, nest: Nest) -> Nest | None:
        """A sum as something computed along with a nest over the box of its operand, if it can be."""
        if nest.node is None or not can_be_side(nest.node):
            return None
        side = Nest("map", None, [], nest.order, sides=[nest.node])
        self._collect(nest.node.inputs[0], True, side.reads)
        return side

    def _candidates(
        self, nest: Nest, groups: Sequence[Nest], direct: set[Nest], above: Mapping[Nest, set[Nest]]
    ) -> list[Nest]:
        """Of the groups over the same box first those whose results the nest reads, then those that read what it reads."""
        most = _MAX_ROOTS
        same = [g for g in groups if len(g.roots) + len(g.sides) < most]
        follows = self.has_sides if nest.sides else self.has_epilogue
        read = [g for g in same if g in direct and (g.node is None or follows(g.node))]
        beside = [g for g in same if g not in direct and g.node is None]
        if not nest.box:
            # Numbers cost nothing to read again: what may wait for more than they do is left alone.
            before = direct.union(*(above[group] for group in direct))
            return [*read, *(g for g in beside if above[g] <= before)]
        sharing = [g for g in beside if g.reads.keys() & nest.reads.keys()]
        return [*sorted(read, key=lambda g: g.kind), *sharing]

    def _forget_private(self, groups: list[Nest]) -> None:
        """Results that only their own nest reads are not stored; a nest that is left without results goes."""
        for group in [g for g in groups if g.kind in ("map", "contract")]:
            needed = {value for other in groups if other is not group for value in other.reads}
            needed.update(self.results, self.cuts)
            private = [value for value in group.made if value not in needed]
            group.roots = [value for value in group.roots if value in needed]
            if group.node is not None and (group.roots or group.sides) and group.node.output in private:
                group.keeps_result = False
            elif group.node is None and not group.roots and not group.sides:
                groups.remove(group)
            for value in private:
                if value not in group.written:
                    self.stored.discard(value)
                group.reads.pop(value, None)

    def _schedule(self, groups: Sequence[Nest]) -> list[Nest]:
        home = {value: group for group in groups for value in group.made}
        needs = {g: {home[v] for v in g.reads if v in home and home[v] is not g} for g in groups}
        users: dict[Nest, list[Nest]] = {g: [] for g in groups}
        for group, sources in needs.items():
            for source in sources:
                users[source].append(group)
        waiting = {group: len(sources) for group, sources in needs.items()}
        ready = [(group.order, number) for number, group in enumerate(groups) if not waiting[group]]
        numbers = {group: number for number, group in enumerate(groups)}
        heapify(ready)
        ordered = []
        while ready:
            group = groups[heappop(ready)[1]]
            ordered.append(group)
            for user in users[group]:
                waiting[user] -= 1
                if not waiting[user]:
                    heappush(ready, (user.order, numbers[user]))
        assert len(ordered) == len(groups), "merging nests made a cycle"
        return ordered


def made_of(
    value: Value, grouping: Grouping, stored: Collection[Value], *, spread: bool = False
) -> tuple[set[Value], int] | None:
    """The stored values that a value is computed from, element by element, and how many additions that takes; None where it is
    computed in another way. What is ``spread`` is padded somewhere, also between its elements, as the gradient of a pooled image."""
    found: set[Value] = set()
    cost, seen, waiting = 0, {value}, [value]
    while waiting:
        node = grouping.makers[waiting.pop()]
        if node.primitive.name == "constant":
            continue
        name = node.primitive.name
        known = name in ELEMENTWISE or name == "broadcast" or same_bytes(node) or (spread and name == "pad")
        if not known:
            return None
        cost += _cost(node)
        for source in {grouping.canonical(operand) for operand in node.inputs} - seen:
            seen.add(source)
            if source in stored:
                found.add(source)
            else:
                waiting.append(source)
    return found, cost


def _elements(value: Value) -> int:
    return at(product(value.shape), NOMINAL)


def can_be_side(node: Node) -> bool:
    """Whether a node adds up leading axes, so that its results are added to in long runs, and not too many of them."""
    if node.primitive.name != "reduce_sum" or node.output.dtype not in FLOATS:
        return False
    shape, axes = node.inputs[0].shape, node.attributes["axes"]
    summed = [axis in axes for axis, size in enumerate(shape) if size != 1]
    kept = product(node.output.shape)
    leading = summed == sorted(summed, reverse=True) and any(summed)
    return leading and not isinstance(kept, Size) and 0 < kept <= LARGEST_SIDE and 0 not in shape


def _may_join(nest: Nest, group: Nest, direct: set[Nest], above: Mapping[Nest, set[Nest]]) -> bool:
    if any(not nest.reads.get(value, True) for value in group.made) or nest.reads.keys() & set(group.totals):
        return False
    return not any(group in above[other] for other in direct if other is not group)


def _uses(graph: Graph) -> dict[Value, int]:
    uses: dict[Value, int] = {}
    for node in graph.nodes:
        for value in set(node.inputs):
            uses[value] = uses.get(value, 0) + 1
    return uses


def _cost(node: Node) -> int:
    """How many additions an element costs to compute again."""
    if node.primitive.name == "pad" and any(node.attributes["inner"]):
        return _SPREAD
    return 0 if _is_free(node) else COSTS.get(node.primitive.name, 1)


def _is_free(node: Node) -> bool:
    return same_bytes(node) or (node.primitive.family in ("view", "source") and node.primitive.name != "random_bits")
