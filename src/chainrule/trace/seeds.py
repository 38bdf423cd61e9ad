"""The sequence of default keys, which ``seed`` starts.

A key is two 32-bit words. Keys are derived, never consumed: draw number n from key k uses the key ``bits(k, stream n)``, so
results depend on the seed and the order of the draws, not on the engine or the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.engines.reference.threefry import random_bits

NDArray = np.ndarray[Any, Any]

# Folding a number into a key uses the stream of that number; the bits of a draw use this one.
DRAW_STREAM = 0xFFFFFFFF


class _Root:
    def __init__(self, seed: int = 0) -> None:
        self.lock = threading.Lock()
        self.key = key_from_seed(seed)
        self.drawn = 0


def key_from_seed(seed: int) -> NDArray:
    """The key of a seed from 0 to 2⁶⁴ - 1: its two words."""
    if not 0 <= seed < 2**64:
        raise ConfigError(f"a seed is an integer from 0 to 2**64 - 1, not {seed}")
    return np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)


def fold_in(key: NDArray, data: int) -> NDArray:
    """A new key from a key and a number."""
    with np.errstate(over="ignore"):
        return random_bits(key, np.asarray(data, np.uint32), (2,))


_root = _Root()
_local = threading.local()  # roots of the blocks that this thread is in


def seed(number: int) -> None:
    """Start the sequence of default keys again: initial weights, dropout, and every draw without ``key=``."""
    with _root.lock:
        _root.key, _root.drawn = key_from_seed(number), 0


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Inside the block, on this thread, default keys come from a sequence of their own; the outer one then goes on."""
    roots = _local.__dict__.setdefault("roots", [])
    roots.append(_Root(number))
    try:
        yield
    finally:
        roots.pop()


def default_key() -> NDArray:
    """The next key of the innermost sequence that ``seeded`` or ``seed`` started."""
    roots: list[_Root] = getattr(_local, "roots", [])
    root = roots[-1] if roots else _root
    with root.lock:
        root.drawn += 1
        return fold_in(root.key, root.drawn)
