"""The frame of every optimiser that treats all elements of all parameters by one formula.

What depends on the step alone (schedule, bias corrections) is computed once per step as float64 scalars, and rounded to the
element type of a parameter only at the end; the formula of a method is left with few passes over each array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chainrule import ops
from chainrule.core.dtypes import BFLOAT16, WIDE_FLOATS, dtype_name
from chainrule.core.errors import ConfigError, DTypeError
from chainrule.optim.optimizer import JSON, Arrays, Optimizer, State, matching, update_operation
from chainrule.optim.schedules import Schedule, describe_rate
from chainrule.optim.selection import Selection, describe_selection, selected
from chainrule.trace import as_array, scope

Slots = dict[str, Any]  # of one parameter: {slot: array}
Scalars = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class WeightDecay:
    """How much a parameter shrinks, and which do.

    Coupled, ``strength·p`` is added to the gradient before anything else (an L2 penalty); decoupled, ``lr·strength·p`` is
    taken from the parameter beside the update (Loshchilov and Hutter 2019).
    """

    strength: float
    on: Selection
    decoupled: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """The formula of an optimiser.

    ``scalars(lr, t)`` gives numbers for the whole step from the learning rate and the number t = 1, 2, ... of the step;
    ``step(gradient, slots, *scalars)`` gives the update of one parameter and its next slots.

    ``first`` has what slots start from where that is not 0. ``totals`` are float64 numbers that the state carries from step to
    step, with their first values: ``advance(t, totals)`` gives the next ones, which ``scalars`` then gets as a third argument.
    ``rescale(update, parameter, lr)`` looks at one parameter as a whole, after the weight decay. With ``sees_parameter`` the
    step gets the parameter too, by that name.
    """

    kind: str
    slots: Sequence[str]
    scalars: Callable[..., Scalars]
    step: Callable[..., tuple[Any, Slots]]
    first: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)
    advance: Callable[[Any, Mapping[str, Any]], dict[str, Any]] | None = None
    rescale: Callable[[Any, Any, Any], Any] | None = None
    sees_parameter: bool = False


def elementwise(method: Method, rate: Schedule, decay: WeightDecay | None, settings: Mapping[str, JSON]) -> Optimizer:
    """The optimiser of a formula, a learning rate and a weight decay, if it has one."""
    strength, decoupled = (decay.strength, decay.decoupled) if decay else (0.0, False)

    @update_operation
    def init(params: Arrays) -> State:
        if decay:
            selected(decay.on, params)
        check_floats(params)
        slots = {
            slot: {path: ops.full(p.shape, method.first.get(slot, 0.0), p.dtype) for path, p in params.items()}
            for slot in method.slots
        }
        totals = {name: ops.full((), number, "float64") for name, number in method.totals.items()}
        return {"count": ops.zeros((), "int64"), "factor": ops.ones((), "float32"), **totals, **slots}

    def learning_rate(state: State) -> Any:
        return rate(state["count"]) * as_array(state["factor"], "float64")

    @update_operation
    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        check_paths(gradients, params)
        next_count = as_array(state["count"]) + 1
        lr = learning_rate(state)
        t = as_array(next_count, "float64")
        totals = method.advance(t, {name: as_array(state[name]) for name in method.totals}) if method.advance else {}
        scalars = (lr, lr * -strength, *method.scalars(lr, t, *([totals] if totals else [])))
        rounded: dict[str, Scalars] = {}
        decayed = set(selected(decay.on, params)) if decay and strength else set()
        updates: dict[str, Any] = {}
        slots: dict[str, dict[str, Any]] = {slot: {} for slot in method.slots}
        for path, gradient in gradients.items():
            p = as_array(params[path])
            own_lr, shrink, *numbers = rounded.setdefault(p.dtype.name, tuple(s.astype(p.dtype) for s in scalars))
            with scope(path):
                g = matching(path, gradient, p, "gradient")
                if path in decayed and not decoupled:
                    g = g + strength * p
                own = {slot: as_array(state[slot][path]) for slot in method.slots}
                seen = {"parameter": p} if method.sees_parameter else {}
                updates[path], after = method.step(g, own, *numbers, **seen)
                if path in decayed and decoupled:
                    updates[path] = updates[path] + shrink * p
                if method.rescale is not None:
                    updates[path] = method.rescale(updates[path], p, own_lr)
            for slot in method.slots:
                slots[slot][path] = after[slot]
        return updates, {"count": next_count, "factor": state["factor"], **totals, **slots}

    described: dict[str, JSON] = {"kind": method.kind, "lr": describe_rate(rate), **settings}
    if decay:
        described |= {"weight_decay": strength, **describe_selection("decay", decay.on)}
    return Optimizer(init, update, described, learning_rate)


def check_floats(params: Arrays) -> None:
    """Raises :class:`DTypeError` for a parameter that cannot be trained."""
    for path, parameter in params.items():
        name = dtype_name(parameter.dtype)
        if name not in WIDE_FLOATS:
            hint = ", as most updates vanish in bfloat16: cast it where it is used instead" if name == BFLOAT16 else ""
            raise DTypeError(
                f"parameter {path!r} has element type {name}; what is trained must be float32 or float64{hint}"
            )


def check_paths(gradients: Arrays, params: Arrays) -> None:
    """Raises :class:`ConfigError` unless there is a gradient for every parameter and for nothing else."""
    for path in params:
        if path not in gradients:
            raise ConfigError(f"parameter {path!r} has no gradient; leave it out with optim.freeze, or pass zeros")
    for path in gradients:
        if path not in params:
            raise ConfigError(f"there is a gradient for {path!r}, but no parameter of that name")
