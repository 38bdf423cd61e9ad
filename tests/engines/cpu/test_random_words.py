"""Random words drawn in runs, and scatters by columns: the bits of the reference, whatever the shape and the number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import same_bits

from chainrule import ops
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ops import random
from chainrule.passes import optimise
from chainrule.transforms import trace

KEY = np.array([3, 2**31 + 5], np.uint32)


def check(function, *arrays):
    graph = optimise(trace(function, *arrays))
    program = ENGINE.load(graph)
    np.testing.assert_array_equal(same_bits(program, arrays), REFERENCE.load(graph)(list(arrays)))
    return program.c_source


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3))
def test_a_mask_has_the_bits_of_the_reference(shape):
    check(lambda x, key: ops.where(random.uniform(x.shape, key=key) < 0.7, x, 0.0), np.ones(shape, np.float32), KEY)


def test_words_are_drawn_in_runs():
    x = np.ones((40, 333), np.float32)
    source = check(lambda x, key: ops.where(random.uniform(x.shape, key=key) < 0.7, x, 0.0), x, KEY)
    assert "cr_random_words(v" in source


@pytest.mark.parametrize("start", [0, 1])
def test_a_part_of_what_is_drawn_begins_anywhere(start):
    check(
        lambda x, key: x + random.uniform((9, 101), key=key)[start::2, start:],
        np.ones((5 - start, 101 - start), "f"),
        KEY,
    )


def test_words_that_are_not_neighbours_are_drawn_one_by_one():
    check(lambda x, key: x + random.uniform((30, 50), key=key).T, np.ones((50, 30), np.float32), KEY)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 200), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_scattered_rows_are_added_in_order(rows, columns, size, seed):
    rng = np.random.default_rng(seed)
    x, places = rng.normal(size=(rows, columns)).astype(np.float32), rng.integers(-2, size + 2, rows)
    check(lambda x, places: ops.scatter_add(x, places, size), x, places)


def test_many_scattered_rows_run_in_chunks_of_columns():
    rng = np.random.default_rng(0)
    x, places = rng.normal(size=(3000, 300)).astype(np.float32), rng.integers(0, 50, 3000)
    check(lambda x, places: ops.scatter_add(x, places, 50), x, places)


def test_parts_of_a_map_draw_their_words_each():
    """Dropout of two arrays side by side: each is a loop of its own, after what all of its turns share."""

    def function(x, y, key):
        joined = ops.concatenate([x, y], axis=-1)
        return ops.where(random.uniform(joined.shape, key=key) < 0.7, joined, 0.0)

    source = check(function, np.ones((40, 100), np.float32), np.full((40, 47), 2, np.float32), KEY)
    assert source.count("cr_random_words(v") > 2
