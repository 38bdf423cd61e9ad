"""Different optimisers for different parameters, chosen by path; freezing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.optim.optimizer import JSON, Arrays, Optimizer, State, check_optimizer, part_rate
from chainrule.optim.selection import as_patterns, matches, must_match


def _no_state(params: Arrays) -> State:
    return {}


def _no_update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
    return {}, state


def frozen() -> Optimizer:
    """Updates nothing: for the parameters of a group that stay as they are, bit for bit, and have no optimiser state."""
    return Optimizer(_no_state, _no_update, {"kind": "frozen"})


def groups(optimizers: Mapping[str, Optimizer], default: Optimizer | None = None) -> Optimizer:
    """Each parameter goes to the optimiser of the first pattern that fits its path, all others to ``default``.

    ``groups({"*.bias": SGD(0.1), "encoder.*": frozen()}, default=AdamW(1e-3))``. In a pattern ``*`` stands for anything, dots
    included, and ``*.bias`` also fits a parameter at the top of the model. The state is a dict of the states of the groups,
    ``"0"``, ``"1"``, ... in the order of the patterns, and ``"default"``; each has a learning rate of its own.

    Raises :class:`ConfigError`, when the state is made, for a pattern that fits no parameter, and for a parameter that no
    pattern fits when there is no default.
    """
    if not isinstance(optimizers, Mapping):
        raise ConfigError(f"groups is given a dict from pattern to optimiser, not {optimizers!r}")
    patterns = as_patterns(list(optimizers))
    for pattern, given in (*optimizers.items(), *([] if default is None else [("default", default)])):
        check_optimizer(given, f"the group {pattern!r}")
    members = {str(place): optimizer for place, optimizer in enumerate(optimizers.values())}
    if default is not None:
        members["default"] = default

    def member_of(path: str) -> str:
        for place, pattern in enumerate(patterns):
            if matches(path, pattern):
                return str(place)
        if default is None:
            raise ConfigError(
                f"no group's pattern fits parameter {path!r}; widen a pattern or give a default optimiser"
            )
        return "default"

    def divided(arrays: Arrays) -> dict[str, dict[str, Any]]:
        parts: dict[str, dict[str, Any]] = {name: {} for name in members}
        for path, array in arrays.items():
            parts[member_of(path)][path] = array
        return parts

    def init(params: Arrays) -> State:
        must_match(patterns, params)
        parts = divided(params)
        return {name: optimizer.init(parts[name]) for name, optimizer in members.items()}

    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        gradient_parts, parts = divided(gradients), divided(params)
        updates: dict[str, Any] = {}
        after: State = {}
        for name, optimizer in members.items():
            found, after[name] = optimizer.update(gradient_parts[name], state[name], parts[name])
            updates |= found
        return updates, after

    rated = sorted(
        ((name, o.learning_rate) for name, o in members.items() if o.learning_rate is not None),
        key=lambda item: item[0] != "default",
    )
    described: list[JSON] = [[pattern, optimizer.describe] for pattern, optimizer in optimizers.items()]
    describe: dict[str, JSON] = {"kind": "groups", "optimizers": described}
    if default is not None:
        describe["default"] = default.describe
    return Optimizer(init, update, describe, part_rate(*rated[0]) if rated else None)


def freeze(patterns: str | Sequence[str], optimizer: Optimizer) -> Optimizer:
    """``optimizer`` for all parameters but those that fit a pattern, which stay as they are, bit for bit.

    ``freeze("encoder.*", Adam(1e-3))``. What is frozen has no optimiser state, does not count in the norm that clipping
    inside ``optimizer`` sees, and its gradient is not computed in a compiled step.
    Raises :class:`ConfigError`, when the state is made, for a pattern that fits no parameter.
    """
    return groups(dict.fromkeys(as_patterns(patterns), frozen()), default=optimizer)
