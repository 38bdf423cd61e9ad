"""The rule of every primitive against differences in float64, to first and second order, at fixed and symbolic batch sizes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.engines.reference import ENGINE
from chainrule.grad import STANDARD, backprop_graph
from chainrule.grad.standard import NOT_DIFFERENTIABLE
from chainrule.ir.verify import verify
from chainrule.testing import at_batch, cases, gradient_error, random_program

# Where the gradient is by definition not the derivative of the value, and what it is instead.
BY_DEFINITION = {
    "stop_gradient": "zero",
    "cast to float32": "passed through the rounding",
    "cast to bfloat16": "passed through the rounding",
    "cast to int32": "none",
    "fixed_point of no steps": "that of the solution, which has not been reached",
}
CASES = [
    case
    for case in cases("float64")
    if case.primitive not in NOT_DIFFERENTIABLE and not {case.primitive, str(case)} & set(BY_DEFINITION)
]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_equal_differences(case, order):
    graph = case.graph()
    for batch in (1, 3) if case.is_symbolic else (3,):
        operands = case.operands(batch)
        assert gradient_error(graph, operands, order=order) < 1e-7
        assert gradient_error(at_batch(graph, batch), operands, order=order) < 1e-7


def gradients(case, batch=3):
    graph = case.graph()
    backward = verify(backprop_graph(graph, STANDARD, [0]))
    operands = case.operands(batch)
    result = ENGINE.load(graph)(operands)
    cotangents = [np.ones_like(value) for value in result]
    return ENGINE.load(backward)([*operands, *cotangents])[-1]


def test_no_gradient_passes_where_it_is_stopped():
    for case in cases("float64"):
        if case.primitive == "stop_gradient":
            assert not gradients(case).any()


@pytest.mark.parametrize("target", ["float32", "bfloat16"])
def test_a_cast_to_a_narrower_float_passes_the_gradient_on(target):
    (case,) = (case for case in cases("float64") if str(case) == f"cast to {target}")
    np.testing.assert_array_equal(gradients(case), np.ones((3, 3)))


@pytest.mark.parametrize("target", ["int32", "int64", "uint32", "bool"])
def test_no_gradient_passes_through_integers(target):
    (case,) = (case for case in cases("float64") if str(case) == f"cast to {target}")
    assert not gradients(case).any()


@pytest.mark.parametrize("name", sorted(NOT_DIFFERENTIABLE))
def test_what_has_no_rule_is_never_asked_for_one(name):
    """Differentiating through it raises nothing: no cotangent arrives there."""
    for case in cases("float64"):
        if case.primitive == name:
            assert not gradients(case).any() if case.types and case.types[0].dtype == "float64" else True
            backprop_graph(case.graph(), STANDARD)


@settings(max_examples=60)
@given(st.data())
def test_gradients_of_whole_programs_equal_differences(data):
    graph = random_program(lambda options: data.draw(st.sampled_from(list(options))), smooth=True, steps=6)
    check(graph)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_gradients_of_a_thousand_programs_equal_differences(start):
    for seed in range(start, start + 250):
        graph = random_program(random.Random(seed).choice, smooth=True, steps=10)
        check(graph)
        if seed % 25 == 0:
            check(graph, order=2)


def check(graph, order=1):
    rng = np.random.default_rng(len(graph.nodes))
    operands = [rng.normal(size=[d if isinstance(d, int) else 2 for d in value.shape]) for value in graph.inputs]
    verify(backprop_graph(graph, STANDARD))
    assert gradient_error(graph, operands, order=order) < 1e-7
