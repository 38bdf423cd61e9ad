"""What ``c/repeat.h`` needs to know to run a program many times: what moves, what is filled, copied out and exchanged."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.alignment import maker
from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import ShapeError
from chainrule.engines.cpu.layout import call_table
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


# Tables for so many numbers of examples are kept.
_TABLES_KEPT = 32
# The tuple for C, and those of its arrays that are results.
Objects = tuple[tuple[NDArray, ...], list[NDArray]]


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
        self._is_written = frozenset(written_over.values())
        # Where nothing changes places, all that C needs besides arrays is the same each time but for the number of steps.
        self.is_still = not len(self._tables[-1])
        text = _Text(1, how.batch, inputs, outputs, how.rows is not None, None, *map(_address, self._tables[:2]))
        self._words = np.frombuffer(bytes(text), np.int64)
        self._operand_tables: dict[int, NDArray] = {}
        #: Bytes of the buffers into which the rows of a step are gathered.
        self.buffers = sum(-(-int(moved[k]) * how.batch // 64) * 64 for k in how.gathered) if self._shuffled else 0

    def objects(self, how: Repetition, arrays: Sequence[NDArray], constants: int, arena: NDArray) -> Objects:
        """What ``cr_call_often`` takes, and the results in it. ``constants`` is their address; the schedule must be still."""
        count = next((len(arrays[k]) if arrays[k].ndim else 0 for k in self._gathered), 0)
        table = self._operand_tables.get(count)
        if table is None:
            if len(self._operand_tables) == _TABLES_KEPT:
                self._operand_tables.clear()
            operands = [
                ((count, *shape[1:]) if k in self._gathered else shape, dtype, k in self._is_written)
                for k, (_, shape, dtype) in enumerate(self._inputs)
            ]
            table = self._operand_tables[count] = call_table(self._batch, constants, operands)
        words = self._words.copy()
        words[0] = how.steps
        rows = words if how.rows is None else np.ascontiguousarray(how.rows, np.int64)
        results = self._results(how, arrays)
        return (table, arena, words, rows, *arrays, *results), results

    def _results(self, how: Repetition, operands: Sequence[NDArray]) -> list[NDArray]:
        shapes = [shape if k in self._carried else (how.steps, *shape) for k, (_, shape, _) in enumerate(self._outputs)]
        return [
            maker(shape, dtype)(shape, dtype) if over is None else operands[over]
            for shape, (over, _, dtype) in zip(shapes, self._outputs, strict=True)
        ]

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
                operands[number] = maker(shape, dtype)(shape, dtype)
        return Running(how, operands, self._results(how, operands), examples, self._tables)


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
