"""``engine="cpu"``: graphs compiled to C and called through one function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chainrule.core.alignment import maker
from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import ShapeError
from chainrule.engines.api import AS_IT_IS, Preparation
from chainrule.engines.binding import bind_batch
from chainrule.engines.cpu.debugging import watcher
from chainrule.engines.cpu.generated import generate, outcome
from chainrule.engines.cpu.layout import LAYOUT, call_table
from chainrule.engines.cpu.loading import load_library
from chainrule.engines.cpu.lowering import lower, steps_of
from chainrule.engines.cpu.pages import working_memory
from chainrule.engines.cpu.peak import measured_peak
from chainrule.engines.cpu.repetition import Schedule
from chainrule.engines.cpu.timing import profile_of
from chainrule.engines.cpu.toolchain import CompilerError, NoToolchain, Toolchain, find_toolchain
from chainrule.engines.cpu.work import Work
from chainrule.engines.profile import Profile
from chainrule.engines.repetition import Repetition
from chainrule.ir.graph import Graph
from chainrule.ir.sizes import BATCH, at, shape_at

NDArray = np.ndarray[Any, Any]

_ALIGNMENT = 64


class CpuProgram:
    """A graph compiled to a library. Several threads may call it at once.

    ``c_source`` is its C, and ``steps`` are the names and texts of all steps on the way to it.
    """

    def __init__(
        self,
        graph: Graph,
        donated: frozenset[int],
        toolchain: Toolchain,
        preparation: Preparation = AS_IT_IS,
        *,
        profiled: bool = False,
    ) -> None:
        self._given, self._preparation = graph, preparation
        self._donated, self._toolchain = donated, toolchain
        self._work: Sequence[Work] = ()
        if profiled:
            source = lower(self.graph, donated, toolchain.vector_bytes, watcher(graph.name), profiled=True).source
            self._work = source.work
            generated = outcome(self.graph, source, toolchain)
        else:
            generated = generate(graph, donated, preparation, toolchain)
        self.c_source = generated.text
        self._constants = [np.ascontiguousarray(array) for array in generated.constants]
        self._written_over = generated.written_over
        self._searched = generated.searched
        self._library = load_library(generated.text, name=graph.name, toolchain=toolchain, key=generated.library)
        for size in (self._library.cr_arena, self._library.cr_borrowed):
            size.restype = ctypes.c_long
            size.argtypes = [ctypes.c_long]
        if LAYOUT is not None:
            self._library.cr_layout(ctypes.c_long(LAYOUT.items), ctypes.c_long(LAYOUT.fields))
        self._call = self._library.cr_call
        self._call.restype = ctypes.c_long
        self._call.argtypes = [ctypes.c_void_p]
        self._call_often = self._library.cr_call_often
        self._call_often.restype = ctypes.c_long
        self._call_often.argtypes = [ctypes.c_void_p]
        self._addresses = np.array([array.ctypes.data for array in self._constants], np.int64)
        self._addresses_at: int = self._addresses.ctypes.data
        self._batch_at = _place_of_batch(graph)
        self._run = self._library.cr_run
        self._run.restype = None
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
        self._repeat = self._library.cr_repeat
        self._repeat.restype = None
        self._repeat.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._forms: dict[int, _Form] = {}
        self._schedules: dict[Hashable, Schedule] = {}
        self._arenas: list[NDArray] = []

    @property
    def graph(self) -> Graph:
        """What runs. It is made of the graph given when it is first asked for: a program from the cache needs only the types of its
        inputs and outputs, which are the same."""
        return self._preparation.run(self._given)

    @property
    def steps(self) -> list[tuple[str, str]]:
        """How the graph became C: the name of every step of the lowering, and what it made, as text."""
        return steps_of(self.graph, self._donated, self._toolchain.vector_bytes)

    def __call__(self, arrays: Sequence[NDArray]) -> list[NDArray]:
        form = self._form(arrays)
        operands = [np.require(array, requirements=("C", "A")) for array in arrays]
        results = [make(shape, dtype) if over is None else operands[over] for make, shape, dtype, over in form.results]
        arena = self._arena(form.arena)
        table = _pointers((*operands, *results, *self._constants))
        self._run(table, arena.ctypes.data, form.batch)
        self._arenas.append(arena)
        return results

    def working_bytes(self, batch: int) -> tuple[int, int]:
        """The bytes that a run works in besides operands and results, and those that each thread has for its tasks in addition."""
        return self._library.cr_arena(batch), self._library.cr_borrowed(batch)

    def attempt(self, arrays: tuple[NDArray, ...]) -> list[NDArray] | None:
        batch = 1
        if self._batch_at is not None:
            number, axis = self._batch_at
            try:
                batch = arrays[number].shape[axis]
            except IndexError:
                return None
        form = self._forms.get(batch)
        if form is None or form.table is None:
            return None
        results = [make(shape, dtype) if over is None else arrays[over] for make, shape, dtype, over in form.results]
        arena = self._arena(form.arena)
        objects = (form.table, arena, *arrays, *results)
        failed = self._call(id(objects))
        self._arenas.append(arena)
        return None if failed else results

    def profile(self, arrays: Sequence[NDArray], repeats: int) -> Profile:
        """Where the time of a run goes: the program is built again with a clock around every loop nest, and run ``repeats`` times.

        The arrays are not written over: the runs have copies of them.
        """
        timed = CpuProgram(self.graph, self._donated, self._toolchain, profiled=True)
        batch = bind_batch(self._given, arrays)

        def run(arrays: Sequence[NDArray]) -> None:
            if timed.attempt(tuple(arrays)) is None:
                timed(arrays)

        return profile_of(
            self._given.name,
            run,
            timed._library,
            timed._work,
            arrays,
            batch,
            repeats,
            measured_peak(self._toolchain),
        )

    def repeat(self, arrays: Sequence[NDArray], how: Repetition) -> list[NDArray]:
        """All steps in one native call. Rows that follow each other, or that come one by one, are read where they lie."""
        how.check_rows(arrays)
        key = (how.batch, how.rows is None, how.gathered, *how.carried.items())
        schedule = self._schedules.get(key)
        if schedule is None:
            schedule = self._schedules[key] = Schedule(self._given, how, self._written_over)
        form = self._forms.get(how.batch) or self._form(
            [_one_batch(array, how) if k in how.gathered else array for k, array in enumerate(arrays)]
        )
        if schedule.is_still and LAYOUT is not None:
            results = self._repeat_in_place(schedule, form, how, arrays)
            if results is not None:
                return results
        running = schedule.begin(how, arrays)
        arena = self._arena(form.arena)
        table = running.pointers(self._constants)
        self._repeat(table.ctypes.data, arena.ctypes.data, running.address)
        self._arenas.append(arena)
        return running.outcome()

    def _repeat_in_place(
        self, schedule: Schedule, form: _Form, how: Repetition, arrays: Sequence[NDArray]
    ) -> list[NDArray] | None:
        """All steps, where C can read the arrays as they are; None, with nothing done, where it cannot."""
        arena = self._arena(form.arena + schedule.buffers)
        objects, results = schedule.objects(how, arrays, self._addresses_at, arena)
        failed = self._call_often(id(objects))
        self._arenas.append(arena)
        return None if failed else results

    def _arena(self, size: int) -> NDArray:
        """Working memory that no other call is using."""
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = working_memory(size)
        return arena if arena.size >= size else working_memory(size)

    def _form(self, arrays: Sequence[NDArray]) -> _Form:
        """What holds for all calls with the batch size of these arrays, which are checked."""
        batch = bind_batch(self._given, arrays)
        if batch in self._forms:
            return self._forms[batch]
        for where, size in self._searched:
            if at(size, batch) == 0:
                raise ShapeError(f"{where}: the largest element of an empty batch is not defined")
        written = set(self._written_over.values())
        operands = [
            (shape_at(v.shape, batch), to_numpy(v.dtype), k in written) for k, v in enumerate(self._given.inputs)
        ]
        types = [(shape_at(v.shape, batch), to_numpy(v.dtype)) for v in self._given.outputs]
        form = _Form(
            batch,
            call_table(batch, self._addresses_at, operands) if LAYOUT is not None else None,
            [
                _Result(maker(shape, dtype), shape, dtype, self._written_over.get(number))
                for number, (shape, dtype) in enumerate(types)
            ],
            self._library.cr_arena(batch) + _ALIGNMENT,
        )
        return self._forms.setdefault(batch, form)


class _Result(NamedTuple):
    """What makes an array for a result, its shape and element type, and the operand that it is written over, if any."""

    make: Callable[[tuple[int, ...], np.dtype[Any]], NDArray]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    over: int | None


@dataclass(frozen=True, slots=True)
class _Form:
    """What calls with one batch size have in common: their table, the results, and the bytes of working memory."""

    batch: int
    table: NDArray | None
    results: list[_Result]
    arena: int


def _pointers(arrays: Sequence[NDArray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _place_of_batch(graph: Graph) -> tuple[int, int] | None:
    """An operand and an axis whose size is the batch size; None where no operand mentions it."""
    places = ((k, axis) for k, v in enumerate(graph.inputs) for axis, size in enumerate(v.shape) if size == BATCH)
    return next(places, None)


def _one_batch(array: NDArray, how: Repetition) -> NDArray:
    """An array of the shape and type that one step sees."""
    return np.broadcast_to(np.empty(array.shape[1:], array.dtype), (how.batch, *array.shape[1:]))


class CpuEngine:
    """Turns graphs into native programs, with the compiler given or else the one found on this machine."""

    name = "cpu"

    def __init__(self, toolchain: Toolchain | None = None) -> None:
        self._toolchain = toolchain

    def problem(self) -> str | None:
        found = self._toolchain or find_toolchain()
        if isinstance(found, NoToolchain):
            return f"the cpu engine needs a C compiler: {found.reason}"
        return None

    def load(
        self, graph: Graph, donated: frozenset[int] = frozenset(), preparation: Preparation = AS_IT_IS
    ) -> CpuProgram:
        """Compile what the preparation makes of a graph, or take it from the cache.

        Raises :class:`CompilerError` where there is no working C compiler.
        """
        found = self._toolchain or find_toolchain()
        if isinstance(found, NoToolchain):
            raise CompilerError(found.reason)
        return CpuProgram(graph, donated, found, preparation)


ENGINE = CpuEngine()
