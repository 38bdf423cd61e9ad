"""Sums that are computed along with what makes their operands: right, stored nowhere else, and the same for any number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import check_near_reference, same_bits

from chainrule.engines.cpu.engine import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction, plain
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH, shape_at


def operands(graph, batch, seed=0):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape_at(v.shape, batch))).astype(v.dtype) for v in graph.inputs]


def nests(graph):
    text = dict(ENGINE.load(graph).steps)["group into nests"]
    return [line.split(":")[0].strip() for line in text.splitlines() if "] -> [" in line]


def check(graph, batch, tolerance=1e-5):
    """The results of the reference engine, and the same bits for 1, 2, 3 and 5 threads."""
    given = operands(graph, batch)
    check_near_reference(graph, given, same_bits(ENGINE.load(graph), given), tolerance)


def product_with_sums(rows, columns, depth, dtype="float64", weights=False):
    """A product, its relu, the sums of its columns, and the sum of its squares; as a layer's output or as a weight gradient."""
    builder = Builder()
    if weights:
        x = builder.input(ArrayType((BATCH, rows), dtype), "x")
        d = builder.input(ArrayType((BATCH, columns), dtype), "d")
        y = builder.matmul(builder.transpose(x, (1, 0)), d)
    else:
        x = builder.input(ArrayType((BATCH, depth), dtype), "x")
        w = builder.input(ArrayType((depth, columns), dtype), "w")
        y = builder.matmul(x, w)
    z = builder.tanh(y)
    squares = builder.contract(Contraction(y.shape, (), plain(0, 1), plain(0, 1), ()), y, y)
    return builder.finish("product", [z, builder.reduce_sum(z, (0,)), squares])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(2, 70),
    depth=st.integers(1, 20),
    batch=st.integers(1, 50),
    weights=st.booleans(),
)
def test_sums_along_with_a_product(rows, columns, depth, batch, weights):
    check(product_with_sums(rows, columns, depth, weights=weights), batch, 1e-11)


@pytest.mark.parametrize("weights", [False, True])
def test_many_chunks_give_the_same_bits_for_any_number_of_threads(weights):
    check(product_with_sums(96, 300, 80, "float32", weights), 2000, 2e-4)


def test_nothing_but_the_result_of_the_maps_is_stored():
    graph = product_with_sums(30, 40, 20)
    assert nests(graph) == ["contract"]
    assert "result = " in ENGINE.load(graph).c_source  # the product itself is not a result and has no memory


@pytest.mark.parametrize("rows", [False, True])
def test_sums_along_with_maps(rows):
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 7, 5), "float32"), "x")
    y = builder.exp(x)
    one = builder.reduce_sum(builder.mul(y, y), (0, 1))
    all = builder.reduce_sum(builder.add(y, x), (0, 1, 2))
    last = [builder.reduce_sum(y, (1, 2))] if rows else []
    graph = builder.finish("maps", [y, one, all, *last])
    assert nests(graph) == ["rows" if rows else "map"]
    for batch in (1, 13, 6000):
        check(graph, batch, 2e-5)


def test_a_map_that_needs_the_sum_comes_after_it():
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 6), "float64"), "x")
    y = builder.exp(x)
    mean = builder.div(builder.reduce_sum(y, (0,)), builder.constant(np.full(6, 3.0)))
    centred = builder.sub(y, builder.broadcast(mean, (BATCH, 6), (1,)))
    graph = builder.finish("centred", [centred, builder.reduce_sum(builder.mul(centred, centred), (0,))])
    check(graph, 9, 1e-12)


@pytest.mark.parametrize("channels", [11, 16, 40])
@pytest.mark.parametrize(("stride", "batch"), [(1, 3), (1, 40), (2, 11)])
def test_sums_along_with_a_convolution(stride, batch, channels):
    """The sums of batch normalisation, over images and pixels for every channel; and one for every place of a row."""
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 9, 9, 4), "float64"), "x")
    w = builder.input(ArrayType((3, 3, 4, channels), "float64"), "w")
    size = (9 + 2 - 3) // stride + 1
    spec = _convolution(size, stride, channels)
    y = builder.contract(spec, x, w)
    squares = builder.mul(y, y)
    sums = builder.reduce_sum(y, (0, 1, 2)), builder.reduce_sum(squares, (0, 1, 2)), builder.reduce_sum(squares, (0, 1))
    graph = builder.finish("convolution", [y, *sums])
    # Weights that do not fill whole vectors are laid out before.
    assert nests(graph) == (["contract"] if channels % 8 == 0 else ["map", "contract"])
    check(graph, batch, 1e-11)


def _convolution(size, stride, channels):
    """Kernel 3, padding 1, channels last."""
    places = [Affine(((axis, stride), (axis + 3, 1)), -1) for axis in (1, 2)]
    return Contraction(
        (BATCH, size, size, channels, 3, 3, 4),
        plain(0, 1, 2, 3),
        (*plain(0), *places, *plain(6)),
        plain(4, 5, 6, 3),
        (BATCH, size, size, channels),
    )
