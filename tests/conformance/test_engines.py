"""Primitive × engine × element type × direction: every engine agrees with the definitions and with the gradients.

The forward direction is compared with the slow definitions, the backward direction with the reference engine in float64, which
is itself compared with differences in ``tests/grad``.
"""

from __future__ import annotations

import numpy as np
import pytest

from chainrule.core.dtypes import ALL, FLOATS
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.grad import STANDARD, backprop_graph
from chainrule.grad.standard import NOT_DIFFERENTIABLE
from chainrule.testing import cases, interpret, random_cotangents
from chainrule.testing.case import float_positions
from chainrule.transforms.engines import ENGINES as ALL_ENGINES

# The engines that work on this machine: the cpu engine needs a C compiler.
ENGINES = {name: engine for name, engine in ALL_ENGINES.items() if engine.problem() is None}
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}
GRADIENT_TOLERANCE = {**TOLERANCE, "float32": 1e-5}
BATCHES = (1, 7)
CASES = [(dtype, case) for dtype in sorted(ALL) for case in cases(dtype)]


def label(row):
    return " ".join(map(str, row))


def agree(found, expected, tolerances=TOLERANCE):
    """Values of bfloat16 are rounded once, so they are equal."""
    assert found.shape == expected.shape
    tolerance = tolerances.get(str(found.dtype), 0)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def gradients_agree(found, expected, primitive):
    """Gradients in bfloat16 are rounded where they arrive and where they go, and so is what a loop does in every step."""
    if found.dtype != "bfloat16":
        agree(found, expected, GRADIENT_TOLERANCE)
    elif expected.size:
        rounding = 2**-5 if primitive == "scan" else 2**-7
        np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding * np.abs(expected).max())


# A library for every program takes a compiler several times as long as many programs in one. That is how they are tested in
# ``tests/engines/cpu/test_straight.py``; here are some of those in float32, and the others are left to the slow tests.
SAMPLE = 5


def is_left_out(engine, number, row):
    return engine == "cpu" and (row[0] != "float32" or number % SAMPLE > 0)


FORWARD = [
    pytest.param(engine, row, id=f"{label(row)}-{engine}", marks=[pytest.mark.slow] if seldom else [])
    for number, row in enumerate(CASES)
    for engine in ENGINES
    for seldom in (is_left_out(engine, number, row),)
]


@pytest.mark.parametrize(("engine", "row"), FORWARD)
def test_forward(engine, row):
    _, case = row
    graph = case.graph()
    program = ENGINES[engine].load(graph)
    for batch in BATCHES if case.is_symbolic else BATCHES[:1]:
        operands = case.operands(batch)
        for found, expected in zip(program(operands), interpret(graph, operands, batch), strict=True):
            assert found.dtype == expected.dtype
            agree(found, expected)


MOVING = [
    pytest.param((engine, *row), id=f"{engine} {label(row)}", marks=[pytest.mark.slow] if seldom else [])
    for engine in ENGINES
    for number, row in enumerate(CASES)
    for wide in (row[0] == "float64" and engine == "reference",)
    for seldom in (is_left_out(engine, number, row),)
    if row[0] in FLOATS and not wide and row[1].primitive not in NOT_DIFFERENTIABLE
]


@pytest.mark.parametrize("row", MOVING)
def test_backward(row):
    engine, dtype, case = row
    (wide,) = (other for other in cases("float64") if str(other) == str(case))
    graph, wide_graph = case.graph(), wide.graph()
    backward = backprop_graph(graph, STANDARD, float_positions(graph.input_types))
    wide_backward = backprop_graph(wide_graph, STANDARD, float_positions(wide_graph.input_types))
    program, reference = ENGINES[engine].load(backward), REFERENCE.load(wide_backward)
    for batch in BATCHES if case.is_symbolic else BATCHES[:1]:
        operands = case.operands(batch)
        cotangents = random_cotangents(graph, REFERENCE.load(graph), operands)
        widened = [
            x.astype(value.dtype) for x, value in zip([*operands, *cotangents], wide_backward.inputs, strict=True)
        ]
        found = program([*operands, *cotangents])[len(graph.outputs) :]
        expected = reference(widened)[len(graph.outputs) :]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == dtype
            gradients_agree(ours, theirs, case.primitive)
