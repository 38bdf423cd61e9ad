"""Calls of modules: which one is running, who watches, and errors that name the layer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chainrule.core.errors import DTypeError, ShapeError
from chainrule.core.trees import Tree
from chainrule.trace.scope import here

if TYPE_CHECKING:
    from chainrule.nn.module import Module

Observer = Callable[[str, "Module", Tree], None]


class _Calls(threading.local):
    def __init__(self) -> None:
        self.stack: list[Module] = []
        self.observers: list[Observer] = []


_calls = _Calls()


class Call:
    """One call of a module, while it runs."""

    __slots__ = ("module", "path")

    def __init__(self, module: Module, path: str) -> None:
        self.module = module
        self.path = path

    def returned(self, result: Any) -> None:
        """Tell the observers."""
        for observer in _calls.observers:
            observer(self.path, self.module, result)


def innermost() -> Module | None:
    """The module whose ``forward`` is running."""
    return _calls.stack[-1] if _calls.stack else None


@contextmanager
def of(module: Module) -> Iterator[Call]:
    """A call of this module at the path of the current scope; errors of shape and type inside name the layer."""
    call = Call(module, here().path)
    _calls.stack.append(module)
    try:
        yield call
    except (ShapeError, DTypeError) as error:
        _name_layer(error, call)
        raise
    finally:
        _calls.stack.pop()


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Call ``observer(path, module, result)`` after every call of a module inside, innermost calls first."""
    _calls.observers.append(observer)
    try:
        yield
    finally:
        _calls.observers.remove(observer)


def _name_layer(error: ShapeError | DTypeError, call: Call) -> None:
    """Put the innermost layer in front of the message, once, and keep the traceback."""
    if vars(error).get("names_layer"):
        return
    vars(error)["names_layer"] = True
    kind = type(call.module).__name__
    if not call.path:
        error.args = (f"{kind}: {error}",)
    elif f"layer {call.path!r}" not in str(error):
        error.args = (f"layer {call.path!r} ({kind}): {error}",)
