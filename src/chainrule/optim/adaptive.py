"""Methods that scale each element's step by the size of its recent gradients."""

from __future__ import annotations

import math
from typing import Any

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.elementwise import Method, Scalars, Slots, WeightDecay, elementwise
from chainrule.optim.optimizer import JSON, Optimizer
from chainrule.optim.schedules import LearningRate, as_schedule
from chainrule.optim.selection import Selection, rank_two_or_more
from chainrule.optim.settings import fraction, non_negative


def RMSProp(
    lr: LearningRate = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``s ← αs + (1-α)g², p ← p - lr·g/(√s + ε)`` (Hinton's lecture 6e of 2012), as in PyTorch.

    ``centered`` divides by the running standard deviation ``√(s - m²)`` instead, with ``m ← αm + (1-α)g`` (Graves 2013).
    ``momentum`` μ accumulates the scaled gradient, ``v ← μv + g/(√s + ε)``, and takes ``p ← p - lr·v``.
    ``weight_decay`` adds ``weight_decay·p`` to the gradients of the parameters that ``decay`` selects.

    State: the slots ``mean_square``, and ``mean`` and ``momentum`` where they are used.
    Raises :class:`ConfigError` for negative numbers, and for α or μ outside [0, 1).
    """
    rate = as_schedule("RMSProp", lr)
    a, mu = fraction("RMSProp", "alpha", alpha), fraction("RMSProp", "momentum", momentum)
    epsilon = non_negative("RMSProp", "eps", eps)
    shrink = WeightDecay(non_negative("RMSProp", "weight_decay", weight_decay), decay)

    def scalars(lr: Any, t: Any) -> Scalars:
        return (-lr,)

    def step(g: Any, slots: Slots, minus_lr: Any) -> tuple[Any, Slots]:
        s = a * slots["mean_square"] + (1 - a) * (g * g)
        after = {"mean_square": s}
        if centered:
            after["mean"] = m = a * slots["mean"] + (1 - a) * g
            # The variance can come out below 0 by a rounding error when the gradient hardly changes.
            s = ops.maximum(s - m * m, 0.0)
        scaled = g / (ops.sqrt(s) + epsilon)
        if mu:
            after["momentum"] = scaled = mu * slots["momentum"] + scaled
        return minus_lr * scaled, after

    names = ["mean_square", *(["mean"] if centered else []), *(["momentum"] if mu else [])]
    settings = {"alpha": a, "eps": epsilon, "momentum": mu, "centered": bool(centered)}
    return elementwise(Method("RMSProp", names, scalars, step), rate, shrink, settings)


def Adam(
    lr: LearningRate = 1e-3,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``m ← β₁m + (1-β₁)g, v ← β₂v + (1-β₂)g², p ← p - lr·m̂/(√v̂ + ε)`` (Kingma and Ba 2015), as in PyTorch.

    ``m̂ = m/(1-β₁ᵗ)`` and ``v̂ = v/(1-β₂ᵗ)`` undo the bias towards the zeros that m and v start from; t = 1, 2, ... is the
    step. ``amsgrad`` puts the largest v so far in place of v (Reddi et al. 2018). ``weight_decay`` adds ``weight_decay·p`` to
    the gradients of the parameters that ``decay`` selects; :func:`AdamW` keeps it apart from the gradients.

    State: the slots ``first_moment`` (m), ``second_moment`` (v), and ``largest_second_moment`` with ``amsgrad``.
    Raises :class:`ConfigError` for negative numbers, and for β₁ or β₂ outside [0, 1).
    """
    return _adam("Adam", lr, betas, eps, weight_decay, amsgrad, decay)


def AdamW(
    lr: LearningRate = 1e-3,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """Adam with decoupled weight decay: beside :func:`Adam`'s step, ``p ← p - lr·weight_decay·p`` (Loshchilov and Hutter 2019).

    ``decay`` selects what decays, by pattern or by ``function(path, parameter)``: by default parameters of rank 2 or more, so
    that biases and norms do not. ``decay="*"`` decays everything, as PyTorch does.
    """
    return _adam("AdamW", lr, betas, eps, weight_decay, amsgrad, decay, decoupled=True)


def _adam(
    kind: str,
    lr: LearningRate,
    betas: tuple[float, float] | list[float],
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    decay: Selection,
    decoupled: bool = False,
) -> Optimizer:
    rate = as_schedule(kind, lr)
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ConfigError(f"betas of {kind} are two numbers such as (0.9, 0.999), not {betas!r}")
    b1, b2 = fraction(kind, "the first of betas", betas[0]), fraction(kind, "the second of betas", betas[1])
    epsilon = non_negative(kind, "eps", eps)
    shrink = WeightDecay(non_negative(kind, "weight_decay", weight_decay), decay, decoupled)

    def scalars(lr: Any, t: Any) -> Scalars:
        # lr·m̂/(√v̂ + ε) = (lr·√c₂/c₁)·m/(√v + ε√c₂) with c = 1 - βᵗ: the corrections cost nothing per element.
        root = ops.sqrt(_one_minus_power(b2, t))
        return -lr * root / _one_minus_power(b1, t), epsilon * root

    def step(g: Any, slots: Slots, scale: Any, small: Any) -> tuple[Any, Slots]:
        m = b1 * slots["first_moment"] + (1 - b1) * g
        v = b2 * slots["second_moment"] + (1 - b2) * (g * g)
        after = {"first_moment": m, "second_moment": v}
        if amsgrad:
            after["largest_second_moment"] = v = ops.maximum(slots["largest_second_moment"], v)
        return scale * m / (ops.sqrt(v) + small), after

    names = ("first_moment", "second_moment", *(["largest_second_moment"] if amsgrad else []))
    settings: dict[str, JSON] = {"betas": [b1, b2], "eps": epsilon, "amsgrad": bool(amsgrad)}
    return elementwise(Method(kind, names, scalars, step), rate, shrink, settings)


def _one_minus_power(beta: float, t: Any) -> Any:
    """``1 - βᵗ`` without cancellation for β near 1."""
    return -ops.expm1(t * math.log(beta)) if beta else ops.minimum(t, 1.0)
