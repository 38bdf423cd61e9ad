"""The table of batching rules: complete, and every case equal to a loop over the elements, whichever operands are batched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from chainrule.batching import RULES
from chainrule.batching.rules import batched_graph
from chainrule.engines.reference import ENGINE
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.verify import verify
from chainrule.testing import cases

ELEMENTS = 3
CASES = [
    (dtype, case)
    for dtype in ("float64", "int64", "bool")  # no rule looks at the element type
    for case in cases(dtype)
    if not case.is_symbolic and case.graph().inputs
]


def test_every_primitive_has_a_rule() -> None:
    assert set(RULES) == set(PRIMITIVES)


@pytest.mark.parametrize(("dtype", "case"), CASES, ids=lambda item: str(item))
def test_batched_is_one_after_another(dtype, case):
    graph = case.graph()
    program = ENGINE.load(graph)
    drawn = [case.operands(draw) for draw in range(1, ELEMENTS + 1)]
    choices = [which for which in itertools.product((True, False), repeat=len(graph.inputs)) if any(which)]
    for which in choices[:4]:
        operands = [
            np.stack([operands[k] for operands in drawn]) if many else drawn[0][k] for k, many in enumerate(which)
        ]
        found = ENGINE.load(verify(batched_graph(graph, ELEMENTS, which)))(operands)
        for element in range(ELEMENTS):
            one = [drawn[element][k] if many else drawn[0][k] for k, many in enumerate(which)]
            for result, expected in zip(found, program(one), strict=True):
                assert result.shape == (ELEMENTS, *expected.shape)
                assert result.dtype == expected.dtype
                tolerance = {"float32": 1e-5, "float64": 1e-13}.get(str(expected.dtype), 0)
                np.testing.assert_allclose(result[element], expected, rtol=tolerance, atol=tolerance)
