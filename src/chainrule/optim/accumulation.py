"""Gradients summed over several batches before each update."""

from __future__ import annotations

from typing import Any

from chainrule import ops
from chainrule.core import trees
from chainrule.optim.optimizer import JSON, Arrays, Optimizer, State, check_optimizer, part_rate, update_operation
from chainrule.optim.settings import count as whole
from chainrule.trace import as_array


def accumulate(optimizer: Optimizer, every: int) -> Optimizer:
    """One update of ``optimizer`` for every so many batches, from the mean of their gradients; no change in between.

    With batches of equal size that is the update of one batch ``every`` times as large, without its memory.

    State: ``inner`` (of the optimiser), ``sum`` (the mean so far) and ``batches`` (how many are in it).
    Raises :class:`ConfigError` for ``every`` below 1.
    """
    check_optimizer(optimizer, "what accumulate is given")
    times = whole("accumulate", "every", every)

    @update_operation
    def init(params: Arrays) -> State:
        sums = {path: ops.zeros(p.shape, p.dtype) for path, p in params.items()}
        return {"inner": optimizer.init(params), "sum": sums, "batches": ops.zeros((), "int64")}

    @update_operation
    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        total = {path: state["sum"][path] + as_array(g) * (1.0 / times) for path, g in gradients.items()}
        full = as_array(state["batches"]) == times - 1
        updates, inner = optimizer.update(total, state["inner"], params)
        kept = trees.tree_map(lambda after, before: ops.where(full, after, before), inner, state["inner"])
        after: State = {
            "inner": kept,
            "sum": {path: ops.where(full, 0.0, g) for path, g in total.items()},
            "batches": ops.where(full, 0, as_array(state["batches"]) + 1),
        }
        return {path: ops.where(full, u, 0.0) for path, u in updates.items()}, after

    described: dict[str, JSON] = {"kind": "accumulate", "optimizer": optimizer.describe, "every": times}
    rate = optimizer.learning_rate
    return Optimizer(init, update, described, None if rate is None else part_rate("inner", rate))
