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
        *((name, ctypes.c_int64) for name in ("steps", "batch", "slots")),
        ("rows", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("moving", "gathered", "reported", "exchanged")),
        *((name, ctypes.c_int64) for name in ("movings", "gathereds", "reporteds", "exchangeds")),
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
        first = len(graph.inputs)
        self.operands = list(arrays)
        self.results = [
            self.operands[written_over[k]]
            if k in how.carried and k in written_over
            else np.empty(shape if k in how.carried else (how.steps, *shape), dtype)
            for k, (shape, dtype) in enumerate(forms)
        ]
        moving, gathered, reported = [], [], []
        for number in sorted(how.gathered):
            example = arrays[number].nbytes // max(1, len(arrays[number]))
            shape = (how.batch, *arrays[number].shape[1:])
            if how.rows is None:
                self.operands[number] = arrays[number][: how.batch]
                moving.append((number, how.batch * example))
            else:
                gathered.append((number, example, arrays[number].ctypes.data))
                if how.batch != 1:
                    self.operands[number] = np.empty(shape, arrays[number].dtype)
        for number, stack in enumerate(self.results):
            if number not in how.carried:
                step = stack.nbytes // how.steps
                if number in written_over:
                    reported.append((written_over[number], step, stack.ctypes.data))
                else:
                    moving.append((first + number, step))
        self._homes = np.arange(first + len(graph.outputs))
        rows = None if how.rows is None else np.ascontiguousarray(how.rows, np.int64)
        lists = [
            np.array(rows, np.int64) for rows in (moving, gathered, reported, _exchanges(graph, how, written_over))
        ]
        self._kept = (rows, *lists)
        self._table = _Text(
            how.steps,
            how.batch,
            len(self._homes),
            None if rows is None else rows.ctypes.data,
            *(table.ctypes.data for table in lists),
            *(len(table) for table in lists),
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
