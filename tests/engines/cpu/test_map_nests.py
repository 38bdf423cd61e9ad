"""Maps whose conditions change along an axis, and those that read what was divided into heads: right, and without tests inside."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import same_bits

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise
from chainrule.transforms import trace


def check(function, *arrays, tolerance=1e-12):
    """The numbers of the reference engine, the same bits for 1, 2, 3 and 5 threads; the program."""
    graph = optimise(trace(function, *arrays, batch=("x",)))
    program = ENGINE.load(graph)
    for result, expected in zip(same_bits(program, arrays), REFERENCE.load(graph)(list(arrays)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    return program


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def side_by_side(x, parts):
    """Columns of heads next to each other as their gradients are: padded and added up, with the sums of all columns."""
    total = 0
    for number in range(parts):
        heads = (x * (number + 2)).transpose(0, 2, 1, 3)
        flat = heads.reshape((*heads.shape[:2], heads.shape[2] * heads.shape[3]))
        width = int(flat.shape[-1])
        total = total + ops.pad(flat, [(0, 0), (0, 0), (number * width, (parts - 1 - number) * width)])
    return total, total.sum((0, 1))


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 5),
    heads=st.integers(1, 5),
    length=st.integers(1, 20),
    features=st.sampled_from([1, 3, 16, 17, 32]),
    parts=st.integers(1, 4),
)
def test_parts_next_to_each_other(batch, heads, length, features, parts):
    def function(x):
        return side_by_side(x, parts)

    check(function, normal(batch, heads, length, features))


def test_no_condition_and_no_division_is_left_inside():
    def function(x):
        return side_by_side(x, 3)

    program = check(function, normal(3, 4, 24, 32))
    text = "\n".join(line for line in program.c_source.splitlines() if re.match(r"\s+const .* v\d+ = ", line))
    assert text
    assert "?" not in text
    assert " / " not in text


@settings(max_examples=10, deadline=None)
@given(
    widths=st.lists(st.sampled_from([1, 5, 16, 20, 33]), min_size=1, max_size=4),
    start=st.integers(0, 30),
    rows=st.integers(1, 9),
)
def test_concatenations(widths, start, rows):
    start = min(start, sum(widths) - 1)

    def function(x):
        parts = [x[:, :1] * k + normal(1, width, seed=k) for k, width in enumerate(widths)]
        return ops.concatenate(parts, axis=1)[:, start:] * 2.0 + 1.0

    check(function, normal(rows, 40))


@pytest.mark.parametrize("borders", [(1, 1), (16, 20), (0, 40)])
def test_borders_of_images(borders):
    def function(x):
        return ops.pad(x * 2.0, [(0, 0), borders, borders, (0, 0)], value=0.5) * x.sum()

    check(function, normal(2, 20, 18, 3))


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 4),
    size=st.tuples(st.integers(4, 11), st.integers(4, 11)),
    channels=st.sampled_from([1, 3, 16, 17]),
    window=st.integers(1, 3),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.integers(0, 1),
)
def test_gradients_of_what_was_read_with_a_stride(batch, size, channels, window, stride, padding):
    """Every position of a window adds its cotangents at every few places, with zeros between them."""
    padding = min(padding, window // 2)

    def function(x):
        def total(x):
            return (ops.max_pool(x, (window, window), stride, padding) ** 2).sum()

        slopes = cr.grad(total)(x)
        return slopes, slopes.sum((0, 1, 2))

    check(function, normal(batch, *size, channels))


@pytest.mark.parametrize(("stride", "size"), [(2, 8), (3, 9), (2, 9)])
def test_nothing_is_divided_in_the_gradient_of_windows_side_by_side(stride, size):
    def function(x):
        return cr.grad(lambda x: (ops.max_pool(x, (stride, stride), stride) ** 2).sum())(x)

    program = check(function, normal(3, size, size, 16))
    assert not re.search(r"const \w+ v\d+ = .*\) [/%] \d", program.c_source)


def test_residues_with_the_same_loops_share_them():
    """All four places of a window are written before the next window: what was read for one is near for the others."""

    def function(x):
        return cr.grad(lambda x: (ops.max_pool(x, (2, 2), 2) ** 2).sum())(x)

    source = check(function, normal(3, 8, 8, 16)).c_source
    gradient = source[source.index("d_1 = ") :]
    nest = gradient[: gradient.index("\n}\n")]
    assert [nest.count(f"for (long {name} ") for name in ("i1", "i2", "i3")] == [1, 1, 4]
