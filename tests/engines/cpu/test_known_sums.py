"""Sums that are known from smaller ones: found in the gradients of normalisations, right to the last digits, NaN where they are."""

import numpy as np
import pytest

import chainrule as cr
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.known_sums import use_known_sums
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.verify import verify
from chainrule.passes import optimise


def graph_of(function, x):
    step = cr.compile(lambda x: function(x), engine="reference", batch=("x",))
    return optimise(step.graph_and_arrays(x)[0])


def long_sums(graph):
    """Sums over whole arrays, of which every one is a pass or part of one."""
    return [node for node in graph.nodes if node.primitive.name == "reduce_sum"]


def normalised(axes, keepdims):
    def function(x):
        def loss(x):
            distance = x - x.mean(axes, keepdims=True)
            var = (distance * distance).mean(axes, keepdims=True)
            y = distance / cr.sqrt(var + 0.25) if keepdims else distance * (2 / cr.sqrt(var + 0.25))
            return (y * y * y + cr.exp(y * 0.5)).sum()

        return cr.grad(loss)(x)

    return function


def normal(*shape):
    return np.random.default_rng(5).normal(size=shape) * 2 + 1


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [(0, 1), (2,), (1,), (0, 1, 2)])
def test_the_gradient_of_a_normalisation_has_fewer_sums_and_the_same_numbers(axes, keepdims):
    x = normal(6, 5, 16)
    graph = graph_of(normalised(axes, keepdims), x)
    rewritten = verify(use_known_sums(graph))
    (expected,) = REFERENCE.load(graph)([x])
    np.testing.assert_allclose(REFERENCE.load(rewritten)([x])[0], expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(ENGINE.load(graph)([x])[0], expected, rtol=1e-11, atol=1e-12)
    added = [node.inputs[0] for node in long_sums(graph)]
    assert len(long_sums(rewritten)) < len(added) or any(
        node.inputs[0] not in added for node in long_sums(rewritten)
    )  # a sum less, or one of fewer terms


def centred(x):
    distance = x - x.mean(0)
    return (distance * 3.0).sum(0), (-(distance / (x.max(0) + 1))).sum(0), distance


def test_the_sum_of_distances_from_the_mean_is_zero_or_nan():
    x = normal(9, 7)
    graph = graph_of(centred, x)
    assert len(long_sums(use_known_sums(graph))) == 1
    zeros, others, _ = ENGINE.load(graph)([x])
    np.testing.assert_array_equal(zeros, np.zeros(7))
    np.testing.assert_array_equal(others, np.zeros(7))
    x[2, 3], x[4, 5] = np.nan, np.inf
    for result, expected in zip(ENGINE.load(graph)([x]), REFERENCE.load(graph)([x]), strict=True):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
        np.testing.assert_allclose(result, expected, atol=1e-12)


def scaled(x):
    factor = cr.exp(x.max(0))
    return (x * factor).sum(0), x.sum(0), -(x / factor).sum(0), (x * factor + x).sum(0)


def test_a_factor_leaves_a_sum_that_is_there():
    x = normal(9, 7)
    graph = graph_of(scaled, x)
    # The first sum stands before the one that tells it.
    assert len(long_sums(use_known_sums(graph))) == 2
    for result, expected in zip(ENGINE.load(graph)([x]), REFERENCE.load(graph)([x]), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x - x.mean(1, keepdims=True)).sum(0),
        lambda x: (x - x.sum(0) / (x.shape[1] + 1)).sum(0),
        lambda x: ((x - x.mean(0)) * x).sum(0),
        lambda x: ((x - x.mean(0)) * cr.exp(x.max(1, keepdims=True))).sum(0),
        lambda x: (x * x.mean(1, keepdims=True)).sum(0) + x.sum(0),
        lambda x: ((x * x) - x.mean(0)).sum(0) + (x * x).sum(0),
    ],
)
def test_other_sums_are_left_alone(function):
    x = normal(9, 7)
    graph = graph_of(function, x)
    assert len(long_sums(use_known_sums(graph))) == len(long_sums(graph))
    (result,), (expected,) = ENGINE.load(graph)([x]), REFERENCE.load(graph)([x])
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)
