"""Generated files, read and compared cell by cell with what was written, with the csv module and with pandas."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainrule.core.errors import DataError
from chainrule.data import columns_duckdb
from chainrule.data.csv import open_csv
from chainrule.data.tables import read_table

CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
CELLS = st.text(st.one_of(st.sampled_from(" ,;|\t\r\n\"'ab1.é"), CHARACTERS), max_size=8)


@st.composite
def records(draw: st.DrawFn) -> list[list[str]]:
    width = draw(st.integers(1, 5))
    names = draw(
        st.lists(st.from_regex(r"[a-zé][a-z_ ]{0,5}", fullmatch=True), min_size=width, max_size=width, unique=True)
    )
    return [names, *draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=8))]


def written(rows: list[list[str]], delimiter: str = ",", line_end: str = "\n", quote_all: bool = False) -> str:
    """Not by csv.writer, which leaves LF unquoted where records end with CR."""

    def cell(text: str) -> str:
        alone = len(rows[0]) == 1  # where an empty cell would be an empty line
        if quote_all or (alone and not text) or not set(text).isdisjoint(f'{delimiter}"\r\n'):
            return '"' + text.replace('"', '""') + '"'
        return text

    return "".join(delimiter.join(map(cell, row)) + line_end for row in rows)


@settings(max_examples=60, deadline=None)
@given(
    records(),
    st.sampled_from(",;|\t"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
)
def test_cells_are_those_that_were_written(
    rows: list[list[str]], delimiter: str, line_end: str, quote_all: bool, last_line_ends: bool
) -> None:
    text = written(rows, delimiter, line_end, quote_all)
    if not last_line_ends:
        text = text.removesuffix(line_end)
    if len(rows[0]) == 1:
        text = f"sep={delimiter}{line_end}" + text  # one column shows no delimiter
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "t.csv"
        path.write_bytes(text.encode())
        with open_csv(path, folder, []) as raw:
            assert list(raw.names) == rows[0]
            assert raw.rows == len(rows) - 1
            for position in range(len(rows[0])):
                found = ["" if value is None else value for value in raw.read(position, True).values.tolist()]
                assert found == [row[position] for row in rows[1:]]
            expected_lines = [
                1 + written(rows[: count + 1], delimiter, line_end, quote_all).count("\n")
                for count in range(len(rows) - 1)
            ]
            if line_end != "\r":
                assert raw.places.numbers.tolist() == [line + (len(rows[0]) == 1) for line in expected_lines]


@settings(max_examples=60, deadline=None)
@given(records(), st.data())
def test_a_damaged_file_is_refused_or_still_means_what_the_csv_module_reads(
    rows: list[list[str]], data: st.DataObject
) -> None:
    """Deleting or inserting one structural character never gives other cells than a strict reader's."""
    text = "sep=,\n" + written(rows)
    start = text.index("\n") + 1
    position = data.draw(st.integers(start, len(text) - 1))
    if data.draw(st.booleans()):
        text = text[:position] + text[position + 1 :]
    else:
        text = text[:position] + data.draw(st.sampled_from([",", '"', "\n"])) + text[position:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "t.csv"
        path.write_bytes(text.encode())
        try:
            with open_csv(path, folder, []) as raw:
                columns = [raw.read(index, True).values.tolist() for index in range(len(raw.names))]
        except DataError:
            return
    body = text[start:].rstrip("\r\n")
    quoting = csv.QUOTE_MINIMAL if _has_opening_quote(body) else csv.QUOTE_NONE
    expected = [row or [""] for row in csv.reader(io.StringIO(body, newline=""), strict=True, quoting=quoting)][1:]
    assert [["" if cell is None else cell for cell in row] for row in zip(*columns)] == expected


def _has_opening_quote(text: str) -> bool:
    return text.startswith('"') or any(f'{before}"' in text for before in ",\n\r")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=2, max_size=20),
    st.sampled_from([(",", "."), (";", ","), ("\t", ","), (";", ".")]),
)
def test_floats_written_by_pandas_come_back_exactly(values: list[float | None], dialect: tuple[str, str]) -> None:
    delimiter, decimal = dialect
    frame = pd.DataFrame({"x": pd.Series(values, dtype="float64"), "k": ["a"] * len(values)})
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "t.csv"
        frame.to_csv(path, sep=delimiter, decimal=decimal, index=False)
        # Numbers that all look like "123.456" may have a decimal comma elsewhere in the file; this one does not.
        table = read_table(path, types={"x": "number"})
        expected = pd.read_csv(path, sep=delimiter, decimal=decimal)
    np.testing.assert_array_equal(table.column("x").values, expected["x"].to_numpy(dtype=np.float64))
    np.testing.assert_array_equal(table.column("x").missing, expected["x"].isna())


TEXT_NUMBERS = st.one_of(
    st.integers(-(10**17), 10**17).map(str),
    st.floats(allow_nan=False).map(repr),
    st.floats(-1e4, 1e4).map(lambda x: f"{x:.3f}"),
    st.sampled_from(["+1", "007", "1.234", "2.345", "0.500", "1e3", "1.", ".5", "-0", "-0.0", "1e999", "12e", "1_0"]),
)
TEXT_DATES = st.one_of(
    st.dates().map(lambda day: day.isoformat()),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes().map(lambda moment: moment.isoformat(" ", "seconds")),
    st.sampled_from(["2021-02-30", "2021-01-01 24:00:00", "2021-1-1", "2021-01-01T00:00:00Z", "0001-01-01"]),
)
MISSING = st.sampled_from(["", " ", "NA", " ? ", "-", "\tNA", "\u00a0"])
COLUMN = st.one_of(
    *(st.lists(st.one_of(kind, kind, MISSING), min_size=2, max_size=8) for kind in (TEXT_NUMBERS, TEXT_DATES)),
    st.lists(st.integers(0, 99).map(str), min_size=2, max_size=8),
    st.lists(st.one_of(TEXT_NUMBERS, TEXT_DATES, MISSING, CELLS), min_size=2, max_size=8),
)


@settings(max_examples=60, deadline=None)
@given(COLUMN, st.sampled_from(["id", "x"]))
@example(["2000-01-01", "6537-01-01T00:00:00.000496"], "x")
def test_duckdb_converts_only_what_python_converts_alike(values: list[str], name: str) -> None:
    def outcome(fewest_rows: int) -> tuple[object, ...]:
        with mock.patch.object(columns_duckdb, "FEWEST_ROWS", fewest_rows):
            notices: list[str] = []
            try:
                column = read_table(path, notices=notices).column(name)
            except DataError as error:
                return (str(error),)
            cells = [repr(value) for value in column.values.tolist()]
            return column.kind, cells, column.missing.tolist(), notices

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_text(written([[name, "k"], *([value, "a"] for value in values)], quote_all=True))
        assert outcome(0) == outcome(10**9)
