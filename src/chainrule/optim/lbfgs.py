"""L-BFGS: a quasi-Newton method for full batches, where every gradient is exact."""

from __future__ import annotations

from typing import Any

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.core.trees import tree_map
from chainrule.optim.elementwise import check_floats
from chainrule.optim.optimizer import JSON, Arrays, Optimizer, State, matching, update_operation
from chainrule.optim.schedules import LearningRate, as_schedule, describe_rate
from chainrule.optim.settings import count as whole
from chainrule.optim.settings import non_negative
from chainrule.trace import as_array, scope

_LEAST_CURVATURE = 1e-10


def LBFGS(
    lr: LearningRate = 1.0, history: int = 10, tolerance_grad: float = 0.0, tolerance_change: float = 0.0
) -> Optimizer:
    """``p ← p - lr·H·g``, with H from the last changes of parameters and gradients (Liu and Nocedal 1989).

    With ``s`` the last change of the parameters and ``y`` that of the gradients, H is ``(s·y)/(y·y)`` times the identity,
    corrected by the two-loop recursion over ``history`` pairs. Pairs with ``s·y ≤ 1e-10`` are left out. The first update is
    ``-lr·min(1, 1/‖g‖₁)·g``. Nothing moves where no element of g is larger than ``tolerance_grad``, or where
    ``g·H·g < tolerance_change``. This is PyTorch's L-BFGS with one iteration per step and without a line search, which
    :func:`minimise` has; noise in the gradients ruins the pairs, so train with ``batch_size="full"``.

    State: ``gradient`` and ``change`` (the last of each), ``changes`` and ``differences`` (the pairs, newest last, stacked on a
    new first axis), and ``inverse``, 1/(s·y) of each pair, 0 where there is none yet.
    Raises :class:`ConfigError` for a negative learning rate or a history below 1.
    """
    rate = as_schedule("LBFGS", lr)
    pairs = whole("LBFGS", "history", history)
    least_gradient = non_negative("LBFGS", "tolerance_grad", tolerance_grad)
    least_change = non_negative("LBFGS", "tolerance_change", tolerance_change)

    @update_operation
    def init(params: Arrays) -> State:
        check_floats(params)

        def zeros(*first: int) -> State:
            return {path: ops.zeros((*first, *p.shape), p.dtype) for path, p in params.items()}

        return {
            "count": ops.zeros((), "int64"),
            "factor": ops.ones((), "float32"),
            "gradient": zeros(),
            "change": zeros(),
            "changes": zeros(pairs),
            "differences": zeros(pairs),
            "inverse": ops.zeros((pairs,), "float64"),
            "scale": ops.ones((), "float64"),
        }

    def learning_rate(state: State) -> Any:
        return rate(state["count"]) * as_array(state["factor"], "float64")

    @update_operation
    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        if set(gradients) != set(params):
            raise ConfigError("LBFGS needs a gradient for every parameter; leave others out with optim.freeze")
        g = {path: matching(path, gradient, as_array(params[path]), "gradient") for path, gradient in gradients.items()}
        y = {path: g[path] - state["gradient"][path] for path in g}
        curvature = _dot(y, state["change"])
        useful = (curvature > _LEAST_CURVATURE) & (as_array(state["count"]) > 0)
        safe = ops.where(useful, curvature, 1.0)
        changes = {path: _pushed(state["changes"][path], state["change"][path], useful) for path in g}
        differences = {path: _pushed(state["differences"][path], y[path], useful) for path in g}
        inverse = _pushed(state["inverse"], 1.0 / safe, useful)
        scale = ops.where(useful, safe / ops.where(useful, _dot(y, y), 1.0), state["scale"])
        direction = _two_loops(g, changes, differences, inverse, scale, pairs)
        first = ops.minimum(1.0, 1.0 / sum((ops.abs(x).sum().astype("float64") for x in g.values()), start=0.0))
        length = learning_rate(state) * ops.where(as_array(state["count"]) > 0, 1.0, first)
        if least_change:
            length = ops.where(_dot(g, direction) < least_change, 0.0, length)
        if least_gradient:
            length = ops.where(_largest(g) <= least_gradient, 0.0, length)
        updates = {}
        for path, d in direction.items():
            with scope(path):
                updates[path] = -length.astype(d.dtype) * d
        after: State = {"count": as_array(state["count"]) + 1, "factor": state["factor"], "gradient": g}
        after |= {"change": updates, "changes": changes, "differences": differences}
        after |= {"inverse": inverse, "scale": scale}
        if least_gradient:
            # As if this gradient had not been seen.
            there = _largest(g) <= least_gradient
            for name in ("gradient", "change", "changes", "differences", "inverse", "scale"):
                after[name] = tree_map(lambda new, old: ops.where(there, old, new), after[name], state[name])
        return updates, after

    described: dict[str, JSON] = {"kind": "LBFGS", "lr": describe_rate(rate), "history": pairs}
    described |= {"tolerance_grad": least_gradient, "tolerance_change": least_change}
    return Optimizer(init, update, described, learning_rate)


def _dot(a: Arrays, b: Arrays) -> Any:
    """The inner product over all parameters, in float64."""
    return sum(((as_array(a[path]) * b[path]).sum().astype("float64") for path in a), start=0.0)


def _largest(arrays: Arrays) -> Any:
    """The largest absolute value of all."""
    found: Any = 0.0
    for array in arrays.values():
        found = ops.maximum(found, ops.abs(array).max().astype("float64"))
    return found


def _pushed(kept: Any, newest: Any, useful: Any) -> Any:
    """The stack with its oldest entry out and the newest in, or as it was."""
    kept = as_array(kept)
    moved = ops.concatenate([kept[1:], as_array(newest, kept.dtype.name)[None]], axis=0)
    return ops.where(useful, moved, kept)


def _two_loops(g: Arrays, changes: Arrays, differences: Arrays, inverse: Any, scale: Any, pairs: int) -> dict[str, Any]:
    """H·g by the two-loop recursion (Nocedal 1980)."""
    q = dict(g)
    weights: list[Any] = []
    for k in reversed(range(pairs)):
        alpha = inverse[k] * _dot({path: changes[path][k] for path in q}, q)
        q = {path: x - alpha.astype(x.dtype) * differences[path][k] for path, x in q.items()}
        weights.append(alpha)
    q = {path: x * scale.astype(x.dtype) for path, x in q.items()}
    for k in range(pairs):
        beta = inverse[k] * _dot({path: differences[path][k] for path in q}, q)
        rest = weights[pairs - 1 - k] - beta
        q = {path: x + rest.astype(x.dtype) * changes[path][k] for path, x in q.items()}
    return q
