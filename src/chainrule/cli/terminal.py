"""Where text goes: results on standard output, everything else on standard error, names from data made harmless.

With ``--json`` standard output carries one JSON object and nothing else, and what is meant for people goes to standard
error; with ``--quiet`` that part is left out. Text is never read as markup, and what came from data is escaped.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from chainrule.core.files import to_json
from chainrule.core.names import escape_terminal
from chainrule.report.formats import MINUS, SPACE, THIN_SPACE

_WIDTH_OF_A_FILE = 100_000  # nothing is wrapped or cut where nobody sees an edge
_WIDEST_TEXT = 100  # columns; longer lines are hard to read

# How the report writes numbers, and what can be typed and copied instead.
_GROUPS = re.compile(rf"(?<=\d){THIN_SPACE}(?=\d\d\d)")
_SIGN = re.compile(rf"{MINUS}(?=[\d∞])")
_UNIT = re.compile(rf"(?<=\d){SPACE}(?=[%a-z])")


class Terminal:
    """The two output streams of one command."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.errors = open_console(sys.stderr)
        self.people = self.errors if json else open_console(sys.stdout)
        self.may_close = False
        """Whether the command goes on when nobody reads on; ``closed`` then says so."""
        self._closed: list[Console] = []

    @property
    def closed(self) -> bool:
        """Whether a stream was closed by its reader while the command went on."""
        return bool(self._closed)

    def say(self, text: str | Text = "", *, style: str = "", indent: int = 0) -> None:
        """A paragraph, wrapped at the edge of the terminal."""
        if self.quiet:
            return
        paragraph = text if isinstance(text, Text) else Text(safe(text), style)
        if is_seen(self.people):
            width = min(self.people.width, _WIDEST_TEXT)
            self._print(self.people, Padding(paragraph, (0, 0, 0, indent)), width=width)
        else:
            self._print(self.people, Text(" " * indent).append(paragraph), soft_wrap=True)

    def line(self, *parts: str | tuple[str, str], indent: int = 0) -> None:
        """One line that is never broken or cut, such as a command to copy; a part may be (text, style)."""
        if self.quiet:
            return
        self._print(self.people, joined(*parts, indent=indent), soft_wrap=True)

    def table(self, table: Table, *, indent: int = 2) -> None:
        """A table, cut at the edge of the terminal."""
        if self.quiet:
            return
        padded = Padding(table, (0, 0, 0, indent), expand=False)
        if is_seen(self.people):
            self._print(self.people, padded)
            return
        for line in _drawn(padded).splitlines():  # rich fills lines up with spaces
            self._print(self.people, Text(line.rstrip()), soft_wrap=True)

    def facts(self, rows: Iterable[tuple[str, str | Text]]) -> None:
        """Labels with what they stand for; long texts hang below themselves."""
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in rows:
            table.add_row(Text(label), value if isinstance(value, Text) else Text(safe(value)))
        self.table(table)

    def warn(self, sentence: str) -> None:
        """A sentence that is worth reading also where results are redirected to a file."""
        if not self.quiet:
            text = joined(("note: ", "yellow"), sentence)
            self._print(self.errors, text, soft_wrap=not is_seen(self.errors))

    def result(self, content: Mapping[str, Any]) -> None:
        """The JSON object of ``--json``; nothing without it."""
        if self.json:
            sys.stdout.write(printable_json(content) + "\n")
            sys.stdout.flush()

    def _print(self, console: Console, *content: Any, **options: Any) -> None:
        if console in self._closed:
            return
        try:
            console.print(*content, **options)
        except BrokenPipeError:
            if not self.may_close:
                raise
            self._closed.append(console)


def safe(text: object) -> str:
    """Text as it may be written to a terminal: one line without control characters, numbers with ASCII signs."""
    return escape_terminal(_UNIT.sub(" ", _SIGN.sub("-", _GROUPS.sub(",", str(text)))))


def in_sentence(title: str) -> str:
    """A title as it reads inside a sentence: its first letter small, unless it belongs to a symbol such as F1 or R²."""
    return title if len(title) < 3 or not title[1].islower() else title[0].lower() + title[1:]


def joined(*parts: str | tuple[str, str], indent: int = 0) -> Text:
    """One text of parts that are made safe, each alone or with its style."""
    text = Text(" " * indent)
    for part in parts:
        shown, style = part if isinstance(part, tuple) else (part, "")
        text.append(safe(shown), style)
    return text


def listing(head: Sequence[str], *, numeric: Iterable[int] = (), wrapped: Iterable[int] = ()) -> Table:
    """A table below a line of headings; columns of ``numeric`` stand to the right, those of ``wrapped`` fold."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", show_edge=False)
    right, folding = set(numeric), set(wrapped)
    for place, title in enumerate(head):
        table.add_column(
            Text(safe(title)),
            justify="right" if place in right else "left",
            overflow="fold" if place in folding else "ellipsis",
            no_wrap=place not in folding,
        )
    return table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process here."""
        raise BrokenPipeError


def open_console(stream: TextIO) -> Console:
    """A rich console that reads no markup, survives narrow encodings, and wraps only where there is an edge."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    console = _Console(file=stream, markup=False, highlight=False, emoji=False)
    if not is_seen(console):
        console.width = _WIDTH_OF_A_FILE
    return console


def is_seen(console: Console) -> bool:
    """Whether this is a terminal; what rich says of one is also true of a file under ``FORCE_COLOR``."""
    return console.file.isatty()


def _drawn(content: RenderableType) -> str:
    """As it is written to a file."""
    stream = io.StringIO()
    open_console(stream).print(content)
    return stream.getvalue()


def printable_json(content: object) -> str:
    """JSON without NaN and infinities (they become null), its text readable and harmless on a terminal."""
    written = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, indent=2)
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in written)


def _finite(content: object) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    return json.loads(to_json(content))  # NumPy scalars, and a TypeError for what is no JSON
