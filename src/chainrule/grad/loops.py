"""The chain rule for primitives with body graphs: ``scan``, ``fixed_point`` and ``call``."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.core.dtypes import FLOATS, accumulator
from chainrule.grad.backprop import Backward, pull_back, zeros
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Graph, Node, Value

Cotangents = Sequence[Value | None]


def _is_float(value: Value) -> bool:
    return value.dtype in FLOATS


def _cotangent_or_zeros(backward: Backward, value: Value, cotangent: Value | None) -> Value:
    return cotangent if cotangent is not None else zeros(backward.build, value.type)


def scan_rule(backward: Backward, node: Node, cotangents: Cotangents) -> Cotangents:
    """Backpropagation through time: a scan in the opposite direction whose carry is the cotangent of the forward carry.

    The forward scan is replaced by one that also stacks the values its backward body needs. The cotangents of the constants
    are summed in further carries. Werbos 1990.
    """
    position, node = _latest(backward.build, node)
    cotangents = [*cotangents, *[None] * (len(node.outputs) - len(cotangents))]
    body: Graph = node.attributes["body"]
    consts, carries, length = node.attributes["consts"], node.attributes["carries"], node.attributes["length"]
    carried = [i for i in range(carries) if _is_float(body.outputs[i])]
    collected = [i for i in range(carries, len(body.outputs)) if cotangents[i] is not None]
    summed = [i for i in range(consts) if _is_float(body.inputs[i])]
    stepped = [i for i in range(consts + carries, len(body.inputs)) if _is_float(body.inputs[i])]

    back = Builder()
    back_carry = [back.input(body.outputs[i].type) for i in carried]
    sum_types = [ArrayType(body.inputs[i].shape, accumulator(body.inputs[i].dtype)) for i in summed]
    back_sums = [back.input(type) for type in sum_types]
    given = dict(zip([*carried, *collected], [*back_carry, *(back.input(body.outputs[i].type) for i in collected)]))

    # Differentiate a copy of the body, then see which of its values the backward half uses: those are saved by the forward scan.
    work = Builder()
    work_inputs = [work.input(value.type) for value in body.inputs]
    work_given = {i: work.input(value.type) for i, value in given.items()}
    work_outputs, _ = work.inline(body, work_inputs)
    count = len(work.nodes)
    wrt = [work_inputs[i] for i in (*summed, *(consts + i for i in carried), *stepped)]
    seeds = [work_given.get(i) for i in range(len(work_outputs))]
    results = pull_back(work, tuple(work.nodes), work_outputs, seeds, wrt, backward.rules)
    # Scans within the body have been extended in place by now.
    forward_nodes, backward_nodes = tuple(work.nodes[:count]), work.nodes[count:]

    fixed = _independent_of_steps(forward_nodes, work_inputs[:consts])
    made_forward = {value for n in forward_nodes for value in n.outputs} | set(work_inputs[consts:])
    used = [value for n in backward_nodes for value in n.inputs] + results
    saved = list(dict.fromkeys(v for v in used if v in made_forward and v not in fixed))

    outer = backward.build
    stacks = _save_in_forward(outer, position, forward_nodes, work_inputs, work_outputs, saved)

    # Operands of the backward body: constants, cotangents of the carry, running sums, one step's cotangents and saved values.
    back_consts = [back.input(value.type) for value in body.inputs[:consts]]
    back_saved = [back.input(value.type) for value in saved]
    known = dict(zip(work_inputs[:consts], back_consts))
    known.update(zip(saved, back_saved))
    known.update((work_given[i], given[i]) for i in given)
    recomputed = [n for n in forward_nodes if all(v in fixed for v in n.outputs)]
    for n in (*recomputed, *backward_nodes):
        copies = tuple(Value(v.type) for v in n.outputs)
        known.update(zip(n.outputs, copies))
        back.append(Node(n.primitive, tuple(known[v] for v in n.inputs), n.attributes, copies, n.origin))
    found = [known[v] for v in results]
    to_consts, to_carry = found[: len(summed)], found[len(summed) : len(summed) + len(carried)]
    to_steps = found[len(summed) + len(carried) :]
    sums = [back.add(total, back.wide(term)) for total, term in zip(back_sums, to_consts)]
    back.inputs = [*back_consts, *back_carry, *back_sums, *(given[i] for i in collected), *back_saved]
    graph = back.finish(f"{body.name}.backward", [*to_carry, *sums, *to_steps])

    start = [_cotangent_or_zeros(backward, node.outputs[i], cotangents[i]) for i in carried]
    start += [zeros(outer, type) for type in sum_types]
    stacked = [cotangents[i] for i in collected]
    outputs = outer.scan(
        graph,
        [*node.inputs[:consts], *start, *(g for g in stacked if g is not None), *stacks],
        length=length,
        consts=consts,
        carries=len(start),
        reverse=not node.attributes["reverse"],
    )
    places = [*(consts + i for i in carried), *summed, *stepped]
    by_input = {i: outer.as_type(g, node.inputs[i].dtype) for i, g in zip(places, outputs, strict=True)}
    return [by_input.get(i) for i in range(len(node.inputs))]


def _independent_of_steps(nodes: Sequence[Node], consts: Sequence[Value]) -> set[Value]:
    """Values of the body that are the same in every step: cheaper to compute again than to stack."""
    fixed = set(consts)
    for node in nodes:
        if all(value in fixed for value in node.inputs):
            fixed.update(node.outputs)
    return fixed


def _latest(outer: Builder, node: Node) -> tuple[int, Node]:
    """Where a scan stands now, and what it has become: an earlier backward pass may have extended it."""
    for position, found in enumerate(outer.nodes):
        if found is node or (found.primitive is node.primitive and found.outputs[0] is node.outputs[0]):
            return position, found
    raise AssertionError("a scan must be differentiated in the builder that holds it")


def _save_in_forward(
    outer: Builder,
    position: int,
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    saved: Sequence[Value],
) -> list[Value]:
    """Let the forward scan at ``position`` stack ``saved`` too; values that are stacked already serve as they are."""
    node = outer.nodes[position]
    attributes = node.attributes
    first_step = attributes["consts"] + attributes["carries"]
    stacks = {value: node.outputs[k] for k, value in enumerate(outputs) if k >= attributes["carries"]}
    stacks.update((value, node.inputs[first_step + k]) for k, value in enumerate(inputs[first_step:]))
    missing = [value for value in saved if value not in stacks]
    if missing:
        body = Graph(attributes["body"].name, tuple(inputs), tuple(nodes), (*outputs, *missing))
        extra = tuple(Value(ArrayType((attributes["length"], *value.shape), value.dtype)) for value in missing)
        stacks.update(zip(missing, extra, strict=True))
        extended = {**attributes, "body": body}
        outer.nodes[position] = Node(node.primitive, node.inputs, extended, (*node.outputs, *extra), node.origin)
    return [stacks[value] for value in saved]


def fixed_point_rule(backward: Backward, node: Node, cotangents: Cotangents) -> Cotangents:
    """Implicit differentiation at the solution z = f(c, z): solve u = g + (∂f/∂z)ᵀu, then the constants get (∂f/∂c)ᵀu.

    The adjoint equation is solved by a ``fixed_point`` of its own, to the same tolerance. The start of the iteration gets no
    gradient. Almeida 1987, Pineda 1987 (recurrent backpropagation).
    """
    body: Graph = node.attributes["body"]
    consts = node.attributes["consts"]
    outer = backward.build
    solution = node.outputs[:-1]
    seeds = [_cotangent_or_zeros(backward, value, g) for value, g in zip(solution, cotangents)]

    adjoint = Builder()
    fixed = [adjoint.input(value.type) for value in body.inputs]
    sources = [adjoint.input(value.type) for value in solution]
    unknown = [adjoint.input(value.type) for value in solution]
    outputs, _ = adjoint.inline(body, fixed)
    pulled = pull_back(adjoint, tuple(adjoint.nodes), outputs, unknown, fixed[consts:], backward.rules)
    graph = adjoint.finish(f"{body.name}.adjoint", [adjoint.add(s, p) for s, p in zip(sources, pulled)])
    operands = [*node.inputs[:consts], *solution]
    solved = outer.fixed_point(
        graph,
        [*operands, *seeds, *seeds],
        consts=len(operands) + len(seeds),
        tolerance=node.attributes["tolerance"],
        max_iterations=node.attributes["max_iterations"],
    )[:-1]

    start = len(outer.nodes)
    aliases = [outer.alias(value) for value in operands]
    outputs, _ = outer.inline(body, aliases, "backward")
    wrt = [value for value in aliases[:consts] if _is_float(value)]
    results = iter(pull_back(outer, tuple(outer.nodes[start:]), outputs, solved, wrt, backward.rules))
    return [next(results) if _is_float(value) else None for value in aliases[:consts]] + [None] * len(solution)


def call_rule(backward: Backward, node: Node, cotangents: Cotangents) -> Cotangents:
    """The operation's own backward graph where it has one; otherwise the chain rule through its body."""
    outer = backward.build
    own: Graph | None = node.attributes["backward"]
    seeds = [_cotangent_or_zeros(backward, value, g) for value, g in zip(node.outputs, cotangents)]
    if own is not None:
        found, _ = outer.inline(own, [*node.inputs, *node.outputs, *seeds], "backward")
        return [g if _is_float(value) else None for value, g in zip(node.inputs, found)]
    start = len(outer.nodes)
    aliases = [outer.alias(value) for value in node.inputs]
    outputs, _ = outer.inline(node.attributes["body"], aliases, "backward")
    return list(pull_back(outer, tuple(outer.nodes[start:]), outputs, seeds, aliases, backward.rules))
