"""Gradient descent, with and without momentum."""

from __future__ import annotations

from typing import Any

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.elementwise import Method, Scalars, Slots, WeightDecay, elementwise
from chainrule.optim.optimizer import Optimizer
from chainrule.optim.schedules import LearningRate, as_schedule
from chainrule.optim.selection import Selection, rank_two_or_more
from chainrule.optim.settings import fraction, non_negative, real


def SGD(
    lr: LearningRate,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
    dampening: float = 0.0,
) -> Optimizer:
    """Gradient descent: ``p ← p - lr·g``; with momentum μ ``v ← μv + g, p ← p - lr·v`` from ``v = 0`` (Polyak 1964).

    Nesterov's variant takes ``p ← p - lr·(g + μv)`` with the new v (Sutskever et al. 2013). As in PyTorch, the learning rate
    is outside v, so that a change of it acts at once. ``dampening`` d adds ``(1 - d)·g`` to v from the second step on.
    ``weight_decay`` adds ``weight_decay·p`` to the gradients of the
    parameters that ``decay`` selects: those of rank 2 or more by default, hence no biases and norms.

    State: the slot ``momentum`` (v), of the shapes of the parameters, when μ > 0.
    Raises :class:`ConfigError` for a negative learning rate or decay, for μ outside [0, 1), and for Nesterov without momentum.
    """
    rate = as_schedule("SGD", lr)
    mu, damped = fraction("SGD", "momentum", momentum), real("SGD", "dampening", dampening)
    shrink = WeightDecay(non_negative("SGD", "weight_decay", weight_decay), decay)
    if nesterov and not mu:
        raise ConfigError("Nesterov's method needs momentum; write SGD(lr, momentum=0.9, nesterov=True)")
    if damped and (nesterov or not mu):
        raise ConfigError(
            "dampening is for momentum that is not Nesterov's; write SGD(lr, momentum=0.9, dampening=0.1)"
        )

    def scalars(lr: Any, t: Any) -> Scalars:
        return (-lr, ops.where(t > 1, 1 - damped, 1.0)) if damped else (-lr,)

    def step(g: Any, slots: Slots, minus_lr: Any, *share: Any) -> tuple[Any, Slots]:
        if not mu:
            return minus_lr * g, {}
        v = mu * slots["momentum"] + (share[0] * g if damped else g)
        return minus_lr * (g + mu * v if nesterov else v), {"momentum": v}

    method = Method("SGD", ("momentum",) if mu else (), scalars, step)
    return elementwise(method, rate, shrink, {"momentum": mu, "nesterov": bool(nesterov), "dampening": damped})
