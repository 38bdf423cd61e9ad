"""Generated C source in, callable library out."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from chainrule.core.files import reason
from chainrule.core.names import escape_terminal
from chainrule.engines.cpu.cache import Cache, entry_key, open_cache, temporary_cache
from chainrule.engines.cpu.parts import parts_of
from chainrule.engines.cpu.runtime import Runtime
from chainrule.engines.cpu.toolchain import CompilerError, NoRoomError, NoToolchain, Toolchain, find_toolchain

_SHARED = '#define CR_SHARED __attribute__((visibility("hidden")))\n'
_PART = '#define CR_SHARED extern __attribute__((visibility("hidden")))\n#define CR_PART 1\n'

_lock = threading.RLock()
_loaded: dict[str, ctypes.CDLL] = {}
_runtime: Runtime | None = None


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def load_library(source: str, *, name: str, toolchain: Toolchain | None = None, key: str | None = None) -> ctypes.CDLL:
    """Compile a generated source, or take it from the cache, and load it.

    The text of :func:`prelude` is put in front of ``source``: ``cr_parallel``, ``cr_scratch``, ``cr_begin``, ``cr_end`` and the
    functions of ``c/math.h`` are defined there. Mark what Python calls with ``CR_EXPORT``. ctypes releases the GIL
    during calls.

    Args:
        source: C11 with GNU extensions; where it is long, its loop nests are compiled in several parts.
        name: what error messages and debuggers call it; any text.
        toolchain: the compiler; by default the one that :func:`find_toolchain` finds.
        key: what :func:`library_key` says of these arguments, where that is known.

    Raises:
        CompilerError: if there is no compiler, or if it fails; the message has its first complaint.
    """
    toolchain = _chosen(toolchain)
    runtime = load_runtime()
    library = _load(key or library_key(source, name, toolchain), lambda: _texts(source, name), name, toolchain)
    runtime.attach(library)
    return library


def library_key(source: str, name: str, toolchain: Toolchain) -> str:
    """The key of the compiled library in the cache."""
    return entry_key(*_texts(source, name), toolchain.identity)


def _texts(source: str, name: str) -> Sequence[str]:
    """What the compiler is given."""
    whole, *parts = parts_of(source)
    begin = f'{prelude()}\n#line 1 "{_file_name(name)}.c"\n'
    if not parts:
        return [begin + whole]
    return [f"{_SHARED}{begin}{whole}", *(f"{_PART}{begin}{part}" for part in parts)]


@cache
def prelude() -> str:
    """The C text that every generated source begins with."""
    return "\n".join(
        f'#line 1 "{name}"\n{_c_text(name)}'
        for name in ("runtime.h", "objects.h", "quarter_turns.h", "logistic_pieces.h", "math.h", "repeat.h")
    )


def load_runtime() -> Runtime:
    """The worker threads of this process, started when first needed.

    Raises:
        CompilerError: if there is no compiler.
        ConfigError: if ``CHAINRULE_THREADS`` makes no sense.
    """
    global _runtime
    with _lock:
        if _runtime is None:
            text = "\n".join(f'#line 1 "{name}"\n{_c_text(name)}' for name in ("runtime.h", "runtime.c"))
            toolchain, texts = _chosen(None), [f"#define CR_RUNTIME_ITSELF 1\n{text}"]
            _runtime = Runtime(_load(entry_key(*texts, toolchain.identity), lambda: texts, "runtime", toolchain))
        return _runtime


def _chosen(toolchain: Toolchain | None) -> Toolchain:
    found = toolchain or find_toolchain()
    if isinstance(found, NoToolchain):
        raise CompilerError(found.reason)
    return found


@cache
def _c_text(name: str) -> str:
    return (resources.files(__package__) / "c" / name).read_text(encoding="utf-8")


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60] or "generated"


def _load(key: str, texts: Callable[[], Sequence[str]], name: str, toolchain: Toolchain) -> ctypes.CDLL:
    library = _loaded.get(key)
    if library is None:
        path = _compiled(key, texts, name, toolchain)
        with _lock:
            library = _loaded.get(key) or _opened(path)
            _loaded[key] = library
    return library


def _compiled(key: str, texts: Callable[[], Sequence[str]], name: str, toolchain: Toolchain) -> Path:
    def make(path: Path) -> None:
        toolchain.compile(texts(), path, name=name)

    usual: Cache = open_cache()[0]
    try:
        return usual.obtain(key, ".so", make)
    except (OSError, NoRoomError):  # the disk is full, or the folder has become unusable
        try:
            return temporary_cache().obtain(key, ".so", make)
        except OSError as error:
            shown = escape_terminal(name, limit=80)
            raise CompilerError(f"compiling {shown} failed: {reason(error)}") from None


def _opened(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        complaint = reason(error) if error.strerror else str(error)
        raise CompilerError(f"the compiled library cannot be loaded: {complaint}") from None
