"""The standard rules: the chain rule for every primitive, one row each.

A row of the maps below gets the builder, the operands, the result and its cotangent, and returns the operands' cotangents. What
has no row in ``STANDARD`` is named in ``NOT_DIFFERENTIABLE`` with the reason.

A cotangent has the type of its value. Where that is bfloat16, rules of maps compute in float32 and round what they return, and
products take bfloat16 operands and add up in float32, as forwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from chainrule.grad.backprop import Backward
from chainrule.grad.loops import call_rule, fixed_point_rule, scan_rule
from chainrule.grad.rulesets import Rule, RuleSet
from chainrule.ir.build import Builder
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Dim, Size

B = Builder
Cotangents = tuple[Value | None, ...]


def _scaled(b: B, x: Value, factor: float) -> Value:
    return b.mul(x, b.full_like(x, factor))


# Maps of one operand: the cotangent times the local derivative, written with the operand x or the result y.
_UNARY: Mapping[str, Callable[[B, Value, Value, Value], Value]] = {
    "neg": lambda b, x, y, g: b.neg(g),
    "abs": lambda b, x, y, g: b.mul(g, b.sign(x)),
    "exp": lambda b, x, y, g: b.mul(g, y),
    "expm1": lambda b, x, y, g: b.mul(g, b.add(y, b.full_like(y, 1))),
    "log": lambda b, x, y, g: b.div(g, x),
    "log1p": lambda b, x, y, g: b.div(g, b.add(x, b.full_like(x, 1))),
    "sqrt": lambda b, x, y, g: b.div(_scaled(b, g, 0.5), y),
    "sin": lambda b, x, y, g: b.mul(g, b.cos(x)),
    "cos": lambda b, x, y, g: b.neg(b.mul(g, b.sin(x))),
    "tanh": lambda b, x, y, g: b.mul(g, b.sub(b.full_like(y, 1), b.mul(y, y))),
    "logistic": lambda b, x, y, g: b.mul(g, b.mul(y, b.sub(b.full_like(y, 1), y))),
    "erf": lambda b, x, y, g: b.mul(g, _scaled(b, b.exp(b.neg(b.mul(x, x))), 2 / math.sqrt(math.pi))),
}


def _pow(b: B, x: Value, p: Value, y: Value, g: Value) -> Cotangents:
    one, zero = b.full_like(p, 1), b.full_like(p, 0)
    # d/dx of x^0 is 0 for every x, and d/dp of 0^p is 0 for every p > 0. The operands, not the results, are replaced where
    # 0 · infinity would appear, so that no NaN arises in derivatives of these derivatives either.
    lower = b.sub(p, one)
    flat = b.logical_and(b.eq(p, zero), b.logical_not(b.is_finite(b.pow(x, lower))))
    to_x = b.mul(g, b.mul(p, b.pow(b.select(flat, one, x), lower)))
    still = b.logical_and(b.eq(x, zero), b.le(zero, p))
    return to_x, b.mul(g, b.mul(y, b.log(b.select(still, one, x))))


def _extremum(b: B, x: Value, y: Value, out: Value, g: Value) -> Cotangents:
    """Everything to the operand that was chosen, half to each where they are equal."""
    share = b.select(b.eq(x, y), b.full_like(g, 0.5), b.full_like(g, 1))
    part, zero = b.mul(g, share), b.full_like(g, 0)
    return b.select(b.eq(x, out), part, zero), b.select(b.eq(y, out), part, zero)


_BINARY: Mapping[str, Callable[[B, Value, Value, Value, Value], Cotangents]] = {
    "add": lambda b, x, y, out, g: (g, g),
    "sub": lambda b, x, y, out, g: (g, b.neg(g)),
    "mul": lambda b, x, y, out, g: (b.mul(g, y), b.mul(g, x)),
    "div": lambda b, x, y, out, g: (b.div(g, y), b.neg(b.div(b.mul(g, out), y))),
    "pow": _pow,
    "maximum": _extremum,
    "minimum": _extremum,
}


def _cast(b: B, node: Node, g: Value) -> Cotangents:
    return (b.cast(g, node.inputs[0].dtype),)


def _select(b: B, node: Node, g: Value) -> Cotangents:
    zero = b.full_like(g, 0)
    condition = node.inputs[0]
    return None, b.select(condition, g, zero), b.select(condition, zero, g)


def _kept(node: Node) -> list[int]:
    return [axis for axis in range(node.inputs[0].type.rank) if axis not in node.attributes["axes"]]


def _reduce_sum(b: B, node: Node, g: Value) -> Cotangents:
    x = node.inputs[0]
    return (b.broadcast(b.as_type(g, x.dtype), x.shape, _kept(node)),)


def _reduce_max(b: B, node: Node, g: Value) -> Cotangents:
    """Shared equally by the positions that hold the largest element."""
    x, g = node.inputs[0], b.wide(g)
    largest = b.broadcast(node.output, x.shape, _kept(node))
    chosen = b.cast(b.eq(x, largest), g.dtype)
    count = b.reduce_sum(chosen, node.attributes["axes"])
    return (b.as_type(b.mul(chosen, b.broadcast(b.div(g, count), x.shape, _kept(node))), x.dtype),)


def _contract(b: B, node: Node, g: Value) -> Cotangents:
    x, y = node.inputs
    return contract_rule(b, node, g, x, y)


def contract_rule(b: B, node: Node, g: Value, x: Value, y: Value) -> tuple[Value, Value]:
    """The cotangents of both operands of a contraction, with ``x`` and ``y`` in the places of its operands."""
    spec, g = node.attributes["spec"], b.as_type(g, x.dtype)
    to_x, to_y = b.contract(spec.for_a(x.shape), g, y), b.contract(spec.for_b(y.shape), x, g)
    return b.as_type(to_x, x.dtype), b.as_type(to_y, y.dtype)


def _reshape(b: B, node: Node, g: Value) -> Cotangents:
    return (b.reshape(g, node.inputs[0].shape),)


def _transpose(b: B, node: Node, g: Value) -> Cotangents:
    order = node.attributes["order"]
    return (b.transpose(g, [order.index(axis) for axis in range(len(order))]),)


def _broadcast(b: B, node: Node, g: Value) -> Cotangents:
    kept = node.attributes["axes"]
    total = b.reduce_sum(g, [axis for axis in range(g.type.rank) if axis not in kept])
    return (b.as_type(total, g.dtype),)


def _slice(b: B, node: Node, g: Value) -> Cotangents:
    low, high, inner = [], [], []
    sizes = node.inputs[0].shape
    bounds = zip(sizes, g.shape, node.attributes["starts"], node.attributes["strides"], strict=True)
    for size, taken, start, stride in bounds:
        whole = isinstance(size, Size) or isinstance(taken, Size)
        reach = 0 if whole or taken == 0 else (taken - 1) * stride + 1
        low.append(0 if whole else start)
        high.append(0 if whole else size - start - reach)
        inner.append(stride - 1)
    return (b.pad(g, low, high, inner),)


def _pad(b: B, node: Node, g: Value) -> Cotangents:
    starts: list[int] = []
    limits: list[Dim] = []
    strides: list[int] = []
    bounds = zip(node.inputs[0].shape, g.shape, *(node.attributes[k] for k in ("low", "high", "inner")), strict=True)
    for size, padded, low, high, inner in bounds:
        if isinstance(size, Size):
            if low or high or inner:
                return (_unpad_symbolic(b, node, g),)
            starts, limits, strides = [*starts, 0], [*limits, padded], [*strides, 1]
        else:
            reach = 0 if size == 0 else (size - 1) * (inner + 1) + 1
            starts, limits, strides = [*starts, low], [*limits, low + reach], [*strides, inner + 1]
    return (b.slice(g, starts, limits, strides),)


def _unpad_symbolic(b: B, node: Node, g: Value) -> Value:
    """Undo padding along an axis of symbolic size, which slices cannot cut: gather the positions that are kept."""
    for axis, (size, low, inner) in enumerate(
        zip(node.inputs[0].shape, node.attributes["low"], node.attributes["inner"])
    ):
        order = [axis, *(k for k in range(g.type.rank) if k != axis)]
        count = b.iota((size,), 0, "int64")
        places = b.add(b.mul(count, b.full_like(count, inner + 1)), b.full_like(count, low))
        taken = b.gather(b.transpose(g, order), places)
        g = b.transpose(taken, [order.index(k) for k in range(g.type.rank)])
    return g


def _flip(b: B, node: Node, g: Value) -> Cotangents:
    return (b.flip(g, node.attributes["axes"]),)


def _concatenate(b: B, node: Node, g: Value) -> Cotangents:
    axis = node.attributes["axis"]
    if any(isinstance(value.shape[axis], Size) for value in node.inputs):
        return _split_symbolic(b, node, g)
    parts: list[Value] = []
    start = 0
    for value in node.inputs:
        size = value.shape[axis]
        assert isinstance(size, int)
        starts = [start if k == axis else 0 for k in range(g.type.rank)]
        limits = [start + size if k == axis else dim for k, dim in enumerate(g.shape)]
        parts.append(b.slice(g, starts, limits, [1] * g.type.rank))
        start += size
    return tuple(parts)


def _split_symbolic(b: B, node: Node, g: Value) -> Cotangents:
    axis, rank = node.attributes["axis"], g.type.rank
    order = [axis, *(k for k in range(rank) if k != axis)]
    turned = b.transpose(g, order)
    start, parts = b.constant(0, "int64"), []
    for value in node.inputs:
        size = value.shape[axis]
        places = b.add(b.iota((size,), 0, "int64"), b.broadcast(start, (size,), ()))
        parts.append(b.transpose(b.gather(turned, places), [order.index(k) for k in range(rank)]))
        start = b.add(start, b.extent(size))
    return tuple(parts)


def _gather(b: B, node: Node, g: Value) -> Cotangents:
    x, indices = node.inputs
    lead = node.attributes["batch"]
    return b.as_type(b.scatter_add(g, indices, x.shape[lead], lead), x.dtype), None


def _scatter_add(b: B, node: Node, g: Value) -> Cotangents:
    return b.gather(b.as_type(g, node.inputs[0].dtype), node.inputs[1], node.attributes["batch"]), None


def _stop_gradient(b: B, node: Node, g: Value) -> Cotangents:
    return (None,)


_SINGLE: Mapping[str, Callable[[B, Node, Value], Cotangents]] = {
    "cast": _cast,
    "select": _select,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "contract": _contract,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "flip": _flip,
    "concatenate": _concatenate,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "stop_gradient": _stop_gradient,
}


def _unary_rule(row: Callable[[B, Value, Value, Value], Value]) -> Rule:
    def rule(backward: Backward, node: Node, cotangents: Sequence[Value | None]) -> Cotangents:
        (g,) = cotangents
        assert g is not None
        b, (x,) = backward.build, node.inputs
        return (b.as_type(row(b, b.wide(x), b.wide(node.output), b.wide(g)), x.dtype),)

    return rule


def _binary_rule(row: Callable[[B, Value, Value, Value, Value], Cotangents]) -> Rule:
    def rule(backward: Backward, node: Node, cotangents: Sequence[Value | None]) -> Cotangents:
        (g,) = cotangents
        assert g is not None
        b, (x, y) = backward.build, node.inputs
        found = row(b, b.wide(x), b.wide(y), b.wide(node.output), b.wide(g))
        return tuple(None if value is None else b.as_type(value, x.dtype) for value in found)

    return rule


def single(row: Callable[[B, Node, Value], Cotangents]) -> Rule:
    """A rule for primitives with one result, from a function of the builder, the node and the cotangent."""

    def rule(backward: Backward, node: Node, cotangents: Sequence[Value | None]) -> Cotangents:
        (g,) = cotangents
        assert g is not None
        return row(backward.build, node, g)

    return rule


# Why the remaining primitives have no rule. No cotangent ever reaches them: their results are not floating-point numbers that
# depend on a floating-point operand, or their derivative is zero almost everywhere.
NOT_DIFFERENTIABLE: Mapping[str, str] = {
    "logical_not": "boolean",
    "is_finite": "boolean result",
    "floor_div": "integers",
    "remainder": "integers",
    "logical_and": "boolean",
    "logical_or": "boolean",
    "eq": "boolean result",
    "ne": "boolean result",
    "lt": "boolean result",
    "le": "boolean result",
    "argmax": "integer result",
    "constant": "no operands",
    "iota": "no operands",
    "extent": "no operands",
    "random_bits": "integers",
}


def _nothing(backward: Backward, node: Node, cotangents: Sequence[Value | None]) -> Cotangents:
    """Piecewise constant: the derivative is zero wherever it exists."""
    return tuple(None for _ in node.inputs)


STANDARD = RuleSet(
    "standard",
    {
        **{name: _unary_rule(row) for name, row in _UNARY.items()},
        **{name: _binary_rule(row) for name, row in _BINARY.items()},
        **{name: single(row) for name, row in _SINGLE.items()},
        "sign": _nothing,
        "floor": _nothing,
        "scan": scan_rule,
        "fixed_point": fixed_point_rule,
        "call": call_rule,
    },
)
