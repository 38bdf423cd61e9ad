"""Arrays that begin at a line of a cache."""

import numpy as np
import pytest

from chainrule.core.alignment import (
    FEWEST_BYTES,
    LINE_BYTES,
    aligned_copy,
    aligned_empty,
    is_aligned,
    maker,
    owns_memory,
)

LARGE = np.arange(FEWEST_BYTES, dtype=np.float64).reshape(64, -1)


def shifted(array, bytes):
    """The same numbers so many bytes behind a line of a cache."""
    memory = np.empty(array.nbytes + 2 * LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES + bytes
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (70, 90)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "int64"])
def test_an_empty_array_begins_at_a_line(shape, dtype):
    found = aligned_empty(shape, np.dtype(dtype))
    assert found.shape == shape and found.dtype == dtype
    assert found.ctypes.data % LINE_BYTES == 0
    assert found.flags.writeable and found.flags.c_contiguous
    found[...] = 1
    assert found.all()


@pytest.mark.parametrize("bytes", [0, 16, 48])
def test_a_large_copy_begins_at_a_line_in_whatever_order_the_array_is(bytes):
    array = shifted(LARGE, bytes)
    assert is_aligned(array) == (bytes == 0)
    for given in (array, array.T, array[::2]):
        copy = aligned_copy(given)
        np.testing.assert_array_equal(copy, given)
        assert copy.flags.c_contiguous and is_aligned(copy) and not np.shares_memory(copy, given)


def test_small_arrays_begin_anywhere():
    small = shifted(np.ones(8), 16)
    assert is_aligned(small) and maker((8,), small.dtype) is np.empty
    assert aligned_copy(small).flags.owndata
    assert maker(LARGE.shape, LARGE.dtype) is aligned_empty


def test_views_do_not_own_memory():
    array = aligned_empty((70, 90), np.dtype("float32"))
    assert owns_memory(array) and owns_memory(np.ones(3))
    for view in (array[1:], array.view(), array.T, array.reshape(-1), np.ones(3)[:2], shifted(LARGE, 0)):
        assert not owns_memory(view)
