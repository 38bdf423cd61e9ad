"""What follows from a tile while the next one is summed is right for every size, and the same for any number of threads.

Sums of few results are not split here, so that small updates run so.
"""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import check_near_reference, normal_operands, same_bits

from chainrule.engines.cpu import tile_parts, tile_trailing
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


def check(graph, batch, trailing=True):
    """Computed among the steps of a tile, near the reference engine, and the same bits for 1, 2, 3 and 5 threads."""
    given = list(map(np.abs, normal_operands(graph, batch)))
    program = ENGINE.load(graph)
    assert ("if (before)" in program.c_source) == trailing
    check_near_reference(graph, given, same_bits(program, given))


@pytest.mark.parametrize("even", [1, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiles_of_any_number_of_rows(even, dtype, monkeypatch):
    monkeypatch.setattr(tile_trailing, "EVEN", even)
    check(update(150, 208, dtype), 33)


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 300), st.integers(100, 300), st.integers(1, 70))
def test_odd_sizes(rows, columns, batch):
    check(update(rows, columns), batch)


@pytest.mark.parametrize("batch", [1, 2, 9, 70])
def test_fewer_steps_than_rows(batch):
    """All rows of the tile before are computed, however few steps there are to do it in."""
    check(update(96, 256), batch)


def test_one_array_needs_none():
    b = Builder()
    x, slope = b.input(ArrayType((BATCH, 150), "float32"), "x"), b.input(ArrayType((BATCH, 200), "float32"), "slope")
    check(b.finish("magnitude", [b.abs(gradient_of(b, x, slope))]), 33, trailing=False)


def test_truth_values_follow_after_the_tile():
    """They lie in memory as another type than they are computed in, which the function of a tile is not told."""
    b = Builder()
    x, slope = b.input(ArrayType((BATCH, 150), "float32"), "x"), b.input(ArrayType((BATCH, 208), "float32"), "slope")
    weight, chosen = (
        b.input(ArrayType((150, 208), "float32"), "weight"),
        b.input(ArrayType((150, 208), "bool"), "chosen"),
    )
    gradient = gradient_of(b, x, slope)
    check(b.finish("masked", [b.select(chosen, b.sub(weight, gradient), weight), gradient]), 33, trailing=False)


def test_literals_are_read_from_memory():
    """A compiler would keep them in registers of the sum."""
    text = ENGINE.load(update(150, 208)).c_source
    function = re.search(r"static CR_ALONE void tile_\w+\(.*\n(?:(?!\}).*\n)*", text).group()
    assert "literals[0] * v" in function
    assert not re.search(r"0x1\.[0-9a-f]+p", function)
