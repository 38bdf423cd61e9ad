"""The worker threads that compiled code runs on: one pool for the whole process (``c/runtime.c``)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from chainrule.core.errors import ConfigError
from chainrule.core.names import escape_terminal
from chainrule.engines.cpu.processor import usable_processors

LARGEST_POOL = 1024


class Runtime:
    """The loaded runtime library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.cr_start.restype = ctypes.c_void_p
        self._library = library
        self._functions = library.cr_start()
        if not self._functions:
            raise RuntimeError("the system refuses to start the threads of the cpu engine")
        self.use_threads(requested_threads())

    def attach(self, library: ctypes.CDLL) -> None:
        """Let a generated library use the threads."""
        library.cr_attach(ctypes.c_void_p(self._functions))

    @property
    def threads(self) -> int:
        """Threads that a parallel region uses, the calling one included."""
        return int(self._library.cr_used_threads())

    def use_threads(self, count: int) -> None:
        """Use so many threads from the next parallel region on. Results do not depend on it, only times do."""
        if not 1 <= count <= LARGEST_POOL:
            raise ConfigError(f"the number of threads must be from 1 to {LARGEST_POOL}, not {count}")
        self._library.cr_use_threads(ctypes.c_int(count))

    @contextmanager
    def using_threads(self, count: int) -> Iterator[None]:
        """Inside the block, use so many threads."""
        before = self.threads
        self.use_threads(count)
        try:
            yield
        finally:
            self.use_threads(before)


def requested_threads() -> int:
    """``CHAINRULE_THREADS``, or as many as there are processors for this process.

    Raises:
        ConfigError: if the variable is set to anything but a number from 1 to 1024.
    """
    text = os.environ.get("CHAINRULE_THREADS", "").strip()
    if not text:
        return min(usable_processors(), LARGEST_POOL)
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:8]) <= LARGEST_POOL:
        shown = escape_terminal(text, limit=40)
        raise ConfigError(f"CHAINRULE_THREADS must be a number from 1 to {LARGEST_POOL}, not '{shown}'")
    return int(text)
