"""Delimited text files, read through DuckDB and checked against an independent scan.

:mod:`~chainrule.data.csv_scan` finds every record and field; DuckDB then splits the same bytes with that dialect spelt
out, as text, with nothing left to its sniffer. The two must agree on the number of rows and on the number of bytes
in every column and in every row; so nothing is skipped, padded, cut or moved without an error.
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
from chainrule.data.columns_duckdb import Relation, TextColumns
from chainrule.data.csv_encoding import to_utf8
from chainrule.data.csv_scan import Scan, scan
from chainrule.data.tables_duckdb import Connection, RawTable, connect

_SLACK = 1 << 20
_COLUMNS_AT_ONCE = 256


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
        relation = _load(connection, scanned, width, folder, source)
        _check(relation, scanned, names, source)
        places = Places(source, "line", scanned.lines[1:])

        texts = TextColumns(relation, [f"c{position}" for position in range(width)], names)
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


def _load(connection: Connection, scanned: Scan, width: int, folder: Path, source: str) -> Relation:
    """Has DuckDB split the records into a table with the columns c0, c1, … of text."""
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
    (rows,) = connection.execute("SELECT count(*) FROM t").fetchone()
    if rows != len(scanned.lines) - 1:
        raise DataError(f"{source} has {len(scanned.lines) - 1} rows, but DuckDB reads {rows}; the file is malformed")
    return Relation(connection, "t", "rowid", rows)


def _check(relation: Relation, scanned: Scan, names: list[str], source: str) -> None:
    """Compares the bytes of every column and of every row with those of the scan."""
    expected = scanned.content_bytes()
    in_rows = np.zeros(relation.rows)
    for first in range(0, len(names), _COLUMNS_AT_ONCE):
        lengths = [f"coalesce(strlen(c{first + offset}), 0)" for offset in range(len(names[first:][:_COLUMNS_AT_ONCE]))]
        in_rows += relation.numbers(" + ".join(lengths))
        sums = ", ".join(f"sum({length})" for length in lengths)
        in_columns = relation.connection.execute(f"SELECT {sums} FROM {relation.table}").fetchone()
        for position, theirs in enumerate(in_columns, start=first):
            ours = int(expected[:, position].sum())
            if ours != theirs:
                raise DataError(
                    f"{source}, column {shown(names[position])}: its values have {ours} bytes, but DuckDB reads "
                    f"{theirs}; the file is malformed"
                )
    wrong = np.flatnonzero(expected.sum(axis=1) != in_rows)
    if len(wrong):
        raise DataError(f"{source}, line {scanned.lines[wrong[0] + 1]}: DuckDB reads another record than there is")
