"""Delimited text files, read through DuckDB and checked against an independent scan.

:mod:`~chainrule.data.csv_scan` finds every record and field; DuckDB then splits the same bytes with that dialect spelt
out, as text, with nothing left to its sniffer. The two must agree on the number of rows and, for every column, on the
number of bytes of its values; so no row or field is skipped, padded or cut without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from chainrule.core.errors import DataError
from chainrule.core.files import reason
from chainrule.core.names import escape_terminal
from chainrule.data.columns import Places, shown
from chainrule.data.columns_duckdb import TextColumns
from chainrule.data.csv_encoding import to_utf8
from chainrule.data.csv_scan import Scan, scan
from chainrule.data.tables_duckdb import Connection, RawTable, connect

_SLACK = 1 << 20


@contextmanager
def open_csv(path: Path, folder: Path, notices: list[str]) -> Iterator[RawTable]:
    """A delimited text file as raw text columns, read one by one while the block lasts; ``folder`` is scratch space.

    The first record is the header. A field of the header without a name is called ``column_<position>``, with a
    notice. Raises DataError as :func:`~chainrule.data.csv_encoding.to_utf8` and
    :func:`~chainrule.data.csv_scan.scan` do; for a repeated name; for a header made of measurements; and where there
    is no row after the header. Raises MissingExtraError without DuckDB.
    """
    source = escape_terminal(path.name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {source}: {reason(error)}") from None
    text = to_utf8(data, source, notices)
    del data
    tabs_first = path.suffix.lower() in (".tsv", ".tab")
    scanned = scan(text, source, tabs_first=tabs_first, notices=notices)
    names = _names(scanned, source, notices)
    rows, width = len(scanned.lines) - 1, len(names)
    if rows == 0:
        raise DataError(f"{source} has a header but no rows")
    with connect(folder) as connection:
        _load(connection, scanned, width, folder, source)
        _check(connection, scanned, names, source)
        places = Places(source, "line", scanned.lines[1:])

        texts = TextColumns(connection, "t", [f"c{position}" for position in range(width)], names, rows)
        yield RawTable(tuple(names), rows, places, texts.read, comma_delimited=scanned.delimiter == b",")


def _names(scanned: Scan, source: str, notices: list[str]) -> list[str]:
    found = scanned.header()
    names = [name if name.strip() else f"column_{position}" for position, name in enumerate(found, start=1)]
    where = f"{source}, line {scanned.lines[0]}"
    unnamed = [name for name, original in zip(names, found) if not original.strip()]
    if len(unnamed) == len(names):
        raise DataError(f"{where}: the header is blank; name the columns there")
    for position, name in enumerate(names):
        if names.index(name) < position:
            raise DataError(
                f"{where}: the column name {shown(name)} appears twice, in fields {names.index(name) + 1} and "
                f"{position + 1}; rename one of them"
            )
    if all(map(_is_measurement, names)) and not all(name.strip().isdecimal() for name in names):
        raise DataError(f"{where}: the first line holds numbers, not the names of columns; add a header line")
    if unnamed:
        fields = "a field" if len(unnamed) == 1 else f"{len(unnamed)} fields"
        notices.append(f"{where}: {fields} without a name in the header, called {', '.join(map(shown, unnamed[:5]))}")
    return names


def _is_measurement(name: str) -> bool:
    try:
        float(name.replace(",", "."))
    except ValueError:
        return False
    return True


def _load(connection: Connection, scanned: Scan, width: int, folder: Path, source: str) -> None:
    """Has DuckDB split the records into the table t with the columns c0, c1, … of text."""
    path = folder / "records.csv"
    try:
        path.write_bytes(scanned.body())
    except OSError as error:
        raise DataError(f"cannot copy {source} to {folder} for reading: {reason(error)}") from None
    longest = int(np.diff(scanned.ends[:, -1]).max())
    quote = "'\"'" if scanned.quoted else "''"
    columns = ", ".join(f"'c{position}': 'VARCHAR'" for position in range(width))
    query = f"""
        CREATE TABLE t AS SELECT * FROM read_csv(
            $path, auto_detect=false, header=false, skip=0, columns={{{columns}}}, delim=$delimiter, quote={quote},
            escape={quote}, comment='', new_line='\\n', compression='none', encoding='utf-8', max_line_size=$longest,
            null_padding=false, ignore_errors=false, strict_mode=true, parallel={str(not scanned.quoted).lower()})"""
    parameters = {"path": str(path), "delimiter": scanned.delimiter.decode(), "longest": longest + _SLACK}
    try:
        connection.execute(query, parameters)
    except connection.errors as error:
        problem = escape_terminal(str(error).strip().splitlines()[0], limit=200)
        raise DataError(f"{source} could not be read as a table: {problem}") from None
    path.unlink()


def _check(connection: Connection, scanned: Scan, names: list[str], source: str) -> None:
    sums = ", ".join(f"coalesce(sum(strlen(c{position})), 0)" for position in range(len(names)))
    rows, *found = connection.execute(f"SELECT count(*), {sums} FROM t").fetchall()[0]
    expected = scanned.content_bytes().tolist()
    if rows != len(scanned.lines) - 1:
        raise DataError(f"{source} has {len(scanned.lines) - 1} rows, but DuckDB reads {rows}; the file is malformed")
    for name, ours, theirs in zip(names, expected, found):
        if ours != theirs:
            raise DataError(
                f"{source}, column {shown(name)}: its values have {ours} bytes, but DuckDB reads {theirs}; "
                "the file is malformed"
            )
