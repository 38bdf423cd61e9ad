"""Store or recompute: forward values that backpropagation needs are computed again where memory is short.

Of the values that are kept from the forward to the backward half, first those that give back the most memory for the least
arithmetic are dropped; where that is not enough, of the others only every second, every third, ... is kept. A dropped value is computed
again, from kept ones, just before the backward half first reads it (Chen et al., *Training Deep Nets with Sublinear Memory
Cost*, 2016). Recomputation repeats the very operations, so results keep their bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import ConfigError
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import at, product

# Values dropped between two looks at the peak: one, or in large graphs this share of those left.
_SHARE = 0.005
# Looks without a smaller peak after which dropping more of the cheapest is given up.
_PATIENCE = 8


def rematerialise(graph: Graph, limit: int, batch: int) -> Graph:
    """The graph with working memory of at most ``limit`` bytes at this batch size, as :func:`working_memory` estimates it.

    Raises :class:`ConfigError` where even recomputing everything needs more; it says how much.
    """
    border = next((k for k, node in enumerate(graph.nodes) if node.origin.phase == "backward"), len(graph.nodes))
    candidates = _kept_for_later(graph, border)
    best, best_peak, best_dropped = graph, working_memory(graph, batch), frozenset[Value]()
    in_vain = 0
    for dropped in _plans(graph, border, candidates, batch):
        if best_peak <= limit or in_vain == _PATIENCE:
            break
        found = _recomputing(graph, border, dropped)
        peak = working_memory(found, batch)
        in_vain += 1
        if peak < best_peak:
            best, best_peak, best_dropped, in_vain = found, peak, dropped, 0
    others = [value for value in candidates if value not in best_dropped]
    for kept in range(2, len(others) + 1):
        if best_peak <= limit:
            break
        found = _recomputing(graph, border, {*best_dropped, *(v for k, v in enumerate(others) if k % kept)})
        peak = working_memory(found, batch)
        if peak < best_peak:
            best, best_peak = found, peak
    if best_peak > limit:
        raise ConfigError(
            f"a step of {graph.name!r} on {batch} examples needs {best_peak / 1e6:.3g} MB of working memory even when it recomputes "
            f"what it can, more than the limit of {limit / 1e6:.3g} MB; use smaller batches, or raise memory_limit"
        )
    return best


def _plans(graph: Graph, border: int, candidates: Sequence[Value], batch: int) -> Iterator[frozenset[Value]]:
    """Growing sets of values to drop, the cheapest for their size first; the caller takes the smallest that is enough."""
    dropped: frozenset[Value] = frozenset()
    while len(dropped) < len(candidates):
        costs = _costs(graph, border, dropped, batch)
        left = sorted((v for v in candidates if v not in dropped), key=lambda v: _bytes(v, batch) / (1 + costs[v]))
        dropped = dropped.union(left[-max(1, int(_SHARE * len(left))) :])
        yield dropped


def working_memory(graph: Graph, batch: int) -> int:
    """The largest sum of bytes of values that live at one time, beyond arguments and results, in the order of the nodes.

    An upper bound for engines that fuse nodes: here every value counts from where it is made to its last use.
    """
    last: dict[Value, int] = {}
    for place, node in enumerate(graph.nodes):
        for value in node.inputs:
            last[value] = place
    outside = {*graph.inputs, *graph.outputs}
    ending: dict[int, int] = {}
    live = peak = 0
    for place, node in enumerate(graph.nodes):
        for value in node.outputs:
            if value not in outside and node.primitive.name != "constant":
                size = _bytes(value, batch)
                live += size
                end = last.get(value, place)
                ending[end] = ending.get(end, 0) + size
        peak = max(peak, live)
        live -= ending.pop(place, 0)
    return peak


def _kept_for_later(graph: Graph, border: int) -> list[Value]:
    """The values of the forward half that later nodes read, without those that are always there."""
    made = {v for node in graph.nodes[:border] if node.primitive.name != "constant" for v in node.outputs}
    read = {value for node in graph.nodes[border:] for value in node.inputs}
    return [v for node in graph.nodes[:border] for v in node.outputs if v in made & read and v not in graph.outputs]


def _costs(graph: Graph, border: int, dropped: Collection[Value], batch: int) -> dict[Value, float]:
    """The arithmetic of making each forward value again from what is kept, itself and what it needs included."""
    kept = {*graph.inputs, *_kept_for_later(graph, border)} - set(dropped)
    costs: dict[Value, float] = dict.fromkeys(graph.inputs, 0.0)
    again: dict[Value, float] = {}
    for node in graph.nodes[:border]:
        total = _work(node, batch) + sum(0.0 if v in kept else again.get(v, 0.0) for v in node.inputs)
        for value in node.outputs:
            again[value] = costs[value] = total
    return costs


def _recomputing(graph: Graph, border: int, dropped: Collection[Value]) -> Graph:
    """The graph in which later nodes read copies of the dropped values, made where the first of them is read."""
    makers = {value: node for node in graph.nodes[:border] for value in node.outputs}
    here = {*graph.inputs, *graph.outputs, *_kept_for_later(graph, border)} - set(dropped)
    copies: dict[Value, Value] = {}
    nodes = list(graph.nodes[:border])

    def again(value: Value) -> Value:
        pending = [value]
        while pending:
            wanted = pending[-1]
            maker = makers.get(wanted)
            if wanted in copies or wanted in here or maker is None or maker.primitive.name == "constant":
                copies.setdefault(wanted, wanted)
                pending.pop()
                continue
            missing = [v for v in maker.inputs if v not in copies]
            if missing:
                pending.extend(missing)
                continue
            outputs = tuple(Value(v.type, v.name) for v in maker.outputs)
            origin = replace(maker.origin, phase="backward")
            inputs = tuple(copies[v] for v in maker.inputs)
            nodes.append(Node(maker.primitive, inputs, maker.attributes, outputs, origin))
            copies.update(zip(maker.outputs, outputs, strict=True))
            pending.pop()
        return copies[value]

    for node in graph.nodes[border:]:
        inputs = tuple(again(v) if v in dropped else v for v in node.inputs)
        nodes.append(replace(node, inputs=inputs))
    return replace(graph, nodes=tuple(nodes))


def _bytes(value: Value, batch: int) -> int:
    return int(at(product(value.shape), batch)) * to_numpy(value.dtype).itemsize


def _work(node: Node, batch: int) -> float:
    """Roughly the arithmetic of a node: multiplications of a contraction, else elements; a loop's body counts every time."""
    if node.primitive.name == "contract":
        return float(at(product(node.attributes["spec"].extents), batch))
    if node.primitive.name == "scan":
        body: Graph = node.attributes["body"]
        return float(node.attributes["length"]) * sum(_work(inner, batch) for inner in body.nodes)
    inner_nodes: Sequence[Node] = [inner for _, body in node.subgraphs() for inner in body.nodes]
    own = float(sum(at(product(value.shape), batch) for value in node.outputs))
    return own + sum(_work(inner, batch) for inner in inner_nodes)
