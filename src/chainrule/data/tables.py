"""Tables: named columns of equal length, read from a file, a query, a data frame or a dict of arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import ConfigError, DataError
from chainrule.core.files import reason
from chainrule.core.names import escape_terminal, shown_path
from chainrule.data.columns import KINDS, Column, Kind, Places, build_columns, did_you_mean, shown
from chainrule.data.csv import open_csv
from chainrule.data.frames import open_frame, open_mapping
from chainrule.data.tables_duckdb import RawTable, open_duckdb, open_parquet
from chainrule.data.tables_sqlite import open_sqlite

_PARQUET_MAGIC = b"PAR1"
_SQLITE_MAGIC = b"SQLite format 3\0"
_DUCKDB_MAGIC = b"DUCK"  # at byte 8, after a checksum


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of ``rows`` values each; ``places`` knows on which line of ``source`` each row stands."""

    columns: tuple[Column, ...]
    places: Places
    _positions: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_positions", {column.name: i for i, column in enumerate(self.columns)})

    @property
    def source(self) -> str:
        """The name of the file, or what else the table was read from, for messages."""
        return self.places.source

    @property
    def rows(self) -> int:
        return len(self.places.numbers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._positions)

    @property
    def line_numbers(self) -> NDArray[np.int64]:
        """For each row its line in a text file, counted from 1, or its number in any other source."""
        return self.places.numbers

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def column(self, name: str) -> Column:
        """The column called ``name``; raises DataError, suggesting the most similar name, if there is none."""
        if name not in self._positions:
            raise DataError(f"{self.source} has no column {shown(name)}{did_you_mean(name, self.names)}")
        return self.columns[self._positions[name]]

    def select(self, rows: NDArray[Any] | slice) -> Table:
        """The rows named by an integer array, a boolean mask or a slice, in that order."""
        places = Places(self.places.source, self.places.word, self.places.numbers[rows])
        return Table(tuple(column.select(rows) for column in self.columns), places)

    def drop(self, names: Iterable[str]) -> Table:
        """Without the columns ``names``; raises DataError if one of them is not there."""
        dropped = {self.column(name).name for name in names}
        return Table(tuple(column for column in self.columns if column.name not in dropped), self.places)


def read_table(
    source: object,
    *,
    types: Mapping[str, Kind] | None = None,
    sql: str | None = None,
    expect: Mapping[str, Kind] | None = None,
    notices: list[str] | None = None,
) -> Table:
    """Reads a table and settles the kind of every column (see :mod:`chainrule.data.columns`).

    Args:
        source: the path of a CSV, TSV or other delimited text file, of a Parquet file, or of a DuckDB or SQLite
            database; or a pandas, polars or Arrow table; or a dict from names to arrays. The content of a file, not
            its name, decides what it is.
        types: kinds to read columns as, whatever their values suggest.
        sql: the query on a database file that gives the table.
        expect: the columns that a model was trained on and their kinds. The table then has these columns alone, in
            this order, and nothing is inferred.
        notices: sentences about what was recognised or decided are appended here.

    Raises:
        DataError: for a source that cannot be read strictly, with the file and the line, row or column; for a column
            of ``types`` or ``expect`` that is not there; for a value that does not fit its kind or is infinite; for a
            table without rows, or with a single one unless ``expect`` is given.
        ConfigError: for an unknown kind, a query that fails, or a query without a database and the reverse.
        MissingExtraError: without DuckDB for files, without Narwhals for data frames.
    """
    notes: list[str] = [] if notices is None else notices
    kinds: dict[str, Kind] = {**(types or {}), **(expect or {})}
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise ConfigError(f"the type {shown(str(kind))} of column {shown(name)} is not one of {', '.join(KINDS)}")
    with _open(source, sql, notes) as raw:
        _check_rows(raw, alone_is_enough=expect is not None)
        wanted = raw.names if expect is None else tuple(expect)
        positions = {name: position for position, name in enumerate(raw.names)}
        for name in [*wanted, *kinds]:
            if name not in positions:
                raise DataError(f"{raw.places.source} has no column {shown(name)}{did_you_mean(name, raw.names)}")
        raws = (raw.read(positions[name], kinds.get(name) not in (None, "number", "date")) for name in wanted)
        columns = build_columns(raws, kinds, raw.places, comma_delimited=raw.comma_delimited, notices=notes)
        return Table(columns, raw.places)


@contextmanager
def _open(source: object, sql: str | None, notices: list[str]) -> Iterator[RawTable]:
    if isinstance(source, (str, PathLike)):
        folder = tempfile.TemporaryDirectory(prefix="chainrule-", ignore_cleanup_errors=True)
        with folder, _open_file(Path(source), sql, Path(folder.name), notices) as raw:
            yield raw
        return
    if sql is not None:
        raise ConfigError("a query needs the path of a database file; a table in memory has none")
    yield open_mapping(source) if isinstance(source, Mapping) else open_frame(source)


@contextmanager
def _open_file(path: Path, sql: str | None, folder: Path, notices: list[str]) -> Iterator[RawTable]:
    head = _first_bytes(path)
    name = escape_terminal(path.name)
    is_sqlite, is_duckdb = head.startswith(_SQLITE_MAGIC), head[8:12] == _DUCKDB_MAGIC
    if (is_sqlite or is_duckdb) and sql is None:
        raise ConfigError(f"{name} is a database; give the query that selects the table, such as SELECT * FROM …")
    if sql is not None and not (is_sqlite or is_duckdb):
        raise ConfigError(f"{name} is not a DuckDB or SQLite database, so it cannot be queried with SQL")
    if is_sqlite:
        opened = open_sqlite(path, sql or "")
    elif is_duckdb:
        opened = open_duckdb(path, sql or "", folder)
    elif head.startswith(_PARQUET_MAGIC):
        opened = open_parquet(path, folder)
    elif path.suffix.lower() in (".parquet", ".pq"):
        raise DataError(f"{name} is not a Parquet file, although its name says so")
    else:
        opened = open_csv(path, folder, notices)
    with opened as raw:
        yield raw


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{shown_path(path)} is a folder, not a table")
    try:
        if not path.is_file() and path.exists():
            raise DataError(f"{shown_path(path)} is not a regular file")
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(f"{shown_path(path)} is a link to a file that does not exist") from None
        neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{shown_path(path)} does not exist{did_you_mean(path.name, neighbours)}") from None
    except OSError as error:
        raise DataError(f"cannot read {shown_path(path)}: {reason(error)}") from None


def _check_rows(raw: RawTable, *, alone_is_enough: bool) -> None:
    if raw.rows == 0:
        raise DataError(f"{raw.places.source} has no rows")
    if raw.rows == 1 and not alone_is_enough:
        raise DataError(f"{raw.places.source} has a single row; there is nothing to learn from one example")
