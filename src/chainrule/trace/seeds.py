"""The sequence of default keys, which ``seed`` starts.

A key is two 32-bit words. Keys are derived, never consumed: draw number n from key k uses the key ``bits(k, stream n)``, so
results depend on the seed and the order of the draws, not on the engine or the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ConfigError(f"a seed is an integer from 0 to 2**64 - 1, not {seed!r}")
    return np.array([int(seed) & 0xFFFFFFFF, int(seed) >> 32], np.uint32)


def fold_in(key: NDArray, data: int) -> NDArray:
    """A new key from a key and a number."""
    with np.errstate(over="ignore"):
        return random_bits(key, np.asarray(data, np.uint32), (2,))


# The sequence of the process, and that of the innermost block which this thread or asynchronous task is in.
_root = _Root()
_block: ContextVar[_Root | None] = ContextVar("block", default=None)


def seed(number: int) -> None:
    """Start the sequence of default keys again: initial weights, dropout, and every draw without ``key=``.

    The sequence is one for the whole process, as PyTorch's: threads that draw at once never get the same key, but which of them gets
    which depends on their pace. In a block of :func:`seeded` it is that block's.
    """
    root = _innermost()
    with root.lock:
        root.key, root.drawn = key_from_seed(number), 0


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Inside the block default keys come from a sequence of its own; the outer one then goes on where it was.

    The block is that of one thread or asynchronous task, so those that train at once, each in a block, have the bits of training
    alone. Threads started inside do not inherit it.
    """
    token = _block.set(_Root(number))
    try:
        yield
    finally:
        _block.reset(token)


def _innermost() -> _Root:
    block = _block.get()
    return _root if block is None else block


def default_key() -> NDArray:
    """The next key of the innermost sequence that ``seeded`` or ``seed`` started."""
    root = _innermost()
    with root.lock:
        root.drawn += 1
        return fold_in(root.key, root.drawn)
