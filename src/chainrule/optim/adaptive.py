"""Methods that scale each element's step by the size of its recent gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


def NAdam(
    lr: LearningRate = 2e-3,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled: bool = False,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """Adam that looks ahead as Nesterov's momentum does (Dozat 2016), as in PyTorch.

    ``p ← p - lr·(μₜ₊₁·m/(1 - Mₜ₊₁) + (1 - μₜ)·g/(1 - Mₜ))/(√v̂ + ε)`` with ``μₜ = β₁(1 - ½·0.96^(t·momentum_decay))``,
    ``Mₜ = μ₁·…·μₜ`` and m, v, v̂ as in :func:`Adam`. ``decoupled`` keeps the weight decay apart from the gradients.

    State: the slots ``first_moment`` and ``second_moment``, and the number ``momentum_product`` (M).
    Raises :class:`ConfigError` for negative numbers, and for β₁ or β₂ outside [0, 1).
    """
    rate = as_schedule("NAdam", lr)
    b1, b2 = _betas("NAdam", betas)
    epsilon = non_negative("NAdam", "eps", eps)
    fading = non_negative("NAdam", "momentum_decay", momentum_decay)
    shrink = WeightDecay(non_negative("NAdam", "weight_decay", weight_decay), decay, bool(decoupled))

    def momentum(t: Any) -> Any:
        return b1 * (1.0 - 0.5 * ops.exp(t * (fading * math.log(0.96))))

    def advance(t: Any, totals: Mapping[str, Any]) -> dict[str, Any]:
        return {"momentum_product": totals["momentum_product"] * momentum(t)}

    def scalars(lr: Any, t: Any, totals: Mapping[str, Any]) -> Scalars:
        root = ops.sqrt(_one_minus_power(b2, t))
        so_far, ahead = totals["momentum_product"], momentum(t + 1.0)
        of_gradient = (1.0 - momentum(t)) / (1.0 - so_far)
        of_moment = ahead / (1.0 - so_far * ahead)
        return -lr * root * of_gradient, -lr * root * of_moment, epsilon * root

    def step(g: Any, slots: Slots, of_gradient: Any, of_moment: Any, small: Any) -> tuple[Any, Slots]:
        m = b1 * slots["first_moment"] + (1 - b1) * g
        v = b2 * slots["second_moment"] + (1 - b2) * (g * g)
        return (of_gradient * g + of_moment * m) / (ops.sqrt(v) + small), {"first_moment": m, "second_moment": v}

    method = Method(
        "NAdam", ("first_moment", "second_moment"), scalars, step, totals={"momentum_product": 1.0}, advance=advance
    )
    settings: dict[str, JSON] = {
        "betas": [b1, b2],
        "eps": epsilon,
        "momentum_decay": fading,
        "decoupled": bool(decoupled),
    }
    return elementwise(method, rate, shrink, settings)


def RAdam(
    lr: LearningRate = 1e-3,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """Adam whose steps are shorter while v is uncertain (Liu et al. 2020), as in PyTorch.

    With ``ρ∞ = 2/(1-β₂) - 1`` and ``ρ = ρ∞ - 2tβ₂ᵗ/(1-β₂ᵗ)`` it is ``p ← p - lr·r·m̂·√(1-β₂ᵗ)/(√v + ε)``,
    ``r = √((ρ-4)(ρ-2)ρ∞/((ρ∞-4)(ρ∞-2)ρ))``, where ``ρ > 5``, and ``p ← p - lr·m̂`` before. m, v and m̂ are those of :func:`Adam`.
    ``decoupled`` keeps the weight decay apart from the gradients. State and errors are those of :func:`Adam`.
    """
    rate = as_schedule("RAdam", lr)
    b1, b2 = _betas("RAdam", betas)
    epsilon = non_negative("RAdam", "eps", eps)
    shrink = WeightDecay(non_negative("RAdam", "weight_decay", weight_decay), decay, bool(decoupled))
    longest = 2 / (1 - b2) - 1

    def scalars(lr: Any, t: Any) -> Scalars:
        plain = -lr / _one_minus_power(b1, t)
        if longest <= 5:
            return 0.0 * plain, plain
        left = _one_minus_power(b2, t)
        length = longest - 2.0 * t * (1.0 - left) / left
        certain = length > 5.0
        length = ops.where(certain, length, longest)
        shorter = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
        return ops.where(certain, plain * ops.sqrt(left * shorter), 0.0), ops.where(certain, 0.0, plain)

    def step(g: Any, slots: Slots, scaled: Any, plain: Any) -> tuple[Any, Slots]:
        m = b1 * slots["first_moment"] + (1 - b1) * g
        v = b2 * slots["second_moment"] + (1 - b2) * (g * g)
        # One of the two is 0.
        return scaled * m / (ops.sqrt(v) + epsilon) + plain * m, {"first_moment": m, "second_moment": v}

    method = Method("RAdam", ("first_moment", "second_moment"), scalars, step)
    return elementwise(method, rate, shrink, {"betas": [b1, b2], "eps": epsilon, "decoupled": bool(decoupled)})


def Adamax(
    lr: LearningRate = 2e-3,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``m ← β₁m + (1-β₁)g, u ← max(β₂u, |g| + ε), p ← p - lr/(1-β₁ᵗ)·m/u`` (Kingma and Ba 2015), as in PyTorch.

    State: the slots ``first_moment`` (m) and ``largest_gradient`` (u). Errors are those of :func:`Adam`.
    """
    rate = as_schedule("Adamax", lr)
    b1, b2 = _betas("Adamax", betas)
    epsilon = non_negative("Adamax", "eps", eps)
    shrink = WeightDecay(non_negative("Adamax", "weight_decay", weight_decay), decay)

    def scalars(lr: Any, t: Any) -> Scalars:
        return (-lr / _one_minus_power(b1, t),)

    def step(g: Any, slots: Slots, scale: Any) -> tuple[Any, Slots]:
        m = b1 * slots["first_moment"] + (1 - b1) * g
        u = ops.maximum(b2 * slots["largest_gradient"], ops.abs(g) + epsilon)
        return scale * m / u, {"first_moment": m, "largest_gradient": u}

    method = Method("Adamax", ("first_moment", "largest_gradient"), scalars, step)
    return elementwise(method, rate, shrink, {"betas": [b1, b2], "eps": epsilon})


def Adagrad(
    lr: LearningRate = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``s ← s + g², p ← p - lrₜ·g/(√s + ε)`` with ``lrₜ = lr/(1 + (t-1)·lr_decay)`` (Duchi et al. 2011), as in PyTorch.

    s starts from ``initial_accumulator_value``. State: the slot ``square_sum`` (s).
    Raises :class:`ConfigError` for negative numbers.
    """
    rate = as_schedule("Adagrad", lr)
    slowing = non_negative("Adagrad", "lr_decay", lr_decay)
    start = non_negative("Adagrad", "initial_accumulator_value", initial_accumulator_value)
    epsilon = non_negative("Adagrad", "eps", eps)
    shrink = WeightDecay(non_negative("Adagrad", "weight_decay", weight_decay), decay)

    def scalars(lr: Any, t: Any) -> Scalars:
        return (-lr / (1.0 + (t - 1.0) * slowing),)

    def step(g: Any, slots: Slots, minus_lr: Any) -> tuple[Any, Slots]:
        s = slots["square_sum"] + g * g
        return minus_lr * g / (ops.sqrt(s) + epsilon), {"square_sum": s}

    settings = {"lr_decay": slowing, "initial_accumulator_value": start, "eps": epsilon}
    method = Method("Adagrad", ("square_sum",), scalars, step, first={"square_sum": start})
    return elementwise(method, rate, shrink, settings)


def Adadelta(
    lr: LearningRate = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``s ← ρs + (1-ρ)g², Δ = g·√(d + ε)/√(s + ε), d ← ρd + (1-ρ)Δ², p ← p - lr·Δ`` (Zeiler 2012), as in PyTorch.

    State: the slots ``mean_square`` (s) and ``mean_square_update`` (d).
    Raises :class:`ConfigError` for negative numbers, and for ρ outside [0, 1).
    """
    rate = as_schedule("Adadelta", lr)
    r, epsilon = fraction("Adadelta", "rho", rho), non_negative("Adadelta", "eps", eps)
    shrink = WeightDecay(non_negative("Adadelta", "weight_decay", weight_decay), decay)

    def scalars(lr: Any, t: Any) -> Scalars:
        return (-lr,)

    def step(g: Any, slots: Slots, minus_lr: Any) -> tuple[Any, Slots]:
        s = r * slots["mean_square"] + (1 - r) * (g * g)
        d = slots["mean_square_update"]
        change = g * (ops.sqrt(d + epsilon) / ops.sqrt(s + epsilon))
        return minus_lr * change, {"mean_square": s, "mean_square_update": r * d + (1 - r) * (change * change)}

    method = Method("Adadelta", ("mean_square", "mean_square_update"), scalars, step)
    return elementwise(method, rate, shrink, {"rho": r, "eps": epsilon})


def LAMB(
    lr: LearningRate = 1e-3,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """Adam's direction scaled to the size of each parameter, for large batches (You et al. 2020, algorithm 2).

    ``r = m̂/(√v̂ + ε) + weight_decay·p, p ← p - lr·(‖p‖/‖r‖)·r``; the ratio is 1 where either norm is 0.
    State and errors are those of :func:`AdamW`.
    """

    def rescale(update: Any, p: Any, lr: Any) -> Any:
        # The update is -lr·r, so ‖p‖/‖r‖ is lr·‖p‖/‖update‖.
        size, length = ops.sqrt(ops.square(p).sum()), ops.sqrt(ops.square(update).sum())
        usable = (size > 0.0) & (length > 0.0)
        return update * ops.where(usable, lr * size / ops.where(usable, length, 1.0), 1.0)

    return _adam("LAMB", lr, betas, eps, weight_decay, False, decay, decoupled=True, rescale=rescale)


def Lion(
    lr: LearningRate = 1e-4,
    betas: tuple[float, float] | list[float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    decay: Selection = rank_two_or_more,
) -> Optimizer:
    """``p ← p - lr·(sign(β₁m + (1-β₁)g) + weight_decay·p), m ← β₂m + (1-β₂)g`` (Chen et al. 2023).

    Every element moves by the same amount, so learning rates are three to ten times smaller than Adam's.
    State: the slot ``momentum`` (m). Raises :class:`ConfigError` for negative numbers, and for β₁ or β₂ outside [0, 1).
    """
    rate = as_schedule("Lion", lr)
    b1, b2 = _betas("Lion", betas)
    shrink = WeightDecay(non_negative("Lion", "weight_decay", weight_decay), decay, decoupled=True)

    def scalars(lr: Any, t: Any) -> Scalars:
        return (-lr,)

    def step(g: Any, slots: Slots, minus_lr: Any) -> tuple[Any, Slots]:
        m = slots["momentum"]
        return minus_lr * ops.sign(b1 * m + (1 - b1) * g), {"momentum": b2 * m + (1 - b2) * g}

    return elementwise(Method("Lion", ("momentum",), scalars, step), rate, shrink, {"betas": [b1, b2]})


def _adam(
    kind: str,
    lr: LearningRate,
    betas: tuple[float, float] | list[float],
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    decay: Selection,
    decoupled: bool = False,
    rescale: Callable[[Any, Any, Any], Any] | None = None,
) -> Optimizer:
    rate = as_schedule(kind, lr)
    b1, b2 = _betas(kind, betas)
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
    settings: dict[str, JSON] = {"betas": [b1, b2], "eps": epsilon}
    if kind != "LAMB":
        settings["amsgrad"] = bool(amsgrad)
    return elementwise(Method(kind, names, scalars, step, rescale=rescale), rate, shrink, settings)


def _betas(kind: str, betas: tuple[float, float] | list[float]) -> tuple[float, float]:
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ConfigError(f"betas of {kind} are two numbers such as (0.9, 0.999), not {betas!r}")
    return fraction(kind, "the first of betas", betas[0]), fraction(kind, "the second of betas", betas[1])


def _one_minus_power(beta: float, t: Any) -> Any:
    """``1 - βᵗ`` without cancellation for β near 1."""
    return -ops.expm1(t * math.log(beta)) if beta else ops.minimum(t, 1.0)
