"""Gradients where a function has a corner, a pole, or 0 · infinity in its formula."""

from __future__ import annotations

import numpy as np
import pytest

import chainrule as cr


def gradient(function, *args, argnums=0):
    return cr.grad(lambda *a: function(*a).sum(), argnums)(*map(np.asarray, args))


def test_equal_elements_share_the_gradient_of_the_largest():
    np.testing.assert_allclose(gradient(cr.max, [1.0, 3.0, 3.0, 3.0]), [0, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(gradient(cr.min, [1.0, 3.0, 1.0]), [0.5, 0, 0.5])


@pytest.mark.parametrize("function", [cr.maximum, cr.minimum])
def test_equal_operands_share_the_gradient(function):
    to_x, to_y = gradient(function, [1.0, 2.0], [1.0, 2.0], argnums=(0, 1))
    np.testing.assert_array_equal(to_x, [0.5, 0.5])
    np.testing.assert_array_equal(to_y, [0.5, 0.5])


def test_corners_at_zero():
    np.testing.assert_array_equal(gradient(cr.abs, [0.0, -0.0, -2.0]), [0, 0, -1])
    np.testing.assert_array_equal(gradient(cr.sign, [0.0, 3.0]), [0, 0])
    np.testing.assert_array_equal(gradient(cr.floor, [1.0, 1.5]), [0, 0])
    np.testing.assert_array_equal(gradient(lambda x: cr.clip(x, 0.0, 1.0), [0.0, 1.0, 2.0, -1.0, 0.5]), [1, 1, 0, 0, 1])


def test_poles():
    np.testing.assert_array_equal(gradient(cr.sqrt, [0.0]), [np.inf])
    np.testing.assert_array_equal(gradient(cr.log, [0.0]), [np.inf])


def test_tails_stay_finite():
    for function in (cr.tanh, cr.erf, lambda x: 1 / (1 + cr.exp(-x))):
        assert np.isfinite(gradient(function, [-800.0, -30.0, 30.0, 800.0])[[1, 2]]).all()


POWERS = [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0), (0.0, 3.0), (2.0, 0.0), (-2.0, 2.0), (-2.0, 3.0), (0.0, 2.5)]


@pytest.mark.parametrize(("x", "p"), POWERS)
def test_powers_have_their_gradients_at_zero(x, p):
    expected = p * x ** (p - 1) if p else 0.0
    assert gradient(lambda a, b: a**b, x, p) == pytest.approx(expected, abs=1e-15)
    if x == 0:
        assert gradient(lambda a, b: a**b, x, p, argnums=1) == 0


@pytest.mark.parametrize("power", [2.0, 3.0, 4.0])
def test_higher_derivatives_of_powers_at_zero_contain_no_nan(power):
    function, expected = lambda x: x**power, np.array(0.0)
    for order in range(1, 6):
        function = cr.grad(function)
        falling = np.prod([power - k for k in range(order)])
        expected = falling * 0.0 ** (power - order) if falling else 0.0
        assert function(np.array(0.0)) == expected


def test_mixed_derivatives_of_powers_at_zero_contain_no_nan():
    x, p = np.zeros(2), np.array([3.0, 2.0])
    to_x, to_p = cr.hessian_vector_product(lambda x, p: (x**p).sum(), (x, p), (np.ones(2), np.ones(2)))
    np.testing.assert_array_equal(to_x, [0, 2])
    np.testing.assert_array_equal(to_p, [0, 0])


def test_choosing_hides_values_but_the_formula_must_be_safe_before_it():
    """``where`` gives what is not chosen no gradient, so a safe operand inside makes the whole safe."""
    x = np.array([0.0, 4.0])
    safe = gradient(lambda x: cr.where(x > 0, cr.sqrt(cr.where(x > 0, x, 1.0)), 0.0), x)
    np.testing.assert_array_equal(safe, [0, 0.25])


def test_a_nan_reaches_the_gradient_of_what_it_touches_and_nothing_else():
    found = gradient(lambda x: x * x, [np.nan, 2.0])
    assert np.isnan(found[0])
    assert found[1] == 4
