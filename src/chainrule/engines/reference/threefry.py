"""Threefry-2x32 with 20 rounds, the counter-based generator behind ``random_bits``.

Salmon, Moraes, Dror & Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011. It needs only 32-bit addition, rotation and
exclusive or, so every engine can produce the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)

Words = np.ndarray[Any, np.dtype[np.uint32]]


def threefry(key: Words, counter0: Words, counter1: Words) -> tuple[Words, Words]:
    """Encrypt the counter pairs with the key pair: two words for each pair of counters."""
    # Arrays of one word each: arrays wrap around in silence where scalars warn.
    schedule = (key[:1], key[1:], key[:1] ^ key[1:] ^ _PARITY)
    x0, x1 = counter0 + schedule[0], counter1 + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 += x1
            x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
            x1 ^= x0
        x0 += schedule[(group + 1) % 3]
        x1 += schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def random_bits(key: Words, stream: Words, shape: tuple[int, ...]) -> Words:
    """Element i in row-major order is word ``i mod 2`` of the block of counter ``(i div 2, stream)``."""
    count = int(np.prod(shape, dtype=np.int64))
    blocks = np.arange((count + 1) // 2, dtype=np.uint32)
    words = threefry(key, blocks, np.full_like(blocks, stream))
    return np.stack(words, axis=-1).reshape(-1)[:count].reshape(shape)
