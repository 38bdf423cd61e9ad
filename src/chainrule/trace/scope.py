"""Where in the model tracing is: the module path, the mode, and the user's source line."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from chainrule.ir.graph import Origin

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep


@dataclass(frozen=True, slots=True)
class Scope:
    path: str = ""
    training: bool = False
    phase: str = "forward"


class _Here(threading.local):
    def __init__(self) -> None:
        self.scope = Scope()


_here = _Here()


def here() -> Scope:
    """The scope that is being traced or evaluated."""
    return _here.scope


@contextmanager
def _entered(inner: Scope) -> Iterator[None]:
    outer, _here.scope = _here.scope, inner
    try:
        yield
    finally:
        _here.scope = outer


@contextmanager
def scope(name: str, *, training: bool | None = None) -> Iterator[None]:
    """Put ``name`` on the path of everything recorded inside; ``training`` sets the mode where it is given."""
    outer = _here.scope
    path = f"{outer.path}.{name}" if outer.path and name else outer.path or name
    with _entered(replace(outer, path=path, training=outer.training if training is None else training)):
        yield


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Mark everything recorded inside as part of the ``forward``, ``backward`` or ``update`` phase of a step."""
    with _entered(replace(_here.scope, phase=name)):
        yield


def is_training() -> bool:
    """Whether the innermost call was made with ``training=True``; layers such as dropout ask this."""
    return _here.scope.training


def origin() -> Origin:
    """The scope together with the nearest source line outside this package. File names are kept without their folder."""
    inside = _here.scope
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        if frame.f_back is None:
            return Origin(inside.path, "", 0, inside.phase)
        frame = frame.f_back
    return _origin(inside.path, frame.f_code.co_filename, frame.f_lineno, inside.phase)


@lru_cache(maxsize=4096)
def _origin(path: str, file: str, line: int, phase: str) -> Origin:
    return Origin(path, Path(file).name, line, phase)
