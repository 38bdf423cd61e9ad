"""Python's collector of reference cycles, and when it has nothing to find."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the collector out where many objects are made and all of them stay: it would walk over them, and over everything else in
    the process, in the hope that some are garbage. What is no longer referred to goes as always."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
