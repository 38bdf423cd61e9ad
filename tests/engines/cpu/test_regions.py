"""Large products of matrices in regions and blocks: right in every layout, with what follows, and the same for any number of threads.

Regions are made small here, so that small products have many of them, of several sizes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import check_near_reference, normal_operands, same_bits

from chainrule.engines.cpu import tile_regions
from chainrule.engines.cpu.engine import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, plain
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH


@pytest.fixture(autouse=True, scope="module")
def small_regions():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_regions, "SUMS", 1 << 12)
        patch.setattr(tile_regions, "COPIES", 1 << 12)
        patch.setattr(tile_regions, "FEWEST_ALONG", 20)
        patch.setattr(tile_regions, "SECOND_CACHE", 0)
        patch.setattr(tile_regions, "LARGE_WEIGHT", 1 << 14)
        patch.setattr(tile_regions, "LARGE_ACROSS", 1 << 14)
        patch.setattr(tile_regions, "FEWEST_ACROSS", 20)
        yield


def product(rows, columns, depth, left, right, dtype="float32", follows=False):
    """Rows × columns of a product of x and w, either of them transposed; with a map and sums that follow it, if any do."""
    b = Builder()
    x = b.input(ArrayType((depth, rows) if left else (rows, depth), dtype), "x")
    w = b.input(ArrayType((columns, depth) if right else (depth, columns), dtype), "w")
    y = b.matmul(b.transpose(x, (1, 0)) if left else x, b.transpose(w, (1, 0)) if right else w)
    if not follows:
        return b.finish("product", [y])
    old = b.input(ArrayType((rows, columns), dtype), "old")
    z = b.tanh(b.add(y, old))
    squares = b.contract(Contraction(y.shape, (), plain(0, 1), plain(0, 1), ()), y, y)
    return b.finish("product", [z, b.reduce_sum(z, (0,)), squares])


def check(graph, batch=1):
    """In regions, near the reference engine, and the same bits for 1, 2, 3 and 5 threads."""
    given = normal_operands(graph, batch)
    program = ENGINE.load(graph)
    assert "long region" in program.c_source
    check_near_reference(graph, given, same_bits(program, given))


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layout_of_the_operands(left, right, dtype):
    check(product(130, 150, 70, left, right, dtype))


@settings(max_examples=12, deadline=None)
@given(st.integers(64, 150), st.integers(150, 260), st.integers(20, 90), st.booleans(), st.booleans(), st.booleans())
def test_odd_sizes(rows, columns, depth, left, right, follows):
    check(product(rows, columns, depth, left, right, follows=follows))


def test_more_regions_than_chunks_and_sums_of_their_columns():
    check(product(400, 410, 40, True, False, follows=True))


@pytest.mark.parametrize("batch", [1, 2, 31, 100])
def test_a_sum_over_the_batch(batch):
    b = Builder()
    x = b.input(ArrayType((BATCH, 130), "float32"), "x")
    d = b.input(ArrayType((BATCH, 150), "float32"), "d")
    y = b.matmul(b.transpose(x, (1, 0)), d)
    old = b.input(ArrayType((130, 150), "float32"), "old")
    check(b.finish("gradient", [b.sub(old, y), b.reduce_sum(y, (0,))]), batch)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 31, 100, 301])
def test_rows_of_a_batch(batch, right):
    b = Builder()
    x = b.input(ArrayType((BATCH, 133), "float32"), "x")
    w = b.input(ArrayType((150, 133) if right else (133, 150), "float32"), "w")
    y = b.matmul(x, b.transpose(w, (1, 0)) if right else w)
    check(b.finish("layer", [b.tanh(y), b.reduce_sum(y, (0,))]), batch)


@pytest.mark.parametrize("batch", [1, 8, 100])
def test_weights_across_the_vectors_are_transposed_in_regions(batch, monkeypatch):
    monkeypatch.setattr(tile_regions, "LARGE_WEIGHT", 1 << 30)
    b = Builder()
    x = b.input(ArrayType((BATCH, 133), "float32"), "x")
    w = b.input(ArrayType((160, 133), "float32"), "w")
    spec = Contraction((BATCH, 160, 133), plain(0, 1), plain(0, 2), plain(1, 2), (BATCH, 160))
    check(b.finish("gradient", [b.tanh(b.contract(spec, x, w))]), batch)


def test_a_sum_of_nothing_is_zero():
    b = Builder()
    x = b.input(ArrayType((BATCH, 130), "float32"), "x")
    d = b.input(ArrayType((BATCH, 150), "float32"), "d")
    program = ENGINE.load(b.finish("gradient", [b.matmul(b.transpose(x, (1, 0)), d)]))
    (found,) = program([np.zeros((0, 130), np.float32), np.zeros((0, 150), np.float32)])
    assert not found.any()
