"""What ``c/repeat.h`` needs to know to run a program many times: what moves, what is filled, copied out and exchanged."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import ShapeError
from chainrule.engines.repetition import Repetition
from chainrule.ir.graph import Graph, Value
from chainrule.ir.sizes import shape_at

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
    """What the repetitions of a program have in common that differ only in their arrays, rows, and number of steps."""

    def __init__(self, graph: Graph, how: Repetition, written_over: Mapping[int, int]) -> None:
        how.check_state(graph)
        self._carried, self._gathered = dict(how.carried), sorted(how.gathered)
        self._batch, self._shuffled = how.batch, how.rows is not None and how.batch != 1
        self._inputs = [(v.name, shape_at(v.shape, how.batch), to_numpy(v.dtype)) for v in graph.inputs]
        self._outputs = [
            (written_over.get(k) if k in how.carried else None, shape_at(v.shape, how.batch), to_numpy(v.dtype))
            for k, v in enumerate(graph.outputs)
        ]
        inputs, outputs = len(graph.inputs), len(graph.outputs)
        moved = np.zeros(inputs + outputs, np.int64)
        over = np.full(outputs, -1)
        for number in how.gathered:
            _, shape, dtype = self._inputs[number]
            moved[number] = _bytes(shape[1:], dtype)
        for number, (_, shape, dtype) in enumerate(self._outputs):
            if number not in how.carried:
                moved[inputs + number] = _bytes(shape, dtype)
                over[number] = written_over.get(number, -1)
        self._tables = (moved, over, np.array(_exchanges(graph, how, written_over), np.int64))

    def begin(self, how: Repetition, arrays: Sequence[NDArray]) -> Running:
        """Results for these arrays. Raises :class:`ShapeError` where one does not fit."""
        operands = list(arrays)
        examples = [0] * len(operands)
        for number, ((name, shape, dtype), array) in enumerate(zip(self._inputs, arrays, strict=True)):
            found = (self._batch, *array.shape[1:]) if number in how.gathered else array.shape
            if found != shape or array.dtype != dtype:
                raise ShapeError(f"input {name!r} should be {dtype} of shape {shape}, not {array.dtype} {found}")
            if not (array.flags.c_contiguous and array.flags.aligned):
                operands[number] = np.require(array, requirements=("C", "A"))
        for number in self._gathered:
            examples[number] = _address(operands[number])
            if self._shuffled:
                _, shape, dtype = self._inputs[number]
                operands[number] = np.empty(shape, dtype)
        results = [
            np.empty(shape if k in self._carried else (how.steps, *shape), dtype) if over is None else operands[over]
            for k, (over, shape, dtype) in enumerate(self._outputs)
        ]
        return Running(how, operands, results, examples, self._tables)


class Running:
    """One repetition: the first buffers of the program's slots, and the table for C."""

    def __init__(
        self,
        how: Repetition,
        operands: list[NDArray],
        results: list[NDArray],
        examples: Sequence[int],
        tables: tuple[NDArray, NDArray, NDArray],
    ) -> None:
        self._how = how
        self._buffers = [*operands, *results]
        self._inputs = len(operands)
        self._homes = np.arange(len(self._buffers))
        rows = None if how.rows is None else np.ascontiguousarray(how.rows, np.int64)
        self._kept = (rows, np.array(examples, np.int64), *tables)
        self._table = _Text(
            how.steps,
            how.batch,
            self._inputs,
            len(results),
            *(None if table is None else _address(table) for table in self._kept),
            len(tables[-1]),
            _address(self._homes),
        )

    @property
    def address(self) -> int:
        return ctypes.addressof(self._table)

    def pointers(self, constants: Sequence[NDArray]) -> NDArray:
        """The program's table of arrays."""
        return np.array([_address(array) for array in (*self._buffers, *constants)], np.int64)

    def outcome(self) -> list[NDArray]:
        """The results, after all steps."""
        homes, carried = self._homes.tolist(), self._how.carried
        return [
            self._buffers[homes[carried[k]]] if k in carried else stack
            for k, stack in enumerate(self._buffers[self._inputs :])
        ]


def _address(array: NDArray) -> int:
    address: int = array.__array_interface__["data"][0]  # takes half the time of array.ctypes.data
    return address


def _bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


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
