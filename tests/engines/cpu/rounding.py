"""How far from each other results may be that differ by rounding alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chainrule.core.dtypes import is_float
from chainrule.engines.binding import bind_batch
from chainrule.engines.reference import ReferenceProgram
from chainrule.engines.reference.engine import make_kernel
from chainrule.ir.graph import Node

# What rounds its results; others pass numbers on, or decide by them. Of sums, the terms decide what rounding may do.
SUMS = {"contract", "reduce_sum", "scatter_add"}
ROUNDING = {"add", "sub", "mul", "div", "sqrt", "pow", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "logistic"}
ROUNDING |= {"erf"}


def jittered(program: ReferenceProgram, arrays: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """The results where every operand and every result of arithmetic is off by up to two units of its last place.

    A sum is off by that much of the sum of its terms without signs. How far results are from the usual ones is what rounding may
    change. Parker, Monte Carlo arithmetic, 1997.
    """
    rng, batch = np.random.default_rng(seed), bind_batch(program.graph, arrays)

    def off(array: np.ndarray, size: np.ndarray) -> np.ndarray:
        if not is_float(array.dtype):
            return array
        last = 2.0**-8 if array.dtype.itemsize == 2 else float(np.finfo(array.dtype).eps)
        return (array + last * rng.uniform(-2, 2, array.shape) * size).astype(array.dtype)

    def observer(node: Node, operands: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
        result = results[0]
        if node.primitive.name in SUMS and is_float(result.dtype):
            terms = [np.abs(x) if is_float(x.dtype) else x for x in operands]
            result[...] = off(result, np.asarray(make_kernel(node, batch)(*terms)).astype(np.float64))
        elif node.primitive.name in ROUNDING:
            result[...] = off(result, result.astype(np.float64))

    return [np.array(result) for result in program.observe([off(np.array(x), x) for x in arrays], observer)]
