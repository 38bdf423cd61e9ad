"""Basic indexing and broadcasting of traced arrays against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import chainrule as cr
from chainrule.core.errors import ShapeError

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def numbered(shape):
    return np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)


@given(st.data(), shapes)
def test_basic_indexing(data, shape):
    key = data.draw(hnp.basic_indices(shape, max_dims=6, allow_ellipsis=True, allow_newaxis=True))
    x = numbered(shape)
    expected = x[key]
    found = cr.compile(lambda x: x[key])(x)
    assert found.shape == np.shape(expected)
    np.testing.assert_array_equal(found, expected)
    assert not np.may_share_memory(found, x)


@given(st.data(), shapes)
def test_the_gradient_of_an_index_is_one_where_it_reads(data, shape):
    key = data.draw(hnp.basic_indices(shape, max_dims=6, allow_ellipsis=True, allow_newaxis=True))
    x = numbered(shape)
    expected = np.zeros(shape)
    expected[key] = 1
    np.testing.assert_array_equal(cr.grad(lambda x: x[key].sum())(x), expected)


@given(st.data())
def test_positions_of_the_batch_axis(data):
    x = numbered((data.draw(st.integers(1, 6)), 3))
    position = data.draw(st.integers(-len(x), len(x) - 1))
    last = cr.compile(lambda x: x[position], batch="x")
    np.testing.assert_array_equal(last(x), x[position])
    np.testing.assert_array_equal(cr.compile(lambda x: x[:, 1], batch="x")(x), x[:, 1])
    np.testing.assert_array_equal(cr.compile(lambda x: x[::-1], batch="x")(x), x[::-1])
    np.testing.assert_array_equal(cr.compile(lambda x: x[:, None, ...], batch="x")(x), x[:, None])


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=4, min_side=0))
def test_broadcasting(mutual):
    x, y, z = map(numbered, mutual.input_shapes)

    def combined(x, y, z):
        return (x + y) * z - cr.where(x > y, z, y)

    found = cr.compile(combined)(x, y, z)
    expected = (x + y) * z - np.where(x > y, z, y)
    assert found.shape == mutual.result_shape
    np.testing.assert_array_equal(found, expected)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_the_gradient_of_a_broadcast_sums_what_was_repeated(mutual):
    x, y = map(numbered, mutual.input_shapes)
    assert cr.check_gradients(lambda x, y: (x * y).sum() * 0.01, x, y)


@given(shapes, shapes)
def test_shapes_that_do_not_fit_are_refused_as_numpy_does(one, other):
    x, y = numbered(one), numbered(other)
    try:
        expected = x + y
    except ValueError:
        with pytest.raises(ShapeError, match="cannot be broadcast together"):
            cr.compile(lambda x, y: x + y)(x, y)
    else:
        np.testing.assert_array_equal(cr.compile(lambda x, y: x + y)(x, y), expected)


@given(hnp.mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=2, max_side=3, min_side=0))
def test_matrix_products(mutual):
    x, y = map(numbered, mutual.input_shapes)
    np.testing.assert_allclose(cr.compile(lambda x, y: x @ y)(x, y), x @ y, rtol=1e-14)
    np.testing.assert_allclose(cr.matmul(x, y), x @ y, rtol=1e-14)


@pytest.mark.parametrize(
    ("one", "other"),
    [((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((5, 2, 3), (3,)), ((3,), (5, 3, 2)), ((1, 2, 3), (4, 3, 1))],
)
def test_matrix_products_with_vectors(one, other):
    x, y = numbered(one), numbered(other)
    found = cr.compile(lambda x, y: x @ y)(x, y)
    assert found.shape == (x @ y).shape
    np.testing.assert_allclose(found, x @ y, rtol=1e-14)
    assert cr.check_gradients(lambda x, y: cr.tanh(x @ y * 0.01).sum(), x, y)


def test_products_that_do_not_fit():
    for one, other in (((), (3,)), ((3,), ()), ((2, 3), (2, 3)), ((2, 2, 3), (3, 3, 2))):
        with pytest.raises(ShapeError):
            cr.matmul(numbered(one), numbered(other))
