"""The system is alive: first to run, and over in a moment."""

from __future__ import annotations

import math

import numpy as np
import pytest

import chainrule as cr


def loss(w1, w2, x, y):
    h = 1 / (1 + cr.exp(-(x @ w1)))
    p = 1 / (1 + cr.exp(-(h @ w2)))
    return 0.5 * cr.square(y - p).sum()


@pytest.fixture
def example():
    return [np.array([[number]]) for number in (0.4, 0.6, 0.5, 1.0)]


def test_a_function_becomes_a_graph_that_survives_as_text(example):
    graph = cr.trace(loss, *example, batch=("x", "y"))
    text = cr.print_graph(graph)
    assert "f64[B, 1]" in text
    assert "contract" in text
    assert cr.print_graph(cr.parse_graph(text)) == text


def test_the_gradient_is_the_one_computed_by_hand(example):
    value, (to_w1, to_w2) = cr.value_and_grad(loss, (0, 1))(*example)
    h = 1 / (1 + math.exp(-0.5 * 0.4))
    p = 1 / (1 + math.exp(-h * 0.6))
    delta = (p - 1) * p * (1 - p)
    assert float(value) == pytest.approx(0.5 * (1 - p) ** 2, rel=1e-14)
    assert to_w2.item() == pytest.approx(delta * h, rel=1e-14)
    assert to_w1.item() == pytest.approx(delta * 0.6 * h * (1 - h) * 0.5, rel=1e-14)
    assert to_w2.item() == pytest.approx(-0.0559576727, rel=1e-8)
    assert to_w1.item() == pytest.approx(-0.00755707256, rel=1e-8)


def test_a_few_steps_of_gradient_descent_reduce_the_loss():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 2))
    y = (x[:, :1] * x[:, 1:] > 0).astype(np.float64)
    w1, w2 = rng.normal(size=(2, 4)), rng.normal(size=(4, 1))

    def step(w1, w2, x, y):
        value, (to_w1, to_w2) = cr.value_and_grad(loss, (0, 1))(w1, w2, x, y)
        return value, w1 - 0.1 * to_w1, w2 - 0.1 * to_w2

    compiled = cr.compile(step, batch=("x", "y"))
    values = []
    for _ in range(5):
        value, w1, w2 = compiled(w1, w2, x, y)
        values.append(float(value))
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.99 * values[0]
