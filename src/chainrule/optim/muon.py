"""Momentum whose steps are orthogonal matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.elementwise import Method, Scalars, Slots, WeightDecay, elementwise
from chainrule.optim.optimizer import JSON, Arrays, Optimizer, State
from chainrule.optim.schedules import LearningRate, as_schedule
from chainrule.optim.selection import Selection, rank_two_or_more
from chainrule.optim.settings import count as whole
from chainrule.optim.settings import fraction, non_negative, positive, real

Adjustment = Literal["original", "match_rms_adamw"]


def Muon(
    lr: LearningRate = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    coefficients: Sequence[float] = (3.4445, -4.775, 2.0315),
    eps: float = 1e-7,
    steps: int = 5,
    adjust: Adjustment = "original",
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``m ← μm + (1-μ)g, p ← p - lr·c·O - lr·weight_decay·p`` with O near the orthogonal matrix next to m (Jordan et al. 2024).

    With ``nesterov`` it is next to ``μm + (1-μ)g`` of the new m. O comes from ``X ← aX + (bA + cA²)X, A = XXᵀ``, so many
    ``steps`` from the matrix divided by its norm (``eps`` at least): singular values come out between about 0.7 and 1.2. A
    matrix (in, out) is moved by ``c = √max(1, out/in)``, or with ``adjust="match_rms_adamw"`` by ``0.2·√max(in, out)``, so
    that rates and decays for AdamW serve (Liu et al. 2025). As in PyTorch, which works in bfloat16 where this works in the
    type of the parameter. For matrices alone: ``groups({"*.bias": AdamW(), "embedding*": AdamW()}, default=Muon())``.

    State: the slot ``momentum`` (m). Raises :class:`ConfigError`, when the state is made, for a parameter that is no matrix,
    and for negative numbers.
    """
    rate = as_schedule("Muon", lr)
    mu, least = fraction("Muon", "momentum", momentum), positive("Muon", "eps", eps)
    if not isinstance(coefficients, list | tuple) or len(coefficients) != 3:
        raise ConfigError(f"coefficients of Muon are three numbers, not {coefficients!r}")
    a, b, c = (real("Muon", "coefficients", number) for number in coefficients)
    times = whole("Muon", "steps", steps)
    if adjust not in get_args(Adjustment):
        raise ConfigError(f"adjust of Muon is 'original' or 'match_rms_adamw', not {adjust!r}")
    shrink = WeightDecay(non_negative("Muon", "weight_decay", weight_decay), decay, decoupled=True)

    def scalars(lr: Any, t: Any) -> Scalars:
        return (-lr,)

    def step(g: Any, slots: Slots, minus_lr: Any) -> tuple[Any, Slots]:
        m = slots["momentum"] + (1 - mu) * (g - slots["momentum"])
        rows, columns = map(int, g.shape)
        size = math.sqrt(max(1.0, columns / rows)) if adjust == "original" else 0.2 * math.sqrt(max(rows, columns))
        return minus_lr * (size * orthogonal(g + mu * (m - g) if nesterov else m)), {"momentum": m}

    def orthogonal(matrix: Any) -> Any:
        turned = matrix.shape[0] > matrix.shape[1]
        x = ops.transpose(matrix) if turned else matrix
        x = x / ops.maximum(ops.sqrt((x * x).sum()), least)
        for _ in range(times):
            gram = x @ ops.transpose(x)
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        return ops.transpose(x) if turned else x

    settings: dict[str, JSON] = {"momentum": mu, "nesterov": bool(nesterov), "coefficients": [a, b, c], "eps": least}
    settings |= {"steps": times, "adjust": adjust}
    made = elementwise(Method("Muon", ("momentum",), scalars, step), rate, shrink, settings)

    def init(params: Arrays) -> State:
        for path, parameter in params.items():
            if len(parameter.shape) != 2:
                raise ConfigError(
                    f"Muon is for matrices, but parameter {path!r} has shape {tuple(parameter.shape)}; give it to another "
                    "optimiser with optim.groups"
                )
        return made.init(params)

    return Optimizer(init, made.update, made.describe, made.learning_rate)
