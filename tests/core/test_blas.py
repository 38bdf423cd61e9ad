"""Linear algebra on one thread: while somebody wants it, and never for longer."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from chainrule.core.blas import one_thread
from chainrule.nn import initialisers


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_inside_there_is_one_thread_and_afterwards_what_there_was() -> None:
    before = threads()
    with one_thread(), one_thread():
        assert threads() == {1}
    assert threads() == before


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_blocks_that_overlap_in_two_threads_give_back_what_there_was(first_ends_first: bool) -> None:
    before = threads()
    begun, go_on = threading.Event(), threading.Event()

    def long() -> None:
        with one_thread():
            begun.set()
            go_on.wait(10)

    other = threading.Thread(target=long)
    if not first_ends_first:
        other.start()
        begun.wait(10)
    with one_thread():
        if first_ends_first:
            other.start()
            begun.wait(10)
        assert threads() == {1}
    go_on.set()
    other.join()
    assert threads() == before
    with one_thread():
        assert threads() == {1}


def test_orthogonal_weights_do_not_wait_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decomposition of 128 by 128 took a second on four threads where other processes used the cores."""
    seen, decompose = [], np.linalg.qr
    monkeypatch.setattr(np.linalg, "qr", lambda matrix: (seen.append(threads()), decompose(matrix))[1])
    initialisers.orthogonal((8, 4))
    assert seen == [{1}]
