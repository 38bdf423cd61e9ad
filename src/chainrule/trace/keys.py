"""Where a draw inside an operation or a traced function gets its key from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.trace.array import Array, as_array
from chainrule.trace.context import current


def next_key() -> Array:
    """A fresh key in the current context: derived from its own key where one was given, else from the default sequence."""
    context = current()
    assert context is not None
    return Array(context.derive_key(), context)


@contextmanager
def using_key(key: Any) -> Iterator[None]:
    """Let draws without ``key=`` inside a traced function derive from this key."""
    context = current()
    if context is None:
        raise ConfigError("using_key works inside a traced function; outside, call chainrule.seed(n)")
    before = context.key, context.keys_drawn
    context.key, context.keys_drawn = as_array(key).value, 0
    try:
        yield
    finally:
        context.key, context.keys_drawn = before
