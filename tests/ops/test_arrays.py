"""Making, reducing, rearranging and indexing arrays, against NumPy, at once and traced, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import DTypeError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5))


def both(function, *args):
    """The result at once and traced, which must agree to the bit."""
    at_once, traced = function(*args), cr.compile(function)(*args)
    assert at_once.dtype == traced.dtype
    np.testing.assert_array_equal(at_once, traced)
    return at_once


def test_making_arrays():
    assert both(lambda: cr.zeros((2, 3))).tolist() == [[0, 0, 0]] * 2
    assert both(lambda: cr.ones(3, "int32")).dtype == np.int32
    assert both(lambda: cr.zeros(())).shape == ()
    assert both(lambda: cr.full((2,), 1.5)).dtype == np.float32
    assert both(lambda: cr.full((2,), 3)).dtype == np.int64
    assert both(lambda: cr.full(2, True)).dtype == np.bool_
    np.testing.assert_array_equal(both(lambda x: cr.full((4, 5), x), X[0, 0]), np.broadcast_to(X[0, 0], (4, 5)))
    assert both(lambda: cr.arange(4)).tolist() == [0, 1, 2, 3]
    assert both(lambda: cr.arange(3, "float32")).dtype == np.float32
    assert both(lambda: cr.arange(0)).shape == (0,)


@pytest.mark.parametrize(
    "make",
    [lambda: cr.zeros((-1,)), lambda: cr.full((2, -3), 1.0), lambda: cr.arange(-1), lambda: cr.random.bits((-2,))],
)
def test_negative_sizes_are_refused(make):
    with pytest.raises(ShapeError, match="negative size"):
        make()


REDUCTIONS = {
    "sum": (cr.sum, np.sum),
    "mean": (cr.mean, np.mean),
    "max": (cr.max, np.max),
    "min": (cr.min, np.min),
    "var": (cr.var, np.var),
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (-1, 0), ()])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, axis, keepdims):
    ours, theirs = REDUCTIONS[name]
    found = both(lambda x: ours(x, axis, keepdims=keepdims), X)
    np.testing.assert_allclose(found, theirs(X, axis=axis, keepdims=keepdims), rtol=1e-14, atol=1e-15)
    assert cr.check_gradients(lambda x: (ours(x, axis, keepdims=keepdims) * 0.7).sum(), X)


def test_argmax():
    for axis in (0, 1, -1):
        np.testing.assert_array_equal(both(lambda x, axis=axis: cr.argmax(x, axis), X), np.argmax(X, axis))


def test_rearranging():
    np.testing.assert_array_equal(both(lambda x: cr.reshape(x, (5, -1)), X), X.reshape(5, -1))
    np.testing.assert_array_equal(both(lambda x: cr.reshape(x, -1), X), X.reshape(-1))
    np.testing.assert_array_equal(both(lambda x: cr.transpose(x), X), X.T)
    np.testing.assert_array_equal(both(lambda x: cr.transpose(x, (-1, 0, 1)), X), X.transpose(-1, 0, 1))
    np.testing.assert_array_equal(both(lambda x: cr.flip(x), X), np.flip(X))
    np.testing.assert_array_equal(both(lambda x: cr.flip(x, (0, -1)), X), np.flip(X, (0, -1)))
    np.testing.assert_array_equal(both(lambda x: cr.broadcast_to(x, (4, 2, 3, 5)), X), np.broadcast_to(X, (4, 2, 3, 5)))
    np.testing.assert_array_equal(
        both(lambda x: cr.pad(x, [(0, 1), (2, 0), (1, 1)], -1.5), X),
        np.pad(X, [(0, 1), (2, 0), (1, 1)], constant_values=-1.5),
    )


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_joining(axis):
    parts = [X, X[:1] if axis == 0 else X, 2 * X]
    np.testing.assert_array_equal(both(lambda *xs: cr.concatenate(xs, axis), *parts), np.concatenate(parts, axis))
    np.testing.assert_array_equal(both(lambda x, y: cr.stack([x, y], axis), X, 2 * X), np.stack([X, 2 * X], axis))
    assert cr.check_gradients(
        lambda *xs: (cr.concatenate(xs, axis) * 0.3).sum() + cr.square(cr.stack(xs[::2], axis)).sum(), *parts
    )


def test_joining_promotes():
    assert cr.concatenate([np.ones(1, np.int32), np.ones(1, np.float32)]).dtype == np.float32
    assert cr.stack([1.0, 2.0]).dtype == np.float32
    assert (cr.stack([1.0, 2.0]) * np.ones(2, np.float32)).dtype == np.float32


def test_what_cannot_be_rearranged():
    refused = [
        lambda: cr.broadcast_to(X, (2, 3)),
        lambda: cr.broadcast_to(X, (2, 3, 4)),
        lambda: cr.pad(X, [(0, 1)]),
        lambda: cr.pad(X, [(0, -1)] * 3),
        lambda: cr.concatenate([]),
        lambda: cr.stack([]),
        lambda: cr.stack([X, X], 4),
        lambda: cr.stack([X, X[0]]),
        lambda: cr.concatenate([X, X], 3),
        lambda: cr.flip(X, 3),
        lambda: cr.sum(X, (0, 0)),
        lambda: cr.max(np.zeros((0, 2)), 0),
    ]
    for use in refused:
        with pytest.raises(ShapeError):
            use()


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    "indices", [np.array([1, 0, 0]), np.array(1), np.array([[0, 1], [1, 1]], np.int32), np.zeros((0,), np.int64)]
)
def test_take(indices, axis):
    found = both(lambda x, i: cr.take(x, i, axis), X, indices)
    np.testing.assert_array_equal(found, np.take(X, indices, axis))
    assert cr.check_gradients(lambda x: cr.square(cr.take(x, indices, axis)).sum(), X)


def test_positions_outside_read_zero():
    found = both(lambda x, i: cr.take(x, i, 1), X, np.array([-1, 3, 2]))
    assert not found[:, :2].any()
    np.testing.assert_array_equal(found[:, 2], X[:, 2])
    with pytest.raises(DTypeError, match="integer indices"):
        cr.take(X, np.array([0.0]))


@given(st.data())
def test_take_along_and_scatter_add_are_transposes(data):
    size, count = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 6))
    places = np.array(data.draw(st.lists(st.integers(-2, size + 1), min_size=count, max_size=count)), np.int64)
    rng = np.random.default_rng(count)
    table, rows = rng.integers(-9, 9, (size, 2)), rng.integers(-9, 9, (count, 2))
    assert (cr.take(table, places) * rows).sum() == (table * cr.scatter_add(rows, places, size)).sum()


def test_take_along():
    indices = RNG.integers(0, 5, (2, 3))
    found = both(cr.take_along, X, indices)
    np.testing.assert_array_equal(found, np.take_along_axis(X, indices[..., None], -1)[..., 0])
    assert cr.check_gradients(lambda x: cr.square(cr.take_along(x, indices)).sum(), X)


def test_scatter_add():
    places = np.array([2, 0, 2, -1, 9])
    rows = RNG.normal(size=(5, 3))
    expected = np.zeros((3, 3))
    np.add.at(expected, places[:3], rows[:3])
    np.testing.assert_allclose(both(lambda x, i: cr.scatter_add(x, i, 3), rows, places), expected, rtol=1e-15)
    assert cr.check_gradients(lambda x: cr.square(cr.scatter_add(x, places, 3)).sum(), rows)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_one_hot(dtype):
    labels = np.array([[0, 2], [1, 7]], dtype)
    found = both(lambda i: cr.one_hot(i, 3), labels)
    np.testing.assert_array_equal(found, np.eye(8, dtype=np.float32)[labels][..., :3])
    assert found.dtype == np.float32
    assert not cr.one_hot(np.array([-1]), 3).any()
    with pytest.raises(DTypeError, match="integer labels"):
        cr.one_hot(np.array([0.0]), 3)


def test_extent_is_the_batch_size_when_the_step_runs():
    compiled = cr.compile(
        lambda x: (cr.extent(x.shape[0]), cr.arange(x.shape[0]), x.mean(0), cr.extent(x.shape[0] * 2, "float64")),
        batch="x",
    )
    for count in (1, 2, 7):
        x = RNG.normal(size=(count, 2))
        size, numbers, mean, twice = compiled(x)
        assert size == count
        assert size.dtype == np.int64
        assert numbers.tolist() == list(range(count))
        np.testing.assert_allclose(mean, x.mean(0), rtol=1e-15)
        assert twice == 2 * count


def test_the_general_contraction():
    from chainrule.ir.contraction import parse_contraction

    spec = parse_contraction("[3] i0:3 i1:3 | [i0] += [i0+i1] * [i1]")
    x, w = RNG.normal(size=5), RNG.normal(size=3)
    np.testing.assert_allclose(
        both(lambda x, w: cr.contract(spec, x, w), x, w), np.correlate(x, w, "valid"), rtol=1e-14
    )
    assert cr.contract(spec, x, w.astype(np.float32)).dtype == np.float64
    assert cr.check_gradients(lambda x, w: cr.square(cr.contract(spec, x, w)).sum(), x, w)
