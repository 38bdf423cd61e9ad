"""Gradients of whole graphs against differences: the check behind every rule of a rule set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS, is_float, to_numpy
from chainrule.engines.api import Program
from chainrule.engines.reference import ENGINE
from chainrule.grad import STANDARD, RuleSet, backprop_graph
from chainrule.ir.graph import Graph
from chainrule.testing.case import float_positions

NDArray = np.ndarray[Any, Any]

# Weights of the central difference of sixth order at ±h, ±2h and ±3h, over 60h.
_STENCIL = ((1, 45.0), (2, -9.0), (3, 1.0))


def numerical_cotangents(
    program: Program, arrays: Sequence[NDArray], cotangents: Sequence[NDArray], wrt: Sequence[int], step: float = 1e-3
) -> list[NDArray]:
    """Differences of ``Σ cotangent · result`` with respect to every element of the operands numbered ``wrt``.

    ``f'(x) ≈ [45(f(x+h) - f(x-h)) - 9(f(x+2h) - f(x-2h)) + (f(x+3h) - f(x-3h))] / 60h`` in float64.
    """

    def total(changed: Sequence[NDArray]) -> float:
        results = program(changed)
        return sum(
            float((g * result).sum())
            for g, result in zip(cotangents, results, strict=False)
            if is_float(result.dtype) and result.size
        )

    found = []
    for number in wrt:
        gradient = np.zeros(arrays[number].shape, np.float64)
        for place in np.ndindex(gradient.shape):
            for reach, weight in _STENCIL:
                for sign in (1, -1):
                    moved = [x.copy() if k == number else x for k, x in enumerate(arrays)]
                    moved[number][place] += sign * reach * step
                    gradient[place] += sign * weight * total(moved) / (60 * step)
        found.append(gradient)
    return found


def random_cotangents(graph: Graph, program: Program, arrays: Sequence[NDArray], seed: int = 0) -> list[NDArray]:
    """A random cotangent for every result, zero for results without a gradient."""
    rng = np.random.default_rng(seed)
    drawn = []
    for value, result in zip(graph.outputs, program(arrays), strict=True):
        numbers = np.asarray(rng.normal(size=result.shape))
        drawn.append((numbers if value.dtype in FLOATS else 0 * numbers).astype(to_numpy(value.dtype)))
    return drawn


def gradient_error(
    graph: Graph, arrays: Sequence[NDArray], *, order: int = 1, rules: RuleSet = STANDARD, step: float = 1e-3
) -> float:
    """The largest ``|found - expected| / max(1, |expected|)`` of backpropagation against differences.

    Of second ``order``, the graph checked is the backward graph itself: its gradient is that of the analytic gradient, with
    respect to the operands and to the cotangents.
    """
    program = ENGINE.load(graph)
    wrt = float_positions(graph.input_types)
    cotangents = random_cotangents(graph, program, arrays, seed=order)
    backward = backprop_graph(graph, rules, wrt)
    if order > 1:
        inner = [*arrays, *cotangents]
        return gradient_error(backward, inner, order=order - 1, rules=rules, step=step)
    found = ENGINE.load(backward)([*arrays, *cotangents])[len(graph.outputs) :]
    expected = numerical_cotangents(program, arrays, cotangents, wrt, step)
    return max((_error(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def _error(found: NDArray, expected: NDArray) -> float:
    if not expected.size:
        return 0.0
    error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    return float(np.where(np.isnan(error), np.inf, error).max())
