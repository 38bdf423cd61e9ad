"""What a compiled program has to agree with: itself on any number of threads, to the bit, and the reference engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chainrule.engines.api import Program
from chainrule.engines.cpu.loading import load_runtime
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.graph import Graph
from chainrule.ir.sizes import shape_at

THREADS = (1, 2, 3, 5)
# By element type, of the largest number of a result.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def normal_operands(graph: Graph, batch: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape_at(v.shape, batch)).astype(v.dtype) for v in graph.inputs]


def same_bits(program: Program, operands: Sequence[np.ndarray], threads: Sequence[int] = THREADS) -> list[np.ndarray]:
    """The results of a program, which are the same bits for each of these numbers of threads."""
    found = []
    for count in threads:
        with load_runtime().using_threads(count):
            found.append([np.array(result) for result in program(list(operands))])
    for count, results in zip(threads, found, strict=True):
        for number, (result, first) in enumerate(zip(results, found[0], strict=True)):
            assert result.tobytes() == first.tobytes(), f"result {number} is another with {count} threads"
    return found[0]


def check_near_reference(
    graph: Graph, operands: Sequence[np.ndarray], found: Sequence[np.ndarray], tolerance: float | None = None
) -> None:
    """Results differ from those of the reference engine by little, measured by the largest number of each."""
    for result, expected in zip(found, REFERENCE.load(graph)(list(operands)), strict=True):
        relative = TOLERANCE[str(expected.dtype)] if tolerance is None else tolerance
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(result, expected, rtol=0, atol=relative * scale)
