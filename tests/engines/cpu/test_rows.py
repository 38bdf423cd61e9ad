"""Reductions over rows with the maps around them: one nest, the values of the reference, the same bits for any number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import same_bits

import chainrule as cr
from chainrule import nn, ops
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise
from chainrule.transforms import trace


def nests(graph):
    text = dict(ENGINE.load(graph).steps)["group into nests"]
    return [line.split(":")[0].strip() for line in text.splitlines() if "] -> [" in line]


def check(function, *arrays, batch=("x",), tolerance=1e-11, expected_nests=None):
    graph = optimise(trace(function, *arrays, batch=batch))
    if expected_nests is not None:
        assert nests(graph) == expected_nests
    for result, expected in zip(
        same_bits(ENGINE.load(graph), arrays), REFERENCE.load(graph)(list(arrays)), strict=True
    ):
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def softmax(x):
    return ops.softmax(x)


def layer_norm(x, scale, shift):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / ops.sqrt(variance + 1e-5) * scale + shift


def layer_norm_gradients(x, scale, shift, weight):
    return cr.value_and_grad(lambda all: (layer_norm(*all) * weight).sum())((x, scale, shift))


def cross_entropy_gradients(x, y):
    return cr.value_and_grad(lambda x: nn.losses.cross_entropy(x, y))(x)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(2, 70))
def test_softmax_is_one_nest(rows, columns):
    check(softmax, normal(rows, columns), expected_nests=["rows"])


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(2, 70))
def test_layer_norm_and_its_gradients(rows, columns):
    x, scale, shift, weight = (normal(*shape, seed=k) for k, shape in enumerate([(rows, columns), *[(columns,)] * 3]))
    check(layer_norm, x, scale, shift, expected_nests=["rows"])
    check(layer_norm_gradients, x, scale, shift, weight, tolerance=1e-10)


def test_the_gradients_of_a_layer_norm_are_one_nest():
    graph = optimise(trace(layer_norm_gradients, normal(6, 40), normal(40), normal(40), normal(40), batch=("x",)))
    assert nests(graph) == ["rows"]


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(2, 40), seed=st.integers(0, 99))
def test_cross_entropy_and_its_gradient(rows, columns, seed):
    labels = np.random.default_rng(seed).integers(0, columns, rows)
    check(cross_entropy_gradients, normal(rows, columns, seed=seed), labels, batch=("x", "y"))


def test_cross_entropy_and_its_gradient_are_one_nest():
    graph = optimise(trace(cross_entropy_gradients, normal(6, 10), np.arange(6) % 10, batch=("x", "y")))
    assert nests(graph).count("rows") == 1
    assert not {"reduce_sum", "reduce_max", "scatter_add"} & set(nests(graph))


@pytest.mark.parametrize("rows", [1, 5, 3000])
def test_rows_of_several_axes(rows):
    """Attention weights: rows over a batch, heads and queries, with a mask that all of them share."""

    def attention(x, mask):
        return ops.softmax(ops.where(mask, x, -1e9)) * 2.0, x.max(axis=-1)

    mask = np.tril(np.ones((7, 7), bool))
    check(attention, normal(rows, 2, 7, 7, dtype=np.float32), mask, tolerance=2e-6, expected_nests=["rows"])


@pytest.mark.parametrize("columns", [17, 40, 64, 100, 200])
def test_rows_behind_a_mask(columns):
    """Masks are read as bytes, in as many lanes as a vector has of those; a NaN that the mask lets through counts."""
    generator = np.random.default_rng(columns)
    x = generator.normal(size=(6, columns)).astype(np.float32)
    mask = generator.random((6, columns)) < 0.7
    mask[2], mask[3] = False, True
    x[3, columns - 1], x[4, 0], mask[4, 0] = np.nan, np.nan, False

    def f(x, mask):
        return ops.where(mask, x, -1e9).max(axis=-1), ops.where(mask, x, 0.0).sum(axis=-1)

    check(f, x, mask, batch=(), tolerance=1e-5)


def test_a_row_that_needs_others_is_not_joined():
    """The second reduction reads what the first made for other rows."""

    def crossed(x):
        largest = x.max(axis=1)
        return (x - ops.flip(largest, axis=0)[:, None]).sum(axis=1), ops.exp(x - largest[:, None]).sum(axis=1)

    check(crossed, normal(9, 9), batch=())


def test_rows_of_a_transposed_array():
    def both(x):
        total = ops.exp(x).sum(axis=1)
        return (ops.exp(x.T) / total).sum(axis=1)

    check(both, normal(8, 8), batch=())


def test_sums_over_rows_of_what_rows_make():
    """Means over the batch of something normalised, which need a second pass over what the first left."""

    def centred(x):
        y = ops.softmax(x)
        return y - y.mean(axis=0), (y * y).sum()

    check(centred, normal(40, 6))
    check(centred, normal(5000, 20, dtype=np.float32), tolerance=1e-5)


def test_as_many_sums_over_the_rows_as_there_are_rows():
    """Those of a square matrix are known after its last row, and not one by one as its rows are."""

    def both(x, scale):
        y = x * scale
        rows, columns = ops.exp(y).sum(axis=1), y.sum(axis=0)
        return y, rows[:, None] * y, columns * rows

    check(both, normal(16, 16), normal(16, 16, seed=1), batch=())


def test_a_scatter_with_one_place_for_each_row_is_a_choice():
    def picked(x, y):
        return cr.value_and_grad(lambda x: ops.take_along(x, y).sum())(x)

    x, y = normal(6, 5), np.array([0, 4, 2, 2, 1, 3])
    check(picked, x, y, batch=("x", "y"))
    assert "scatter_add" not in nests(optimise(trace(picked, x, y, batch=("x", "y"))))


def test_what_a_stage_stores_and_uses_in_another_shape_is_not_read_before_it_is_written():
    """A result of a row, and another that reads the same bytes of it as an array of one axis more."""

    def function(x, z):
        y = x / (1 + x.sum(axis=-1, keepdims=True) ** 2)
        return y, z + y[None]

    check(function, normal(5, 6, 7), normal(1, 5, 6, 7, seed=1), batch=(), expected_nests=["rows"])


def test_a_stage_adds_up_what_it_stores_in_another_shape():
    def function(x, z):
        y = x / (1 + x.sum(axis=-1, keepdims=True) ** 2)
        return y, (z * y[None]).sum(axis=(0, 1, 2)), y.max(axis=-1)

    check(function, normal(5, 6, 7), normal(1, 5, 6, 7, seed=1), batch=())
