"""Gradient descent, with and without momentum, and its average over the steps."""

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


def ASGD(
    lr: LearningRate = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``p ← (1 - λη)p - ηg`` with ``η = lr/(1 + λ·lr·(t-1))^α`` at step t, and ``a ← a + μ(p - a)``, as in PyTorch.

    a is p itself up to step ``t0 + 2``, and from there on the mean of the parameters since (``μ = 1/max(1, t-1-t0)``):
    :func:`averaged` takes it out. λ is ``lambd``, which shrinks all parameters, and ``weight_decay`` adds
    ``weight_decay·p`` to the gradients of those that ``decay`` selects. Polyak and Juditsky 1992; Xu 2011.

    State: the slot ``average`` (a). Raises :class:`ConfigError` for negative numbers.
    """
    rate = as_schedule("ASGD", lr)
    shrinking, power = non_negative("ASGD", "lambd", lambd), non_negative("ASGD", "alpha", alpha)
    start = non_negative("ASGD", "t0", t0)
    shrink = WeightDecay(non_negative("ASGD", "weight_decay", weight_decay), decay)

    def scalars(lr: Any, t: Any) -> Scalars:
        eta = lr / (1.0 + (t - 1.0) * shrinking * lr) ** power
        return -eta, eta * -shrinking, 1.0 / ops.maximum(1.0, t - 1.0 - start)

    def step(g: Any, slots: Slots, minus_eta: Any, minus_share: Any, mu: Any, *, parameter: Any) -> tuple[Any, Slots]:
        change = minus_share * parameter + minus_eta * g
        moved = parameter + change
        # With μ = 1 the average is what the parameter is, to the bit.
        average = slots["average"] + mu * (moved - slots["average"])
        return change, {"average": ops.where(mu < 1.0, average, moved)}

    method = Method("ASGD", ("average",), scalars, step, sees_parameter=True)
    return elementwise(method, rate, shrink, {"lambd": shrinking, "alpha": power, "t0": start})
