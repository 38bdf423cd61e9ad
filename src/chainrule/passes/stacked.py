"""A node of a loop's body for all steps at once: operands with the steps stacked along a leading axis, or the same in every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction, IndexMap, plain
from chainrule.ir.graph import Node, Value

MAPS = ("map", "compare")


def at_all_steps(build: Builder, node: Node, operands: Sequence[Value], stacked: Sequence[bool], length: int) -> Value:
    """Append the node for every step; ``stacked`` tells which operands have a leading axis of ``length`` steps.

    The result has that axis if any operand has; :func:`can_stack` says for which nodes there is a form.
    """
    if not any(stacked):
        return build.emit(node.primitive.name, operands, node.attributes)[0]
    name = node.primitive.name
    if name == "contract":
        spec = over_steps(node.attributes["spec"], length, stacked[0], stacked[1], summed=False)
        return build.contract(spec, *operands)
    whole = [x if s else _repeated(build, x, length) for x, s in zip(operands, stacked, strict=True)]
    if name in _VIEWS:
        return build.emit(name, whole, {**node.attributes, **_VIEWS[name](node.attributes, length)})[0]
    return build.emit(name, whole, node.attributes)[0]


def can_stack(node: Node) -> bool:
    name = node.primitive.name
    return name == "contract" or name in _VIEWS or node.primitive.family in MAPS


def over_steps(spec: Contraction, length: int, a: bool, b: bool, *, summed: bool) -> Contraction:
    """The contraction at every step, for operands of which ``a`` and ``b`` are stacked.

    The step is a further index of the box. With ``summed`` the result lacks it: the sum over steps of a contraction is one
    contraction with the step among its summed indices.
    """
    step = plain(0)
    return Contraction(
        (length, *spec.extents),
        (() if summed else step) + _shifted(spec.out),
        (step if a else ()) + _shifted(spec.a),
        (step if b else ()) + _shifted(spec.b),
        spec.shape if summed else (length, *spec.shape),
    )


def _shifted(index_map: IndexMap) -> IndexMap:
    return tuple(Affine(tuple((index + 1, c) for index, c in each.terms), each.offset) for each in index_map)


def _repeated(build: Builder, x: Value, length: int) -> Value:
    return build.broadcast(x, (length, *x.shape), range(1, x.type.rank + 1))


def _later(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in axes)


# Views and reductions: their attributes with an axis more in front.
_VIEWS: Mapping[str, Callable[[Mapping[str, Any], int], dict[str, Any]]] = {
    "reshape": lambda at, length: {"shape": (length, *at["shape"])},
    "transpose": lambda at, length: {"order": (0, *_later(at["order"]))},
    "broadcast": lambda at, length: {"shape": (length, *at["shape"]), "axes": (0, *_later(at["axes"]))},
    "slice": lambda at, length: {
        "starts": (0, *at["starts"]),
        "limits": (length, *at["limits"]),
        "strides": (1, *at["strides"]),
    },
    "pad": lambda at, length: {"low": (0, *at["low"]), "high": (0, *at["high"]), "inner": (0, *at["inner"])},
    "flip": lambda at, length: {"axes": _later(at["axes"])},
    "concatenate": lambda at, length: {"axis": at["axis"] + 1},
    "reduce_sum": lambda at, length: {"axes": _later(at["axes"])},
    "reduce_max": lambda at, length: {"axes": _later(at["axes"])},
}
