"""What an optimiser is: a pair of functions on flat dicts ``{path: array}``, and how several are chained.

``init(params)`` makes the state, ``update(gradients, state, params)`` returns what is to be *added* to the parameters, and the
next state. Both can be traced, so that a whole training step is one program. A transform of gradients, such as clipping, is
the same pair; :func:`chain` puts transforms before an optimiser.

The state is a tree of dicts and arrays. An optimiser with a learning rate keeps ``count``, the number of updates made
(int64), and ``factor``, by which the learning rate is multiplied (float32, 1 at first; set from outside, for instance when
the validation loss stops falling), at the top of its state beside the dicts of its slots, such as ``momentum``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.trace import as_array, operation, phase, scope

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Arrays = Mapping[str, Any]  # {path: array}
State = dict[str, Any]
Init = Callable[[Arrays], State]
Update = Callable[[Arrays, State, Arrays], tuple[dict[str, Any], State]]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False, slots=True)
class Optimizer:
    """``init: params -> state`` and ``update: (gradients, state, params) -> (updates, state)``.

    ``describe`` says in JSON how it was made; :func:`chainrule.optim.from_description` makes it again.
    ``learning_rate`` maps the state to the learning rate of the next update, where the optimiser has one.
    A path that ``update`` leaves out of its result is not changed.
    """

    init: Init
    update: Update
    describe: Mapping[str, JSON] = field(default_factory=dict)
    learning_rate: Callable[[State], Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", _of_named_arrays(self.init))


Transform = Optimizer


def _of_named_arrays(init: Init) -> Init:
    """``init`` that says what it starts from."""

    @wraps(init)
    def checked(params: Arrays) -> State:
        if not isinstance(params, Mapping):
            raise ConfigError(
                f"an optimiser starts from a dict {{path: array}} such as model.named_parameters(), not {type(params).__name__}"
            )
        return init(params)

    return checked


def check_optimizer(given: Any, what: str) -> None:
    """Raise :class:`ConfigError` for what is no optimiser; ``what`` begins the sentence."""
    if not isinstance(given, Optimizer):
        name = getattr(given, "__name__", None)
        called = f"the function {name}, which makes one when it is called" if name else repr(given)
        raise ConfigError(f"{what} is an optimiser such as optim.Adam(1e-3), not {called}")


def update_operation(function: Callable[P, R]) -> Callable[P, R]:
    """An operation whose nodes belong to the ``update`` phase of a step; on concrete arrays it computes at once."""

    @wraps(function)
    def marked(*args: P.args, **kwargs: P.kwargs) -> R:
        with phase("update"):
            return function(*args, **kwargs)

    return operation(marked)


def stateless(function: Callable[[Arrays, Arrays], dict[str, Any]], describe: Mapping[str, JSON]) -> Transform:
    """A transform ``(gradients, params) -> gradients`` that remembers nothing."""

    def init(params: Arrays) -> State:
        return {}

    @update_operation
    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        return function(gradients, params), state

    return Transform(init, update, describe)


def chain(*transforms: Transform) -> Optimizer:
    """Each transform works on what the one before it returned: ``chain(clip_by_global_norm(1.0), Adam(1e-3))``.

    The state is a dict of the states of the transforms, by position: ``"0"``, ``"1"``, ...
    The learning rate is that of the last transform that has one.
    """
    for transform in transforms:
        check_optimizer(transform, "a part of a chain")

    def init(params: Arrays) -> State:
        return {str(place): transform.init(params) for place, transform in enumerate(transforms)}

    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        updates = dict(gradients)
        after: State = {}
        for place, transform in enumerate(transforms):
            updates, after[str(place)] = transform.update(updates, state[str(place)], params)
        return updates, after

    rated = [(str(place), rate) for place, t in enumerate(transforms) if (rate := t.learning_rate) is not None]
    describe: dict[str, JSON] = {"kind": "chain", "transforms": [transform.describe for transform in transforms]}
    return Optimizer(init, update, describe, part_rate(*rated[-1]) if rated else None)


def part_rate(name: str, rate: Callable[[State], Any]) -> Callable[[State], Any]:
    """The learning rate of one part of a combined optimiser, from the state of the whole."""
    return lambda state: rate(state[name])


@update_operation
def apply_updates(params: Arrays, updates: Arrays) -> dict[str, Any]:
    """``params + updates`` path by path, in the element type of the parameters; a path without an update stays as it is.

    Raises :class:`ConfigError` for an update of a parameter that does not exist, :class:`ShapeError` for one of another shape.
    """
    unknown = [path for path in updates if path not in params]
    if unknown:
        raise ConfigError(f"there is an update for {unknown[0]!r}, but no parameter of that name")
    return {path: _moved(path, p, updates[path]) if path in updates else p for path, p in params.items()}


def _moved(path: str, parameter: Any, update: Any) -> Any:
    array = as_array(parameter)
    with scope(path):
        return array + matching(path, update, array, "update")


def matching(path: str, array: Any, parameter: Any, what: str) -> Any:
    """A gradient or update in the element type of its parameter; :class:`ShapeError` where the shape is another."""
    converted = as_array(array, parameter.dtype.name)
    if converted.shape != parameter.shape:
        raise ShapeError(
            f"the {what} of parameter {path!r} has shape {converted.shape}, but the parameter has shape {parameter.shape}"
        )
    return converted


# --- the learning rate, from outside the compiled step ----------------------------------------------------------------


def has_learning_rate(state: Any) -> bool:
    """Whether this is the state of one optimiser with a learning rate, rather than a dict of several states or a slot."""
    if not isinstance(state, dict) or not {"count", "factor"} <= state.keys():
        return False
    count, factor = state["count"], state["factor"]
    # Parameters may have these names too, and then a slot has them; but what is trained is never an integer.
    return not isinstance(count, dict) and np.asarray(count).dtype.kind == "i" and np.ndim(factor) == 0


def learning_rate_factor(state: State) -> float:
    """The number by which learning rates are multiplied; where several optimisers differ, the largest.

    Raises :class:`ConfigError` when nothing in the state has a learning rate.
    """
    found = _factors(state)
    if not found:
        raise ConfigError("this optimiser state holds no learning rate; it belongs to transforms alone")
    return max(found)


def scale_learning_rate(state: State, factor: float) -> State:
    """A state with which all learning rates are ``factor`` times what they were; schedules go on below them.

    Raises :class:`ConfigError` for a factor that is not positive and finite, or a state without a learning rate.
    """
    if not 0 < factor < float("inf"):
        raise ConfigError(f"a learning rate is multiplied by a positive number, not by {factor!r}")
    learning_rate_factor(state)
    scaled: State = _scaled(state, factor)
    return scaled


def current_learning_rate(optimizer: Optimizer, state: State) -> float:
    """The learning rate of the next update: the schedule at ``count``, times ``factor``.

    For a chain it is that of its last optimiser, for groups that of the default, or else of the first that has one.
    Raises :class:`ConfigError` for a transform that has no learning rate.
    """
    if optimizer.learning_rate is None:
        raise ConfigError(f"{optimizer.describe.get('kind', 'this transform')} has no learning rate")
    return float(operation(optimizer.learning_rate)(state))


def _factors(state: Any) -> list[float]:
    if has_learning_rate(state):
        return [float(state["factor"])]
    return [factor for part in state.values() for factor in _factors(part)] if isinstance(state, dict) else []


def _scaled(state: Any, factor: float) -> Any:
    if has_learning_rate(state):
        return {**state, "factor": np.asarray(float(state["factor"]) * factor, np.float32)}
    return {name: _scaled(part, factor) for name, part in state.items()} if isinstance(state, dict) else state
