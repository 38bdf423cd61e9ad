"""Weights across the vectors, laid out panel by panel: right for every size, and the same for any number of threads.

Small weights get panels here, and a panel's rows of a batch are divided among several chunks.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import check_near_reference, normal_operands, same_bits

import chainrule as cr
from chainrule.engines.cpu import tile_panels
from chainrule.engines.cpu.engine import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, plain
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH


@pytest.fixture(autouse=True, scope="module")
def small_weights():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_panels, "SMALLEST_ACROSS", 1 << 12)
        yield


def gradient(depth, columns, dtype="float32", follows=True):
    """The cotangent of a layer's input, where it is positive, and its sum over the batch."""
    b = Builder()
    slope, weight = (
        b.input(ArrayType((BATCH, depth), dtype), "slope"),
        b.input(ArrayType((columns, depth), dtype), "weight"),
    )
    shape = (BATCH, columns)
    product = b.contract(Contraction((*shape, depth), plain(0, 1), plain(0, 2), plain(1, 2), shape), slope, weight)
    if not follows:
        return b.finish("gradient", [product])
    kept = b.maximum(product, b.input(ArrayType(shape, dtype), "before"))
    return b.finish("gradient", [kept, b.reduce_sum(kept, (0,))])


def check(graph, batch):
    """In panels, near the reference engine, and the same bits for 1, 2, 3 and 5 threads."""
    given = normal_operands(graph, batch)
    program = ENGINE.load(graph)
    assert "laid_out" in program.c_source
    check_near_reference(graph, given, same_bits(program, given))


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_in_one_chunk_and_in_several(dtype, follows):
    check(gradient(200, 600, dtype, follows), 7)
    check(gradient(200, 96, dtype, follows), 300)


@settings(max_examples=10, deadline=None)
@given(st.integers(40, 150), st.integers(40, 300), st.integers(1, 150))
def test_odd_sizes(depth, columns, batch):
    check(gradient(depth, columns), batch)


def test_a_panel_is_no_larger_than_its_place():
    graph = gradient(tile_panels.LARGEST_PANEL // 64 + 16, 32)
    assert "laid_out" not in ENGINE.load(graph).c_source


def test_in_loops_weights_are_laid_out_before():
    def three_steps(weight, x):
        return cr.scan(lambda state, _: (cr.tanh(state @ weight.T + x), 0.0), x, length=3)[0]

    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(64, 64)).astype(np.float32) / 8, rng.normal(size=(20, 64)).astype(np.float32)
    compiled = cr.compile(three_steps, batch=["x"], engine="cpu")
    expected = cr.compile(three_steps, batch=["x"], engine="reference")(weight, x)
    np.testing.assert_allclose(compiled(weight, x), expected, atol=1e-5)
    assert "laid_out" not in compiled.c_source
    once = cr.compile(lambda weight, x: x @ weight.T, batch=["x"], engine="cpu")
    once(weight, x)
    assert "laid_out" in once.c_source
