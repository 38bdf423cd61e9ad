"""Steps whose sizes follow the signs of the gradients alone."""

from __future__ import annotations

from typing import Any

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.elementwise import Method, Scalars, Slots, elementwise
from chainrule.optim.optimizer import Optimizer
from chainrule.optim.schedules import constant
from chainrule.optim.settings import positive


def Rprop(
    lr: float = 1e-2,
    etas: tuple[float, float] | list[float] = (0.5, 1.2),
    step_sizes: tuple[float, float] | list[float] = (1e-6, 50.0),
) -> Optimizer:
    """``p ← p - d·sign(g)`` with a step d of its own for every element (Riedmiller and Braun 1993), as in PyTorch.

    d starts at ``lr``; where the gradient kept its sign it grows by the second of ``etas``, where the sign changed it
    shrinks by the first and the element rests for a step. d stays within ``step_sizes``. For full batches: the noise of
    small ones changes signs.

    State: the slots ``step_size`` (d) and ``gradient``, the last one. Raises :class:`ConfigError` for numbers that are not
    positive, and for etas that do not lie on both sides of 1.
    """
    first = positive("Rprop", "lr", lr)
    down, up = (positive("Rprop", "etas", eta) for eta in _pair("etas", etas))
    least, most = (positive("Rprop", "step_sizes", size) for size in _pair("step_sizes", step_sizes))
    if not down < 1 < up or not least <= most:
        raise ConfigError(
            f"Rprop needs etas below and above 1, and step_sizes in order, not {(down, up)} and {(least, most)}"
        )

    def scalars(lr: Any, t: Any) -> Scalars:
        return (lr * (-1 / first),)

    def step(g: Any, slots: Slots, minus_factor: Any) -> tuple[Any, Slots]:
        same = g * slots["gradient"]
        size = slots["step_size"] * ops.where(same > 0, up, ops.where(same < 0, down, 1.0))
        size = ops.clip(size, least, most)
        kept = ops.where(same < 0, 0.0, g)
        return minus_factor * ops.sign(kept) * size, {"step_size": size, "gradient": kept}

    method = Method("Rprop", ("step_size", "gradient"), scalars, step, first={"step_size": first})
    settings = {"etas": [down, up], "step_sizes": [least, most]}
    return elementwise(method, constant(first), None, settings)


def _pair(name: str, pair: Any) -> Any:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ConfigError(f"{name} of Rprop are two numbers, not {pair!r}")
    return pair
