"""Options that several commands share, and their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from chainrule.core.errors import ConfigError
from chainrule.core.names import escape_terminal, hint, safe_file_name, shown_path
from chainrule.data.columns import KINDS
from chainrule.tabular import is_part_of_run

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

DEFAULT_PARENT = Path("runs")


def batch_size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | Literal["full"] | None:
    """The callback of ``--batch-size``: a positive number of examples, or ``full`` for all of them."""
    if value is None:
        return None
    if value == "full":
        return "full"
    if value.isdecimal() and int(value) >= 1:
        return int(value)
    raise click.BadParameter(f"'{escape_terminal(value)}' is neither a number of examples nor full", context, parameter)


def json_option(command: Decorated) -> Decorated:
    return click.option(
        "--json", "as_json", is_flag=True, help="Write one JSON object to standard output; words go to standard error."
    )(command)


def quiet_option(command: Decorated) -> Decorated:
    return click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")(command)


def sql_option(command: Decorated) -> Decorated:
    return click.option(
        "--sql", metavar="QUERY", help="The query that gives the table, where the data are a database file."
    )(command)


def column_kinds(given: tuple[str, ...]) -> dict[str, str]:
    """``COLUMN=KIND`` options as a dict; the last ``=`` separates, for a column's name may hold one.

    Raises:
        ConfigError: for an option without ``=``, an unknown kind, or a column with two kinds.
    """
    kinds: dict[str, str] = {}
    for text in given:
        column, separator, kind = text.rpartition("=")
        shown = escape_terminal(text, limit=80)
        if not separator or not column:
            raise ConfigError(f"--type {shown} does not say COLUMN=KIND, such as --type zip=category")
        if kind not in KINDS:
            wrong = escape_terminal(kind, limit=40)
            raise ConfigError(f"--type {shown}: there is no kind '{wrong}'; {hint(kind, KINDS)}")
        if kinds.setdefault(column, kind) != kind:
            raise ConfigError(f"--type gives column '{escape_terminal(column)}' two kinds, {kinds[column]} and {kind}")
    return kinds


def refuse_part_of_run(run: Path, output: Path) -> None:
    """Raise :class:`ConfigError` for a file to write that is one of the run's own."""
    if is_part_of_run(run, output):
        raise ConfigError(f"{shown_path(output)} is a part of the run; choose another file to write")


def free_run_folder(data: Path, *, force: bool, parent: Path = DEFAULT_PARENT) -> Path:
    """``runs/<name of the table>``; where that is taken, and not to be replaced, with -2, -3 … behind it."""
    first = parent / safe_file_name(data.stem)
    if force:
        return first
    folder, number = first, 1
    while folder.exists() or folder.is_symlink():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder
