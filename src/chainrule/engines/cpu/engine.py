"""``engine="cpu"``: graphs compiled to C and called through one function."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import ShapeError
from chainrule.engines.cpu.emit import emit_program
from chainrule.engines.cpu.inline import inline_calls
from chainrule.engines.cpu.loading import load_library
from chainrule.engines.cpu.toolchain import CompilerError, NoToolchain, Toolchain, find_toolchain
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Size, at, is_symbolic, shape_at
from chainrule.passes.prune import prune

NDArray = np.ndarray[Any, Any]

_ALIGNMENT = 64


class CpuProgram:
    """A graph compiled to a library; ``source`` is its C. Several threads may call it at once."""

    def __init__(self, graph: Graph, donated: frozenset[int], toolchain: Toolchain) -> None:
        self.graph = graph
        lowered = prune(inline_calls(graph))
        source = emit_program(lowered, donated, toolchain.vector_bytes)
        self.c_source = source.text
        self._constants = [np.ascontiguousarray(source.arrays[v].attributes["value"]) for v in source.constants]
        self._written_over = source.written_over
        self._needs_elements = list(_nonempty_axes(lowered))
        self._library = load_library(source.text, name=graph.name, toolchain=toolchain)
        self._library.cr_arena.restype = ctypes.c_long
        self._library.cr_arena.argtypes = [ctypes.c_long]
        self._library.cr_run.restype = None
        self._library.cr_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
        self._types = [(value.shape, to_numpy(value.dtype)) for value in graph.outputs]
        self._arenas: list[tuple[int, NDArray]] = []

    def __call__(self, arrays: Sequence[NDArray]) -> list[NDArray]:
        batch = bind_batch(self.graph, arrays)
        for node, size in self._needs_elements:
            if at(size, batch) == 0:
                raise ShapeError(
                    f"{node.primitive.name} in {node.origin}: the largest element of an empty batch is not defined"
                )
        operands = [np.require(array, requirements=("C", "A")) for array in arrays]
        results = [
            operands[self._written_over[number]]
            if number in self._written_over
            else np.empty(shape_at(shape, batch), dtype)
            for number, (shape, dtype) in enumerate(self._types)
        ]
        arena = self._arena(batch)
        table = np.array([array.ctypes.data for array in (*operands, *results, *self._constants)], np.uintp)
        start = arena[1].ctypes.data
        self._library.cr_run(table.ctypes.data, start + -start % _ALIGNMENT, batch)
        self._arenas.append(arena)
        return results

    def _arena(self, batch: int) -> tuple[int, NDArray]:
        """Working memory that no other call is using."""
        size = self._library.cr_arena(batch)
        try:
            kept = self._arenas.pop()
        except IndexError:
            kept = (-1, np.empty(0, np.uint8))
        return kept if kept[0] >= size else (size, np.empty(size + _ALIGNMENT, np.uint8))


class CpuEngine:
    """Turns graphs into native programs, with the compiler given or else the one found on this machine."""

    name = "cpu"

    def __init__(self, toolchain: Toolchain | None = None) -> None:
        self._toolchain = toolchain

    def load(self, graph: Graph, donated: frozenset[int] = frozenset()) -> CpuProgram:
        """Compile a graph. Raises :class:`CompilerError` where there is no working C compiler."""
        found = self._toolchain or find_toolchain()
        if isinstance(found, NoToolchain):
            raise CompilerError(found.reason)
        return CpuProgram(graph, donated, found)


ENGINE = CpuEngine()


def bind_batch(graph: Graph, arrays: Sequence[NDArray]) -> int:
    """The batch size that the given arrays have, after checking every type; 1 where none mentions it.

    Raises :class:`ShapeError` naming the input whose shape or element type does not fit.
    """
    batch: int | None = None
    for value, array in zip(graph.inputs, arrays, strict=True):
        if array.ndim != value.type.rank or array.dtype != to_numpy(value.dtype):
            raise _misfit(value, array)
        if batch is None:
            batch = next((_solve(d, n) for d, n in zip(value.shape, array.shape) if isinstance(d, Size)), None)
    bound = 1 if batch is None else batch
    for value, array in zip(graph.inputs, arrays, strict=True):
        if shape_at(value.shape, bound) != array.shape:
            raise _misfit(value, array)
    return bound


def _solve(dim: Size, size: int) -> int | None:
    if len(dim.coefficients) != 2:
        return None
    offset, slope = dim.coefficients
    return (size - offset) // slope


def _misfit(value: Value, array: NDArray) -> ShapeError:
    name = f"input {value.name!r}" if value.name else "an input"
    return ShapeError(f"{name} should be {value.type}, not {array.dtype} of shape {array.shape}")


def _nonempty_axes(graph: Graph) -> Any:
    """The searches for a largest element along axes whose size depends on the batch."""
    found: list[tuple[Node, Any]] = []
    for node in graph.nodes:
        if node.primitive.name in ("reduce_max", "argmax"):
            axes = node.attributes["axes"] if node.primitive.name == "reduce_max" else (node.attributes["axis"],)
            found.extend((node, node.inputs[0].shape[k]) for k in axes if is_symbolic((node.inputs[0].shape[k],)))
        for _, body in node.subgraphs():
            found.extend(_nonempty_axes(body))
    return found
