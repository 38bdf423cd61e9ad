"""NumPy's linear algebra on one thread.

A BLAS wakes all its threads for products that one thread finishes in a fraction of a millisecond, and where other processes use the
cores, waiting for those threads takes a hundred times as long as the product.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _libraries() -> list[Any]:
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


# Held by the block that has set the numbers of threads, so that only what it found is given back.
_setting = threading.Lock()


def _renew() -> None:
    global _setting
    _setting = threading.Lock()  # another thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let matrix products and decompositions inside use one thread. Within such a block, and beside that of another Python thread, it
    does nothing."""
    setting = _setting
    if not setting.acquire(blocking=False):
        yield
        return
    try:
        before = [library.get_num_threads() for library in _libraries()]
        for library in _libraries():
            library.set_num_threads(1)
        try:
            yield
        finally:
            for library, threads in zip(_libraries(), before, strict=True):
                library.set_num_threads(threads)
                # Newer versions of threadpoolctl let only one thread of the process set numbers, until it says that it has done.
                if hasattr(library, "clear_controlling_thread"):
                    library.clear_controlling_thread()
    finally:
        setting.release()
