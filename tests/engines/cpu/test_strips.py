"""Strips: what follows from rows of several tiles at once is right for every size, and the same for any number of threads.

Sums of few results are not split here, so that small updates run in strips.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import check_near_reference, normal_operands, same_bits

from chainrule.engines.cpu import tile_parts, tile_strips
from chainrule.engines.cpu.engine import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, plain
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH


@pytest.fixture(autouse=True, scope="module")
def whole_sums():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_parts, "FEW_OUTPUTS", 0)
        yield


def gradient_of(b, x, slope):
    """x.T @ slope."""
    shape = (x.shape[1], slope.shape[1])
    return b.contract(Contraction((BATCH, *shape), plain(1, 2), plain(0, 1), plain(0, 2), shape), x, slope)


def update(rows, columns, dtype="float32"):
    """A weight's gradient as a sum over the batch, and what Adam does with it, or nearly."""
    b = Builder()
    x, slope = b.input(ArrayType((BATCH, rows), dtype), "x"), b.input(ArrayType((BATCH, columns), dtype), "slope")
    weight, mean, square = (b.input(ArrayType((rows, columns), dtype), name) for name in ("weight", "mean", "square"))
    gradient = gradient_of(b, x, slope)
    mean = b.add(b.mul(b.full(mean.type, 0.9), mean), gradient)
    square = b.add(square, b.mul(gradient, gradient))
    step = b.div(mean, b.add(b.sqrt(square), b.full(mean.type, 1)))
    return b.finish("update", [b.sub(weight, step), mean, square])


def check(graph, batch, strips=True):
    """In strips, near the reference engine, and the same bits for 1, 2, 3 and 5 threads."""
    given = list(map(np.abs, normal_operands(graph, batch)))
    program = ENGINE.load(graph)
    assert ("sums + (panel - first_panel)" in program.c_source) == strips
    check_near_reference(graph, given, same_bits(program, given))


@pytest.mark.parametrize("sums", [1 << 9, 1 << 15])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_in_one_strip_and_in_several(sums, dtype, monkeypatch):
    monkeypatch.setattr(tile_strips, "SUMS", sums)
    check(update(150, 200, dtype), 33)


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 300), st.integers(100, 300), st.integers(1, 70))
def test_odd_sizes(rows, columns, batch):
    check(update(rows, columns), batch)


def test_one_array_needs_none():
    b = Builder()
    x, slope = b.input(ArrayType((BATCH, 150), "float32"), "x"), b.input(ArrayType((BATCH, 200), "float32"), "slope")
    check(b.finish("magnitude", [b.abs(gradient_of(b, x, slope))]), 33, strips=False)
