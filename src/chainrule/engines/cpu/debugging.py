"""``CHAINRULE_DEBUG``: what to show of the lowering of every graph that is compiled, and where.

A list of words with commas between them. ``lowering`` shows every step, the key of a step (``lowering.STEPS``), such as ``nests`` or
``c``, that step alone, on standard error. ``lowering:FOLDER`` (or ``c:FOLDER``, and so on) writes files into a folder instead. ``0``
and ``1`` say nothing about the lowering: the command line prints tracebacks where the variable is set at all.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from chainrule.core.errors import ConfigError
from chainrule.core.files import reason
from chainrule.core.names import escape_terminal, safe_file_name, shown_path
from chainrule.engines.cpu.lowering import STEPS, Lowering, Step

_ALL = "lowering"
_SILENT = frozenset({"", "0", "1", "true", "yes", "on"})
_numbers = itertools.count()


def watcher(name: str) -> Callable[[Step, Lowering], None] | None:
    """What is to be called after each step of the lowering of a graph of this name; None where nothing is to be shown.

    Raises:
        ConfigError: if ``CHAINRULE_DEBUG`` has a word that means nothing, or the files cannot be written.
    """
    wanted = _requests(os.environ.get("CHAINRULE_DEBUG", ""))
    if not wanted:
        return None
    number = next(_numbers)

    def watch(step: Step, lowering: Lowering) -> None:
        for key, folder in wanted:
            if key not in (_ALL, step.key):
                continue
            text = step.text(lowering)
            if folder is None:
                print(f"--- {escape_terminal(name)}: {step.name}\n{text}", file=sys.stderr)
            else:
                _write(folder, f"{number:03d}-{name}-{STEPS.index(step) + 1:02d}-{step.key}", step.key, text)

    return watch


def _requests(setting: str) -> list[tuple[str, Path | None]]:
    """The words of the variable, each with its folder."""
    known = (_ALL, *(step.key for step in STEPS))
    found = []
    for word in setting.split(","):
        key, colon, folder = word.strip().partition(":")
        if key in _SILENT and not colon:
            continue
        if key not in known:
            shown = escape_terminal(key, limit=40)
            raise ConfigError(f"CHAINRULE_DEBUG has the word '{shown}'; it may have 1, {', '.join(known)}")
        found.append((key, Path(folder) if folder else None))
    return found


def _write(folder: Path, name: str, key: str, text: str) -> None:
    file = folder / f"{safe_file_name(name)}{'.c' if key == 'c' else '.txt'}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"CHAINRULE_DEBUG: {shown_path(file)} cannot be written: {reason(error)}") from None
