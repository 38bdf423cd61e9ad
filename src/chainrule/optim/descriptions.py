"""Optimisers from their stored descriptions.

A description is a call written as JSON: ``{"kind": "Adam", "lr": {"kind": "cosine", "lr": 0.001, "steps": 100}}``. The kinds are
the names in the two tables below; nothing else can be called.
"""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.core.names import hint
from chainrule.optim import schedules
from chainrule.optim.accumulation import accumulate
from chainrule.optim.adafactor import Adafactor
from chainrule.optim.adaptive import LAMB, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSProp
from chainrule.optim.ascent import maximize
from chainrule.optim.averaging import average
from chainrule.optim.clipping import clip_by_global_norm, clip_by_value
from chainrule.optim.constraints import limit_norm
from chainrule.optim.groups import frozen, groups
from chainrule.optim.lbfgs import LBFGS
from chainrule.optim.muon import Muon
from chainrule.optim.optimizer import JSON, Optimizer, chain
from chainrule.optim.penalties import l1, l2
from chainrule.optim.resilient import Rprop
from chainrule.optim.schedules import Schedule
from chainrule.optim.sgd import ASGD, SGD


def _chain(transforms: list[Optimizer]) -> Optimizer:
    return chain(*transforms)


def _groups(optimizers: list[tuple[str, Optimizer]], default: Optimizer | None = None) -> Optimizer:
    return groups(dict(optimizers), default)


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "SGD": SGD,
    "ASGD": ASGD,
    "Muon": Muon,
    "Adafactor": Adafactor,
    "RMSProp": RMSProp,
    "Adam": Adam,
    "AdamW": AdamW,
    "NAdam": NAdam,
    "RAdam": RAdam,
    "Adamax": Adamax,
    "Rprop": Rprop,
    "Adagrad": Adagrad,
    "Adadelta": Adadelta,
    "LAMB": LAMB,
    "Lion": Lion,
    "LBFGS": LBFGS,
    "maximize": maximize,
    "accumulate": accumulate,
    "average": average,
    "chain": _chain,
    "groups": _groups,
    "frozen": frozen,
    "clip_by_global_norm": clip_by_global_norm,
    "clip_by_value": clip_by_value,
    "limit_norm": limit_norm,
    "l1": l1,
    "l2": l2,
}
SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": schedules.constant,
    "cosine": schedules.cosine,
    "cosine_restarts": schedules.cosine_restarts,
    "one_cycle": schedules.one_cycle,
    "step": schedules.step,
    "exponential": schedules.exponential,
    "multi_step": schedules.multi_step,
    "linear": schedules.linear,
    "polynomial": schedules.polynomial,
    "cyclic": schedules.cyclic,
    "sequence": schedules.sequence,
    "warmup": schedules.warmup,
    "table": schedules.table,
}


def from_description(description: Mapping[str, JSON]) -> Optimizer:
    """The optimiser that :attr:`Optimizer.describe` describes.

    Raises :class:`ConfigError` for an unknown kind, a missing or unknown setting, and for a description of a function of the
    user's own, which JSON cannot hold.
    """
    made = _made(description)
    if not isinstance(made, Optimizer):
        raise ConfigError(f"{_kind(description)} is not an optimiser; the kinds are {', '.join(OPTIMIZERS)}")
    return made


def schedule_from_description(description: JSON) -> Schedule:
    """The schedule that :attr:`Schedule.describe` describes; a number is a constant one.

    Raises :class:`ConfigError` as :func:`from_description` does.
    """
    made = (
        schedules.as_schedule("a schedule", description) if isinstance(description, float | int) else _made(description)
    )
    if not isinstance(made, Schedule):
        raise ConfigError(f"{_kind(description)} is not a schedule; the kinds are {', '.join(SCHEDULES)}")
    return made


def _made(item: JSON) -> Any:
    if isinstance(item, Mapping):
        return _called(item)
    if isinstance(item, list | tuple):
        return [_made(part) for part in item]
    return item


def _called(description: Mapping[str, JSON]) -> Any:
    kind = _kind(description)
    if kind == "function":
        raise ConfigError(
            f"the stored function {description.get('name')!r} is the author's own; pass it again in Python"
        )
    make = OPTIMIZERS.get(kind) or SCHEDULES.get(kind)
    if make is None:
        raise ConfigError(f"there is no optimiser or schedule {kind!r}; {hint(kind, [*OPTIMIZERS, *SCHEDULES])}")
    settings = {name: _made(value) for name, value in description.items() if name != "kind"}
    signature = inspect.signature(make)
    for name in settings:
        if name not in signature.parameters:
            raise ConfigError(f"{kind} has no setting {name!r}; {hint(name, signature.parameters)}")
    try:
        bound = signature.bind(**settings)
    except TypeError as problem:
        raise ConfigError(f"the description of {kind} does not fit: {problem}") from None
    return make(*bound.args, **bound.kwargs)


def _kind(description: JSON) -> str:
    kind = description.get("kind") if isinstance(description, Mapping) else None
    if not isinstance(kind, str):
        raise ConfigError(f"the description of an optimiser needs a 'kind' such as \"Adam\", but it is {description!r}")
    return kind


def _reduced(described: Optimizer | Schedule) -> Any:
    """What ``pickle`` stores: the description. With functions of the user's own in it, each of the functions that it consists of."""
    make = from_description if isinstance(described, Optimizer) else schedule_from_description
    try:
        make(described.describe)
    except ConfigError:
        return object.__reduce_ex__(described, 4)
    return make, (described.describe,)


copyreg.pickle(Optimizer, _reduced)
copyreg.pickle(Schedule, _reduced)
