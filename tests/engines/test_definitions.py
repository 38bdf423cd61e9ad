"""The reference engine computes what the slow definitions, written in plain Python, say."""

from __future__ import annotations

import numpy as np
import pytest

from chainrule.core.dtypes import ALL
from chainrule.engines.reference import ENGINE
from chainrule.testing import at_batch, cases, interpret

TOLERANCE = {"float32": 2e-6, "float64": 2e-14}
CASES = [pytest.param(dtype, case, id=f"{dtype} {case}") for dtype in sorted(ALL) for case in cases(dtype)]


@pytest.mark.parametrize(("dtype", "case"), CASES)
def test_a_primitive_is_what_it_is_defined_to_be(dtype, case):
    graph = case.graph()
    program = ENGINE.load(graph)
    for batch in (1, 2, 5) if case.is_symbolic else (5,):
        operands = case.operands(batch)
        results = program(operands)
        for found, fixed, expected in zip(
            results, ENGINE.load(at_batch(graph, batch))(operands), interpret(graph, operands, batch), strict=True
        ):
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            np.testing.assert_array_equal(found, fixed)
            tolerance = TOLERANCE.get(str(found.dtype), 0)
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        assert [value.type.dtype for value in graph.outputs] == [str(found.dtype) for found in results]
