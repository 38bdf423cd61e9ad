"""Elementwise mathematics against NumPy and PyTorch, computed at once and traced, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import DTypeError

X = np.array([-2.3, -1.0, -0.4, 0.6, 1.3, 2.9])
POSITIVE = np.abs(X)
ONE = {
    "exp": (np.exp, X),
    "expm1": (np.expm1, X),
    "log": (np.log, POSITIVE),
    "log1p": (np.log1p, POSITIVE),
    "sqrt": (np.sqrt, POSITIVE),
    "sin": (np.sin, X),
    "cos": (np.cos, X),
    "tanh": (np.tanh, X),
    "abs": (np.abs, X),
    "sign": (np.sign, X),
    "floor": (np.floor, X + 0.05),
    "square": (np.square, X),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_array(name, dtype):
    theirs, x = ONE[name]
    x = x.astype(dtype)
    ours = getattr(cr, name)
    for found in (ours(x), cr.compile(ours)(x), cr.compile(ours, batch="x")(x)):
        assert type(found) is np.ndarray
        assert found.dtype == dtype
        np.testing.assert_allclose(found, theirs(x), rtol=1e-6 if dtype == "float32" else 1e-15)
    assert cr.check_gradients(lambda x: (ours(x) * x).sum(), x)


def test_erf():
    np.testing.assert_allclose(cr.erf(X), torch.erf(torch.from_numpy(X)), rtol=1e-15)
    assert cr.check_gradients(lambda x: cr.erf(x).sum(), X)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_of_two(name):
    y = X[::-1].copy()
    np.testing.assert_array_equal(getattr(cr, name)(X, y), getattr(np, name)(X, y))
    assert getattr(cr, name)(X.astype(np.float32), 1).dtype == np.float32
    assert cr.check_gradients(lambda x, y: (getattr(cr, name)(x, y) * x).sum(), X, y + 0.07)


@pytest.mark.parametrize("name", ["exp", "sqrt", "tanh", "log1p"])
def test_integers_become_float32(name):
    found = getattr(cr, name)(np.arange(3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, getattr(np, name)(np.arange(3.0)), rtol=1e-6)


def test_absolute_values_and_signs_keep_integers():
    x = np.array([-3, 0, 4], np.int32)
    assert cr.abs(x).dtype == cr.sign(x).dtype == np.int32
    assert cr.abs(x).tolist() == [3, 0, 4]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (None, 1.0), (-1.0, None), (np.full(6, -0.5), 0.7)])
def test_clip(low, high):
    np.testing.assert_array_equal(cr.clip(X, low, high), np.clip(X, low, high))
    assert np.isnan(cr.clip(np.array([np.nan]), low if np.ndim(low) == 0 else -1.0, high))
    assert cr.check_gradients(lambda x: (cr.clip(x, low, high) * x).sum(), X + 0.01)


def test_where():
    condition = X > 0
    for found in (cr.where(condition, X, 1), cr.compile(lambda x: cr.where(x > 0, x, 1))(X)):
        np.testing.assert_array_equal(found, np.where(condition, X, 1))
        assert found.dtype == np.float64
    np.testing.assert_array_equal(cr.where(np.array([0, 2]), 1.0, 0.0), [0, 1])
    np.testing.assert_array_equal(cr.where(True, np.ones(2), np.zeros((3, 1))), np.ones((3, 2)))


def test_is_finite():
    assert cr.is_finite(np.array([1.0, np.nan, np.inf, -np.inf])).tolist() == [True, False, False, False]
    assert cr.is_finite(np.arange(2)).tolist() == [True, True]


def test_stop_gradient():
    np.testing.assert_array_equal(cr.grad(lambda x: (cr.stop_gradient(x) * x).sum())(X), X)
    np.testing.assert_array_equal(cr.stop_gradient(X), X)


def test_powers():
    for p in (2, 2.0, 3, 0.5, -1):
        np.testing.assert_allclose(cr.compile(lambda x, p=p: x**p)(POSITIVE, p), POSITIVE**p, rtol=1e-15)
        assert cr.check_gradients(lambda x, p=p: (x**p).sum(), POSITIVE, argnums=0)
    assert cr.compile(lambda x: x**2)(np.array([-3, 4])).tolist() == [9, 16]
    assert cr.compile(lambda x: x**2)(np.array([3])).dtype == np.float32
    assert cr.compile(lambda x: 2**x)(np.array([3.0])) == 8


def test_booleans_have_no_arithmetic():
    for function in (lambda x: -x, lambda x: x - x, cr.abs):
        with pytest.raises(DTypeError, match="numbers are needed, not bool"):
            cr.compile(function)(np.array([True]))
