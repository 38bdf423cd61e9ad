"""Parameters averaged over the course of training, beside the ones that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.optimizer import (
    JSON,
    Arrays,
    Optimizer,
    State,
    check_optimizer,
    has_learning_rate,
    part_rate,
    update_operation,
)
from chainrule.optim.settings import count as whole
from chainrule.optim.settings import fraction
from chainrule.trace import as_array


def average(optimizer: Optimizer, decay: float | None = 0.999, start: int = 0, every: int = 1) -> Optimizer:
    """``optimizer``, and beside it an average of the parameters after its updates; :func:`averaged` takes it out.

    With ``decay`` β an exponential moving average: ``a ← β'a + (1-β')p`` with ``β' = min(β, n/(n + 9))`` for the n-th
    parameters averaged, so that the beginning is soon forgotten (Polyak and Juditsky 1992). With ``decay=None`` the plain
    mean of the parameters after the updates ``start + every, start + 2·every, …`` (SWA, Izmailov et al. 2018). An update is
    a batch: around :func:`accumulate` the parameters that did not change count too; ``accumulate(average(...), k)`` averages
    only those of real updates.

    State: ``inner`` (of the optimiser), ``average`` by path, ``updates`` and ``averaged``, how many of each there were.
    Raises :class:`ConfigError` for β outside [0, 1), a negative start, or ``every`` below 1.
    """
    check_optimizer(optimizer, "what average is given")
    beta = None if decay is None else fraction("average", "decay", decay)
    first, times = whole("average", "start", start, least=0), whole("average", "every", every)

    @update_operation
    def init(params: Arrays) -> State:
        kept = {path: as_array(p) + 0.0 for path, p in params.items()}
        return {
            "inner": optimizer.init(params),
            "average": kept,
            "updates": ops.zeros((), "int64"),
            "averaged": ops.zeros((), "int64"),
        }

    @update_operation
    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        changes, inner = optimizer.update(gradients, state["inner"], params)
        made = as_array(state["updates"]) + 1
        since = made - first
        now = (since > 0) & ((since - ops.floor(since.astype("float64") / times).astype("int64") * times) == 0)
        n = as_array(state["averaged"]).astype("float64") + 1.0
        keep = (n - 1.0) / n if beta is None else ops.minimum(beta, (n - 1.0) / (n + 8.0))
        keep = ops.where(now, keep, 1.0)
        kept = {}
        for path, p in params.items():
            p = as_array(p)
            moved = p + changes[path] if path in changes else p
            kept[path] = moved + keep.astype(p.dtype) * (state["average"][path] - moved)
        counted = as_array(state["averaged"]) + ops.where(now, 1, 0)
        return changes, {"inner": inner, "average": kept, "updates": made, "averaged": counted}

    described: dict[str, JSON] = {"kind": "average", "optimizer": optimizer.describe, "decay": beta}
    described |= {"start": first, "every": times}
    rate = optimizer.learning_rate
    return Optimizer(init, update, described, None if rate is None else part_rate("inner", rate))


def averaged(state: Mapping[str, Any]) -> dict[str, Any]:
    """The averaged parameters by path, from the state of an optimiser made with :func:`average`, or of :func:`ASGD`.

    Raises :class:`ConfigError` where nothing in the state has been averaged.
    """
    found = _find(state)
    if found is None or not int(np.asarray(found.get("averaged", found.get("count")))):
        raise ConfigError("nothing has been averaged: train with optim.average(optimizer, ...), beyond its start")
    return dict(found["average"])


def _find(state: Any) -> Mapping[str, Any] | None:
    if not isinstance(state, Mapping):
        return None
    if {"inner", "average", "averaged"} <= state.keys() or (has_learning_rate(state) and "average" in state):
        return state
    return next((found for part in state.values() if (found := _find(part)) is not None), None)
