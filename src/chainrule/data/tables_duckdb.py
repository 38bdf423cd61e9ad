"""Tables that DuckDB reads: the connection, Parquet files, and queries on DuckDB database files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, DataError, MissingExtraError
from chainrule.core.names import escape_terminal
from chainrule.data.columns import Places, RawColumn, shown
from chainrule.data.columns_duckdb import Relation, TextColumns

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = {*_INTEGERS, *(f"U{name}" for name in _INTEGERS), "FLOAT", "DOUBLE", "DECIMAL"}
_DATES = {
    "DATE",
    "TIMESTAMP",
    "TIMESTAMP_S",
    "TIMESTAMP_MS",
    "TIMESTAMP_NS",
    "TIMESTAMP WITH TIME ZONE",
}
_TEXTS = {"VARCHAR", "ENUM", "UUID", '"NULL"', "NULL"}


@dataclass(frozen=True, eq=False)
class RawTable:
    """A source of columns that are read one at a time, because a table can be larger as text than as numbers.

    ``read(position, as_text)`` gives a column; with ``as_text``, text is not to be turned into numbers or dates yet.
    """

    names: tuple[str, ...]
    rows: int
    places: Places
    read: Callable[[int, bool], RawColumn]
    comma_delimited: bool = True


@dataclass(frozen=True, eq=False)
class Connection:
    """A DuckDB connection and the exception its errors derive from."""

    raw: Any
    errors: type[Exception]

    def execute(self, query: str, parameters: dict[str, object] | None = None) -> Any:
        return self.raw.execute(query, parameters or {})


@contextmanager
def connect(folder: Path, database: Path | None = None) -> Iterator[Connection]:
    """DuckDB on ``database``, read-only, or in memory; ``folder`` takes what memory does not.

    It installs no extensions, and a query on a database reaches no other file.
    """
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError(
            "reading tables from files needs DuckDB; install it with: pip install 'chainrule[tables]'"
        ) from None
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "temp_directory": str(folder),
    }
    try:
        raw = duckdb.connect(str(database or ":memory:"), read_only=database is not None, config=config)
    except duckdb.Error as error:
        name = escape_terminal(database.name if database else "DuckDB")
        raise DataError(f"{name} cannot be opened: {first_line(error)}") from None
    try:
        if database is not None:
            raw.execute("SET enable_external_access=false")
        yield Connection(raw, duckdb.Error)
    finally:
        raw.close()


@contextmanager
def open_parquet(path: Path, folder: Path) -> Iterator[RawTable]:
    """A Parquet file. Raises DataError if it is damaged, repeats a name, or has a column that holds no scalars."""
    source = escape_terminal(path.name)
    pattern = _sql_text(re.sub(r"[\[*?]", r"[\g<0>]", str(path.resolve())))  # DuckDB takes a path for a pattern
    with connect(folder) as connection:
        try:
            schema = connection.execute(f"SELECT name, num_children FROM parquet_schema({pattern})").fetchall()
            names = _top_level(schema)
            types = [row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM read_parquet({pattern})").fetchall()]
            table = f"read_parquet({pattern}, file_row_number=true) AS t({_numbered(names)}, r)"
            raw = _raw_table(connection, source, table, "r", names, types)
        except connection.errors as error:
            raise DataError(f"{source} cannot be read as Parquet: {first_line(error)}") from None
        yield raw


@contextmanager
def open_duckdb(path: Path, sql: str, folder: Path) -> Iterator[RawTable]:
    """The result of one SELECT on a DuckDB database file, rows in the order in which it gives them.

    Raises ConfigError for a query that is not one SELECT or that fails, otherwise as :func:`open_parquet`.
    """
    source = escape_terminal(path.name)
    with connect(folder, path) as connection:
        try:
            statements = connection.raw.extract_statements(sql)
            if len(statements) != 1 or statements[0].type.name != "SELECT":
                raise ConfigError(f"the query on {source} must be a single SELECT")
            query = statements[0].query.strip().removesuffix(";")
            described = connection.execute(f"DESCRIBE {query}").fetchall()
            names, types = [row[0] for row in described], [row[1] for row in described]
            connection.execute(f"CREATE TEMP TABLE chainrule AS SELECT * FROM ({query}) AS t({_numbered(names)})")
            raw = _raw_table(connection, source, "chainrule", "rowid", names, types)
        except connection.errors as error:
            raise ConfigError(f"the query on {source} failed: {first_line(error)}") from None
        yield raw


def check_names(names: Sequence[str], source: str) -> None:
    """Raises DataError if there is no column, a name appears twice, or a column has none."""
    if not names:
        raise DataError(f"{source} has no columns")
    seen: set[str] = set()
    for position, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(f"{source}: column {position} has no name")
        if name in seen:
            raise DataError(f"{source}: the column name {shown(name)} appears twice; rename one of them")
        seen.add(name)


def first_line(error: Exception) -> str:
    return escape_terminal((str(error).strip() or type(error).__name__).splitlines()[0], limit=200)


def _raw_table(
    connection: Connection, source: str, table: str, row: str, names: Sequence[str], types: Sequence[str]
) -> RawTable:
    check_names(names, source)
    relation = Relation(connection, table, row, connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    places = Places(source, "row", np.arange(1, relation.rows + 1))
    texts = TextColumns(relation, [f"CAST(c{position} AS VARCHAR)" for position in range(len(names))], names)

    def read(position: int, as_text: bool) -> RawColumn:
        name, column, base = names[position], f"c{position}", types[position].split("(")[0]
        if base in _TEXTS:
            return texts.read(position, as_text)
        if base in _NUMBERS or base == "BOOLEAN":
            return RawColumn(name, "boolean" if base == "BOOLEAN" else "number", relation.numbers(column))
        if base in _DATES:
            return RawColumn(name, "date", relation.numbers(f"epoch_us({column})") / 1e6)
        raise places.column_error(
            name, f"holds {types[position]} values; only numbers, text, booleans and dates can be used"
        )

    return RawTable(tuple(names), relation.rows, places, read)


def _top_level(schema: Sequence[tuple[str, int | None]]) -> list[str]:
    """The names of the columns in a Parquet schema, which is a tree in depth-first order below one root."""
    names: list[str] = []
    skip = 0
    for name, children in schema[1:]:
        if skip:
            skip += (children or 0) - 1
            continue
        names.append(name)
        skip = children or 0
    return names


def _numbered(names: Sequence[str]) -> str:
    return ", ".join(f"c{position}" for position in range(len(names)))


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
