"""Working memory of runs, in the pages that this machine hands out soonest.

Large pages make steps faster, for the processor looks up fewer of them, and most machines hand them out sooner too. On a virtual
machine whose host takes back what is free, a large page is what has been taken back, and a page of 2 MB is seen to take 5 ms, five
times as long as its bytes in small ones. Where one of the first large pages takes so long, the first run gets small pages for the rest,
and large ones take their places later. No page is taken that nobody uses.
"""

from __future__ import annotations

import ctypes
import mmap
import statistics
import sys
import time
import weakref
from collections.abc import Callable
from functools import cache
from threading import Thread
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

LARGE = 1 << 21
SMALL = mmap.PAGESIZE
# Less is handed out in a few milliseconds either way.
FEWEST_BYTES = 12 * LARGE
# Seconds before small pages are replaced: the first run is over by then.
PAUSE = 0.5

# Of Linux 5.14 and 6.1; earlier ones refuse, and do nothing.
_POPULATE_WRITE, _COLLAPSE = 23, 25
# Pages that are tried out: even where they are slow, the first may have been used before.
_SMALL_TRIED, _LARGE_TRIED = 16, 12


def working_memory(size: int) -> NDArray:
    """So many bytes with any content."""
    if size < FEWEST_BYTES or not sys.platform.startswith("linux"):
        return np.empty(size, np.uint8)
    mapped = mmap.mmap(-1, size + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole: NDArray = np.frombuffer(mapped, np.uint8)
    memory = whole[-whole.ctypes.data % LARGE :][:size]
    address, end = memory.ctypes.data, memory.ctypes.data + size // LARGE * LARGE
    if _advise(address, end, mmap.MADV_HUGEPAGE):
        return memory  # a kernel without large pages
    limit = 2 * LARGE / SMALL * _seconds_of_a_small_page()
    for tried in range(address, address + _LARGE_TRIED * LARGE, LARGE):
        began = time.perf_counter()
        if not _advise(tried, tried + LARGE, _POPULATE_WRITE) and time.perf_counter() - began > limit:
            _advise(tried + LARGE, end, mmap.MADV_NOHUGEPAGE)
            Thread(target=_enlarge, args=(weakref.ref(memory), tried + LARGE - address), daemon=True).start()
            break
    return memory


def _seconds_of_a_small_page() -> float:
    tried = mmap.mmap(-1, _SMALL_TRIED * SMALL, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    times = []
    for place in range(0, _SMALL_TRIED * SMALL, SMALL):
        began = time.perf_counter()
        tried[place] = 1
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _enlarge(reference: Callable[[], NDArray | None], first: int) -> None:
    """Replace small pages by large ones, as long as somebody has the memory; half of the time is left to others."""
    time.sleep(PAUSE)
    for place in range(first, sys.maxsize, LARGE):
        memory = reference()
        if memory is None or place + LARGE > memory.size:
            return
        began = time.perf_counter()
        address = memory.ctypes.data
        if place == first:
            _advise(address + first, address + memory.size // LARGE * LARGE, mmap.MADV_HUGEPAGE)
        if _is_resident(address + place) and _advise(address + place, address + place + LARGE, _COLLAPSE):
            return  # the kernel replaces them in its own time
        del memory
        time.sleep(time.perf_counter() - began)


def _is_resident(address: int) -> bool:
    """Whether all small pages of a large one are there."""
    answer = (ctypes.c_ubyte * (LARGE // SMALL))()
    failed = _c_library().mincore(ctypes.c_void_p(address), ctypes.c_size_t(LARGE), answer)
    return not failed and all(flag & 1 for flag in answer)


def _advise(begin: int, end: int, advice: int) -> int:
    """0 where the kernel has taken advice on the memory from one address to another. Other threads go on meanwhile."""
    refused: int = _c_library().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)
    return refused


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
