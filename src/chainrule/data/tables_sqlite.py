"""Queries on SQLite database files, through the standard library: DuckDB would have to download an extension."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.core.names import escape_terminal
from chainrule.data.columns import Places, RawColumn
from chainrule.data.frames import raw_from_objects
from chainrule.data.tables_duckdb import RawTable, check_names, first_line


@contextmanager
def open_sqlite(path: Path, sql: str) -> Iterator[RawTable]:
    """The result of one query on an SQLite database file, which is opened read-only.

    Raises ConfigError for a query that fails or returns nothing, DataError for a repeated name or a value that is a
    blob.
    """
    source = escape_terminal(path.name)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            cursor = connection.execute(sql)
            if cursor.description is None:
                raise ConfigError(f"the query on {source} must be a single SELECT")
            names = [str(entry[0]) for entry in cursor.description]
            columns = list(zip(*cursor.fetchall()))
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ConfigError(f"the query on {source} failed: {first_line(error)}") from None
    check_names(names, source)
    rows = len(columns[0]) if columns else 0
    places = Places(source, "row", np.arange(1, rows + 1))

    def read(position: int, as_text: bool) -> RawColumn:
        return raw_from_objects(names[position], columns[position] if columns else (), places)

    yield RawTable(tuple(names), rows, places, read)
