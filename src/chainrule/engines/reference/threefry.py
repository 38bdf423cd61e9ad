"""Threefry-2x32 with 20 rounds, the counter-based generator behind ``random_bits``.

Salmon, Moraes, Dror & Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011. It needs only 32-bit addition, rotation and
exclusive or, so every engine can produce the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.alignment import aligned_empty

# Of each round: by how much one word is shifted to the left and to the right, which rotates it.
_ROTATIONS = tuple(
    tuple((np.asarray(left, np.uint32), np.asarray(32 - left, np.uint32)) for left in four)
    for four in ((13, 15, 26, 6), (17, 29, 16, 24))
)
_PARITY = np.uint32(0x1BD11BDA)

# Counters at a time. NumPy goes over them a hundred times: two arrays of words and a spare one, 384 KiB, stay in the second cache.
BLOCK = 2**15

Words = np.ndarray[Any, np.dtype[np.uint32]]


def threefry(key: Words, counter0: Words, counter1: Words) -> tuple[Words, Words]:
    """Encrypt the counter pairs with the key pair: two words for each pair of counters."""
    schedule = _schedule(key)
    x0, x1 = counter0 + schedule[0], counter1 + schedule[1]
    _mix(x0, x1, schedule, np.empty_like(x1))
    return x0, x1


def _schedule(key: Words) -> tuple[Words, Words, Words]:
    # Arrays of one word each: arrays wrap around in silence where scalars warn.
    return key[:1], key[1:], key[:1] ^ key[1:] ^ _PARITY


def _mix(x0: Words, x1: Words, schedule: tuple[Words, Words, Words], spare: Words) -> None:
    """The rounds, in place, on counters to which the key has been added."""
    for group in range(5):
        for left, right in _ROTATIONS[group % 2]:
            np.add(x0, x1, x0)
            np.right_shift(x1, right, spare)
            np.left_shift(x1, left, x1)
            # The two shifts have no bit in common: their exclusive or is the rotation. It is taken from both sides, which
            # waits for less than joining them first.
            np.bitwise_xor(spare, x0, spare)
            np.bitwise_xor(x1, spare, x1)
        np.add(x0, schedule[(group + 1) % 3], x0)
        np.add(x1, schedule[(group + 2) % 3] + np.uint32(group + 1), x1)


class Blocks:
    """The blocks of the counters ``(i, stream)`` for so many neighbouring i at a time, in memory that is used again."""

    def __init__(self, key: Words, stream: Words, most: int) -> None:
        self._schedule = _schedule(key)
        self._counters = np.arange(most, dtype=np.uint32)
        self._second = stream + self._schedule[1]
        self._words = aligned_empty((2, most), self._counters.dtype)
        self._spare = aligned_empty((most,), self._counters.dtype)

    def at(self, first: int, count: int) -> Words:
        """The two words of each block from ``first`` on, of shape (2, count): until the next call, and to be written over."""
        words = self._words[:, :count]
        np.add(self._counters[:count], self._schedule[0] + np.uint32(first % 2**32), out=words[0])
        words[1] = self._second
        _mix(words[0], words[1], self._schedule, self._spare[:count])
        return words

    def write(self, words: Words, first: int) -> None:
        """Fill an array of one axis with the words of the blocks from ``first`` on, both words of each in turn."""
        pairs = self.at(first, (words.size + 1) // 2)
        words[0::2] = pairs[0]
        words[1::2] = pairs[1, : words.size // 2]


def random_bits(key: Words, stream: Words, shape: tuple[int, ...]) -> Words:
    """Element i in row-major order is word ``i mod 2`` of the block of counter ``(i div 2, stream)``."""
    found = np.empty(shape, np.uint32)
    flat = found.reshape(-1)
    pairs = (flat.size + 1) // 2
    blocks = Blocks(key, stream, min(pairs, BLOCK))
    for first in range(0, pairs, BLOCK):
        blocks.write(flat[2 * first : 2 * (first + BLOCK)], first)
    return found
