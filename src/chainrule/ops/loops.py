"""Loops with a body function, and operations with a backward rule of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import UINT32
from chainrule.core.errors import ShapeError
from chainrule.core.trees import Tree
from chainrule.ir.graph import ArrayType, Graph, Value
from chainrule.ops.math import stop_gradient, where
from chainrule.trace.array import Array, as_array, operation
from chainrule.trace.context import Context, Trace, current, entered
from chainrule.trace.seeds import DRAW_STREAM


def _context() -> Context:
    context = current()
    assert context is not None
    return context


def _lifted(tree: Tree) -> tuple[list[Array], trees.TreeDef]:
    """Leaves as strongly typed arrays of the current context."""
    leaves, definition = trees.flatten(tree)
    return [_strong(as_array(leaf)) for leaf in leaves], definition


def _strong(array: Array) -> Array:
    if array.weak:
        dtype = "float32" if array.value.dtype == "float64" else array.value.dtype
        return Array(as_array(array, dtype).value, array.home)
    return array


def _trace_body(
    function: Callable[..., Tree], arguments: Sequence[tuple[trees.TreeDef, Sequence[Value]]], body: Trace
) -> tuple[list[Value], trees.TreeDef]:
    """Run a body function on inputs of its own trace; returns its results and their structure."""
    with entered(body):
        given = [
            trees.unflatten(definition, [Array(value, body) for value in leaves]) for definition, leaves in arguments
        ]
        arrays, definition = _lifted(function(*given))
    return [array.value for array in arrays], definition


@operation
def scan(
    function: Callable[[Tree, Tree], tuple[Tree, Tree]],
    init: Tree,
    xs: Tree = None,
    *,
    length: int | None = None,
    reverse: bool = False,
    truncate: int | None = None,
) -> Any:
    """Repeat ``carry, y = function(carry, x)`` over the leading axis of ``xs``; returns the last carry and the stacked ``y``.

    The body is traced and compiled once whatever the length, and its gradient is backpropagation through time (Werbos 1990).
    ``truncate=k`` cuts the gradient of the carry before steps k, 2k, ...: truncated backpropagation through time.
    ``reverse=True`` runs from the last step to the first. ``length`` is needed only where ``xs`` is None.
    Raises :class:`ShapeError` when leading sizes differ or the body changes the type of its carry.
    """
    context = _context()
    if truncate is not None:
        return _truncated(function, init, xs, length, reverse, truncate)
    carry, carry_definition = _lifted(init)
    steps, steps_definition = _lifted(xs)
    count = _length(steps, length)
    body = Trace(context, own_key=True)
    carry_in = [Value(a.value.type) for a in carry]
    # The body sees one step of each stacked operand.
    step_in = [Value(ArrayType(a.value.shape[1:], a.value.dtype)) for a in steps]

    def paired(*arguments: Tree) -> Tree:
        result = function(*arguments)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise ShapeError("the body of a scan must return a pair (carry, y)")
        return result

    outputs, definition = _trace_body(paired, [(carry_definition, carry_in), (steps_definition, step_in)], body)
    carry_out, stacked_definition = definition.children
    if carry_out.leaf_count != len(carry):
        raise ShapeError("the body of a scan must return a carry of the structure it was given")
    stacks = [a.value for a in steps]
    if body.key_input is not None:
        # Every step draws from a key of its own.
        stream = context.constant(DRAW_STREAM, UINT32)
        stacks.append(context.random_bits(context.derive_key(), stream, (count, 2)))
        step_in.append(body.key_input)
    captured = list(body.captures)
    body.inputs = [*body.captures.values(), *carry_in, *step_in]
    graph = body.close("scan", outputs)
    operands = [*captured, *(a.value for a in carry), *stacks]
    results = context.scan(graph, operands, length=count, consts=len(captured), carries=len(carry), reverse=reverse)
    arrays = [Array(value, context) for value in results]
    return (
        trees.unflatten(carry_definition, arrays[: len(carry)]),
        trees.unflatten(stacked_definition, arrays[len(carry) :]),
    )


def _length(steps: Sequence[Array], length: int | None) -> int:
    sizes = {a.shape[0] if a.shape else None for a in steps} | ({length} if length is not None else set())
    if len(sizes) != 1 or None in sizes:
        raise ShapeError(f"a scan needs one common leading size, not {', '.join(map(str, sizes)) or 'none'}")
    (size,) = sizes
    if not isinstance(size, int):
        raise ShapeError("a scan cannot step along the batch axis, whose size is a symbol; put time on the first axis")
    return size


def _truncated(
    function: Callable[[Tree, Tree], tuple[Tree, Tree]],
    init: Tree,
    xs: Tree,
    length: int | None,
    reverse: bool,
    truncate: int,
) -> Any:
    steps, _ = _lifted(xs)
    count = _length(steps, length)
    if truncate < 1:
        raise ShapeError(f"truncate is a number of steps of at least 1, not {truncate}")
    position = np.arange(count) if not reverse else np.arange(count)[::-1]
    cuts = (position % truncate == 0) & (position > 0)

    def body(carry: Tree, inputs: tuple[Tree, Any]) -> tuple[Tree, Tree]:
        x, cut = inputs
        return function(trees.tree_map(lambda c: where(cut, stop_gradient(c), c), carry), x)

    return scan(body, init, (xs, cuts), length=count, reverse=reverse)


@operation
def fixed_point(
    function: Callable[[Tree], Tree], init: Tree, *, tolerance: float = 1e-6, max_iterations: int = 1000
) -> Any:
    """Solve ``z = function(z)`` by iteration from ``init``; returns ``(z, iterations)``.

    It stops when every component moves by at most ``tolerance · (1 + |z|)``. The gradient is that of the solution, by implicit
    differentiation: with respect to everything the function uses, and zero with respect to ``init``. Almeida 1987, Pineda 1987.
    """
    context = _context()
    state, definition = _lifted(init)
    body = Trace(context)
    state_in = [Value(a.value.type) for a in state]
    outputs, out_definition = _trace_body(function, [(definition, state_in)], body)
    if out_definition.leaf_count != len(state):
        raise ShapeError("the body of a fixed point must return a state of the structure it was given")
    captured = list(body.captures)
    body.inputs = [*body.captures.values(), *state_in]
    graph = body.close("fixed_point", outputs)
    results = context.fixed_point(
        graph,
        [*captured, *(a.value for a in state)],
        consts=len(captured),
        tolerance=float(tolerance),
        max_iterations=int(max_iterations),
    )
    arrays = [Array(value, context) for value in results]
    return trees.unflatten(definition, arrays[:-1]), arrays[-1]


def operation_with_rule(
    function: Callable[..., Tree], backward: Callable[..., Sequence[Any]] | None = None, *, label: str | None = None
) -> Callable[..., Any]:
    """A named operation, optionally with a backward rule of its own.

    ``backward(inputs, outputs, cotangents)`` gets three tuples of arrays and returns one cotangent per operand of ``function``
    (None for zero). Without it the operation is differentiated through its body. Rule sets can replace the rule of ``call``.
    """
    name = str(label or getattr(function, "__name__", "operation"))

    @operation
    def applied(*operands: Any) -> Any:
        context = _context()
        arrays, definition = _lifted(operands)
        body = Trace(context)
        inputs = [Value(a.value.type) for a in arrays]
        outputs, out_definition = _trace_body(function, _each(definition, inputs), body)
        captured = list(body.captures)
        body.inputs = [*inputs, *body.captures.values()]
        graph = body.close(name, outputs)
        everything = [*(a.value for a in arrays), *captured]
        rule = None if backward is None else _trace_backward(graph, len(inputs), backward)
        results = context.call(graph, everything, label=name, backward=rule)
        return trees.unflatten(out_definition, [Array(value, context) for value in results])

    return applied


def _each(definition: trees.TreeDef, inputs: Sequence[Value]) -> list[tuple[trees.TreeDef, Sequence[Value]]]:
    """The inputs dealt out to the arguments of a function."""
    dealt, start = [], 0
    for child in definition.children:
        dealt.append((child, inputs[start : start + child.leaf_count]))
        start += child.leaf_count
    return dealt


def _trace_backward(graph: Graph, operands: int, backward: Callable[..., Sequence[Any]]) -> Graph:
    trace = Trace(None)
    inputs = [trace.input(value.type) for value in graph.inputs]
    outputs = [trace.input(value.type) for value in graph.outputs]
    cotangents = [trace.input(value.type) for value in graph.outputs]
    with entered(trace):
        wrapped = [tuple(Array(v, trace) for v in group) for group in (inputs[:operands], outputs, cotangents)]
        found = list(backward(*wrapped))
        if len(found) != operands:
            raise ShapeError(
                f"the backward rule of {graph.name!r} returned {len(found)} cotangents for {operands} operands"
            )
        results = []
        for value, cotangent in zip(inputs, [*found, *[None] * (len(inputs) - operands)], strict=True):
            if cotangent is None:
                results.append(trace.full(value.type, 0))
            else:
                results.append(as_array(cotangent, value.dtype).value)
    return trace.close(f"{graph.name}.backward", results)
