"""Working memory: that it is memory, which pages it is made of, and that it goes when nobody has it."""

from __future__ import annotations

import mmap
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from chainrule.engines.cpu import pages
from chainrule.engines.cpu.pages import LARGE, working_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for pages")
PAGES = 14
SIZE = PAGES * LARGE + 12345
Calls = list[tuple[int, int, int]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the kernel was advised: the first large page, how many, and what."""
    made: Calls = []
    advise = pages._advise

    def noted(begin: int, end: int, advice: int) -> int:
        made.append((begin, end, advice))
        return advise(begin, end, advice)

    monkeypatch.setattr(pages, "_advise", noted)
    return made


def of_memory(calls: Calls, memory: pages.NDArray) -> Calls:
    return [((b - memory.ctypes.data) // LARGE, (e - b) // LARGE, advice) for b, e, advice in calls]


def wait_for_others() -> None:
    for thread in threading.enumerate():
        if thread.daemon and getattr(thread, "_target", None) is pages._enlarge:
            thread.join(30)


def test_few_bytes_are_an_ordinary_array(calls: Calls) -> None:
    assert working_memory(1000).shape == (1000,) and calls == []


def test_large_pages_that_come_soon_are_what_is_used(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_seconds_of_a_small_page", lambda: 1.0)
    memory = working_memory(SIZE)
    assert type(memory) is np.ndarray and memory.shape == (SIZE,) and memory.dtype == np.uint8
    assert memory.ctypes.data % LARGE == 0
    assert of_memory(calls, memory) == [
        (0, PAGES, mmap.MADV_HUGEPAGE), *((k, 1, pages._POPULATE_WRITE) for k in range(12))
    ]  # fmt: skip
    memory[:] = 3
    assert (memory == 3).all()


def test_where_they_take_long_small_ones_are_used_first(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_seconds_of_a_small_page", lambda: 0.0)
    monkeypatch.setattr(pages, "PAUSE", 0.3)
    memory = working_memory(SIZE)
    assert of_memory(calls, memory) == [
        (0, PAGES, mmap.MADV_HUGEPAGE), (0, 1, pages._POPULATE_WRITE), (1, PAGES - 1, mmap.MADV_NOHUGEPAGE)
    ]  # fmt: skip
    used = np.random.default_rng(0).integers(0, 256, 7 * LARGE, np.uint8)
    memory[: used.size] = used
    wait_for_others()
    later = of_memory(calls, memory)[3:]
    assert later[0] == (1, PAGES - 1, mmap.MADV_HUGEPAGE)
    assert later[1:] in ([(k, 1, pages._COLLAPSE) for k in range(1, 7)], [(1, 1, pages._COLLAPSE)])  # an older kernel
    np.testing.assert_array_equal(memory[: used.size], used)
    assert not any(pages._is_resident(memory.ctypes.data + k * LARGE) for k in range(7, PAGES))  # nobody has used them


def test_memory_that_nobody_has_is_given_back(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_seconds_of_a_small_page", lambda: 0.0)
    monkeypatch.setattr(pages, "PAUSE", 0.2)
    memory = working_memory(SIZE)
    gone = weakref.ref(memory)
    del memory
    time.sleep(0.01)
    assert gone() is None
    wait_for_others()
    assert pages._COLLAPSE not in {advice for _, _, advice in calls}


def test_a_kernel_that_knows_none_of_this_hands_out_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_advise", lambda *given: -1)
    memory = working_memory(SIZE)
    memory[::4096] = 1
    assert memory.sum() == -(-SIZE // 4096)
