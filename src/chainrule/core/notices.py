"""Notices: sentences that are worth reading once, about this machine and not about what was asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chainrule.core.names import escape_terminal

Show = Callable[[str], object]


def _print(sentence: str) -> None:
    print(f"note: {escape_terminal(sentence)}", file=sys.stderr)


_said: set[str] = set()
_show: list[Show] = [_print]


def say_once(sentence: str) -> None:
    """Show a notice, once in the life of this process, on standard error or where :func:`shown_by` says."""
    if sentence not in _said:
        _said.add(sentence)
        _show[-1](sentence)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Inside the block, notices are given to ``show``."""
    _show.append(show)
    try:
        yield
    finally:
        _show.remove(show)
