"""Running a program many times over examples that lie in memory: what is asked for, and the plain loop that defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core.errors import ShapeError
from chainrule.ir.graph import Graph

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Repetition:
    """``steps`` runs of a program, each on the next ``batch`` examples.

    Output k becomes input ``carried[k]`` of the next run. Inputs in ``gathered`` are given with all examples along their first axis,
    and run n sees the rows ``rows[n * batch : (n + 1) * batch]``, or those with these numbers where ``rows`` is None.
    """

    steps: int
    batch: int
    carried: Mapping[int, int]
    gathered: frozenset[int]
    rows: NDArray | None = None

    def check_state(self, graph: Graph) -> None:
        """Raises :class:`ShapeError` where a carried value changes its type."""
        for source, target in self.carried.items():
            given, made = graph.inputs[target], graph.outputs[source]
            if given.type != made.type:
                raise ShapeError(
                    f"{given.name or 'a carried value'} is {given.type} before a step but {made.type} after it; what is carried "
                    "from step to step must keep its shape and element type"
                )

    def check_rows(self, arrays: Sequence[NDArray]) -> None:
        """Raises :class:`ShapeError` where rows are asked for that are not there."""
        if self.steps < 1 or self.batch < 0:
            raise ShapeError(f"a program cannot run {self.steps} times on batches of {self.batch}")
        wanted = self.steps * self.batch
        counts = {len(arrays[number]) if arrays[number].ndim else 0 for number in self.gathered}
        if len(counts) > 1:
            raise ShapeError(f"the examples differ in number: {sorted(counts)}")
        count = counts.pop() if counts else wanted
        if self.rows is None:
            if wanted > count:
                raise ShapeError(f"{self.steps} batches of {self.batch} need {wanted} examples, but there are {count}")
        elif self.rows.shape != (wanted,) or self.rows.dtype.kind != "i":
            raise ShapeError(
                f"{self.steps} batches of {self.batch} need {wanted} row numbers, not {self.rows.dtype} {self.rows.shape}"
            )
        elif wanted and not (self.rows.min() >= 0 and self.rows.max() < count):
            raise ShapeError(
                f"the row numbers reach from {self.rows.min()} to {self.rows.max()}, with {count} examples"
            )

    def of_step(self, step: int) -> slice | NDArray:
        """The rows that a run sees."""
        rows = slice(step * self.batch, (step + 1) * self.batch)
        return rows if self.rows is None else self.rows[rows]


def repeat_plainly(
    program: Callable[[Sequence[NDArray]], list[NDArray]], graph: Graph, arrays: Sequence[NDArray], how: Repetition
) -> list[NDArray]:
    """One call per step: what every engine's ``repeat`` means."""
    how.check_state(graph)
    how.check_rows(arrays)
    operands = list(arrays)
    kept: dict[int, list[NDArray]] = {k: [] for k in range(len(graph.outputs)) if k not in how.carried}
    for step in range(how.steps):
        rows = how.of_step(step)
        for number in how.gathered:
            operands[number] = arrays[number][rows]
        results = program(operands)
        for number, target in how.carried.items():
            operands[target] = results[number]
        for number, reports in kept.items():
            reports.append(results[number])
    return [operands[how.carried[k]] if k in how.carried else np.stack(kept[k]) for k in range(len(graph.outputs))]
