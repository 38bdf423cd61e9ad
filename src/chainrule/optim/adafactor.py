"""Adaptive steps with a memory that grows with the sides of a matrix and not with its area."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.elementwise import check_floats, check_paths
from chainrule.optim.optimizer import JSON, Arrays, Optimizer, State, matching, update_operation
from chainrule.optim.schedules import LearningRate, as_schedule, describe_rate
from chainrule.optim.selection import Selection, describe_selection, rank_two_or_more, selected
from chainrule.optim.settings import non_negative, real
from chainrule.trace import as_array, scope


def Adafactor(
    lr: LearningRate = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] | list[float | None] = (None, 1e-3),
    clip: float = 1.0,
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``p ← p - α·u/max(1, rms(u)/clip)`` with ``u = g/√v`` and v of each matrix from its rows and columns, as in PyTorch.

    At step t with ``s = t^beta2_decay`` the means r of g² over each row and c over each column, of the last two axes, are
    followed by ``r ← r + s(mean g² - r)`` and so for c, and ``v = r·c/mean(r)``; of a vector it is ``v ← v + s(g² - v)``. The
    step is ``α = max(ε₂, rms(p))·min(lr, 1/√t)``, and v is not below ε₁², mean(r) not below ε₁, for ``eps = (ε₁, ε₂)``;
    ε₁ is by default the machine epsilon of the parameter. ``weight_decay`` takes ``lr·weight_decay·p`` from the parameters
    that ``decay`` selects. Shazeer and Stern, ICML 2018, in the form of Zhai et al., CVPR 2022.

    State: the slots ``row`` (r) and ``column`` (c) of matrices, ``square`` (v) of the others. Raises :class:`ConfigError`
    for a positive ``beta2_decay``, a ``clip`` below 1, and other numbers that are negative.
    """
    rate = as_schedule("Adafactor", lr)
    power, most = real("Adafactor", "beta2_decay", beta2_decay), real("Adafactor", "clip", clip)
    if power > 0 or most < 1:
        raise ConfigError(f"Adafactor needs beta2_decay of 0 or less and clip of 1 or more, not {power!r} and {most!r}")
    if not isinstance(eps, list | tuple) or len(eps) != 2:
        raise ConfigError(f"eps of Adafactor are two numbers, of which the first may be None, not {eps!r}")
    first = None if eps[0] is None else non_negative("Adafactor", "the first of eps", eps[0])
    second = non_negative("Adafactor", "the second of eps", eps[1])
    strength = non_negative("Adafactor", "weight_decay", weight_decay)

    @update_operation
    def init(params: Arrays) -> State:
        selected(decay, params)
        check_floats(params)
        slots: dict[str, dict[str, Any]] = {"row": {}, "column": {}, "square": {}}
        for path, p in params.items():
            if len(p.shape) > 1:
                slots["row"][path] = ops.zeros((*p.shape[:-1], 1), p.dtype)
                slots["column"][path] = ops.zeros((*p.shape[:-2], 1, p.shape[-1]), p.dtype)
            else:
                slots["square"][path] = ops.zeros(p.shape, p.dtype)
        return {"count": ops.zeros((), "int64"), "factor": ops.ones((), "float32"), **slots}

    def learning_rate(state: State) -> Any:
        return rate(state["count"]) * as_array(state["factor"], "float64")

    @update_operation
    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        check_paths(gradients, params)
        count = as_array(state["count"]) + 1
        lr, t = learning_rate(state), as_array(count, "float64")
        share, relative = t**power, ops.minimum(lr, 1.0 / ops.sqrt(t))
        decayed = set(selected(decay, params)) if strength else set()
        updates: dict[str, Any] = {}
        slots: dict[str, dict[str, Any]] = {"row": {}, "column": {}, "square": {}}

        def moved(slot: str, path: str, towards: Any) -> Any:
            old = as_array(state[slot][path])
            slots[slot][path] = new = old + share.astype(old.dtype) * (towards - old)
            return new

        for path, gradient in gradients.items():
            p = as_array(params[path])
            least = float(np.finfo(p.dtype).eps) if first is None else first
            with scope(path):
                g = matching(path, gradient, p, "gradient")
                if g.ndim > 1:
                    row = moved("row", path, ops.mean(g * g, -1, keepdims=True))
                    column = moved("column", path, ops.mean(g * g, -2, keepdims=True))
                    v = row * column / ops.maximum(ops.mean(row, -2, keepdims=True), least)
                else:
                    v = moved("square", path, g * g)
                u = g / ops.sqrt(ops.maximum(v, least * least))
                length = ops.maximum(second, _rms(p)) * relative.astype(p.dtype)
                change = u * (-length / ops.maximum(1.0, _rms(u) / most))
                updates[path] = change - (lr * strength).astype(p.dtype) * p if path in decayed else change
        return updates, {"count": count, "factor": state["factor"], **slots}

    described: dict[str, JSON] = {"kind": "Adafactor", "lr": describe_rate(rate), "beta2_decay": power}
    described |= {"eps": [first, second], "clip": most, "weight_decay": strength}
    return Optimizer(init, update, described | describe_selection("decay", decay), learning_rate)


def _rms(x: Any) -> Any:
    """The root of the mean square."""
    return ops.sqrt((x * x).sum() * (1 / max(1, math.prod(map(int, x.shape)))))
