"""What ``c/repeat.h`` needs to know to run a program many times: which pointers move, are filled, copied out and exchanged."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.engines.repetition import Repetition
from chainrule.ir.graph import Graph, Value

NDArray = np.ndarray[Any, Any]


class _Text(ctypes.Structure):
    """``cr_repetition``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "batch", "inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in ("rows", "examples", "bytes", "over", "exchanged")),
        ("exchanges", ctypes.c_int64),
        ("homes", ctypes.c_void_p),
    )


class Schedule:
    """The table of one repetition. ``operands`` and ``results`` are the first buffers of the program's slots."""

    def __init__(
        self,
        graph: Graph,
        how: Repetition,
        arrays: Sequence[NDArray],
        forms: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
        written_over: Mapping[int, int],
    ) -> None:
        self._how = how
        self.operands = list(arrays)
        self.results = [
            self.operands[written_over[k]]
            if k in how.carried and k in written_over
            else np.empty(shape if k in how.carried else (how.steps, *shape), dtype)
            for k, (shape, dtype) in enumerate(forms)
        ]
        inputs, outputs = len(self.operands), len(self.results)
        examples = np.zeros(inputs, np.int64)
        moved = np.zeros(inputs + outputs, np.int64)
        over = np.full(outputs, -1)
        for number in how.gathered:
            whole = arrays[number]
            examples[number], moved[number] = whole.ctypes.data, whole.nbytes // max(1, len(whole))
            if how.rows is not None and how.batch != 1:
                self.operands[number] = np.empty((how.batch, *whole.shape[1:]), whole.dtype)
        for number, stack in enumerate(self.results):
            if number not in how.carried:
                moved[inputs + number] = stack.nbytes // how.steps
                over[number] = written_over.get(number, -1)
        rows = None if how.rows is None else np.ascontiguousarray(how.rows, np.int64)
        exchanged = np.array(_exchanges(graph, how, written_over), np.int64)
        self._homes = np.arange(inputs + outputs)
        self._kept = (rows, examples, moved, over, exchanged)
        self._table = _Text(
            how.steps,
            how.batch,
            inputs,
            outputs,
            *(None if table is None else table.ctypes.data for table in self._kept),
            len(exchanged),
            self._homes.ctypes.data,
        )

    @property
    def address(self) -> int:
        return ctypes.addressof(self._table)

    def outcome(self) -> list[NDArray]:
        """The results, after all steps."""
        buffers = [*self.operands, *self.results]
        carried = self._how.carried
        return [buffers[self._homes[carried[k]]] if k in carried else stack for k, stack in enumerate(self.results)]


def _exchanges(graph: Graph, how: Repetition, written_over: Mapping[int, int]) -> list[tuple[int, int]]:
    """Where the buffers of slots go after a step: (to, from).

    A carried value lies in the operand that it was written over, or in a buffer of its own; from there it becomes the next operand.
    The buffers that it leaves are as many, and of the types, as the results that are written to buffers of their own.
    """
    first = len(graph.inputs)
    values: list[Value] = [*graph.inputs, *graph.outputs]
    places = {target: written_over.get(number, first + number) for number, target in how.carried.items()}
    own = [first + number for number in how.carried if number not in written_over]
    free = sorted({*places, *own} - set(places.values()))
    moves = list(places.items())
    for slot in own:
        source = next(k for k in free if values[k].type == values[slot].type)
        free.remove(source)
        moves.append((slot, source))
    return [(to, source) for to, source in moves if to != source]
