"""The generator against the known answers that its authors publish, and as random_bits lays its words out."""

from __future__ import annotations

import numpy as np
import pytest

from chainrule.engines.reference.threefry import Blocks, random_bits, threefry
from chainrule.testing.oracles import threefry2x32

# Random123's kat_vectors: threefry 2x32 20: counter, key, result.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def words(*numbers):
    return np.array(numbers, np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    first, second = threefry(words(*key), words(counter[0]), words(counter[1]))
    assert (int(first[0]), int(second[0])) == expected
    assert threefry2x32(key, counter) == expected


def test_the_vectorised_generator_equals_the_one_on_python_integers():
    rng = np.random.default_rng(0)
    for key in rng.integers(0, 2**32, (5, 2)):
        counters = rng.integers(0, 2**32, (2, 50)).astype(np.uint32)
        first, second = threefry(key.astype(np.uint32), *counters)
        expected = [threefry2x32(tuple(map(int, key)), pair) for pair in counters.T.tolist()]
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 3), (3, 0, 2)])
def test_words_come_in_order_of_position(shape):
    key, stream = words(5, 7), np.asarray(9, np.uint32)
    found = random_bits(key, stream, shape)
    assert found.shape == shape
    assert found.dtype == np.uint32
    expected = [threefry2x32((5, 7), (n // 2, 9))[n % 2] for n in range(found.size)]
    assert found.reshape(-1).tolist() == expected


def test_more_words_begin_with_the_same_words():
    key, stream = words(1, 2), np.asarray(3, np.uint32)
    np.testing.assert_array_equal(random_bits(key, stream, (1001,))[:37], random_bits(key, stream, (37,)))


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9, 16, 17])
def test_many_words_are_those_of_their_blocks(monkeypatch, count):
    """However many counters are encrypted at a time."""
    key, stream = words(2**32 - 1, 7), np.asarray(2**32 - 1, np.uint32)
    whole = random_bits(key, stream, (count,))
    monkeypatch.setattr("chainrule.engines.reference.threefry.BLOCK", 4)
    np.testing.assert_array_equal(random_bits(key, stream, (count,)), whole)


def test_counters_begin_again_after_the_last():
    blocks = Blocks(words(5, 7), np.asarray(9, np.uint32), 4)
    expected = [threefry2x32((5, 7), (n % 2**32, 9)) for n in range(2**32 - 2, 2**32 + 2)]
    assert blocks.at(2**32 - 2, 4).T.tolist() == [list(pair) for pair in expected]
