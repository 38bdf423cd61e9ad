"""Columns fetched from DuckDB: in the order of the rows whatever order a query gives, and in blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chainrule.data import columns_duckdb
from chainrule.data.columns_duckdb import Relation, TextColumns
from chainrule.data.tables_duckdb import connect


def test_rows_come_in_order_from_a_query_without_one(tmp_path: Path) -> None:
    with connect(tmp_path) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT CASE WHEN i % 7 = 0 THEN NULL ELSE 's' || i END AS c0, i * 0.5 AS c1, i AS n "
            "FROM range(1000) AS r(i)"
        )
        relation = Relation(connection, "(SELECT * FROM t ORDER BY hash(n))", "n", 1000)
        (texts,) = relation.texts(["c0"])
        assert texts.tolist() == [None if i % 7 == 0 else f"s{i}" for i in range(1000)]
        np.testing.assert_array_equal(relation.numbers("c1"), np.arange(1000) * 0.5)


@pytest.mark.parametrize("block_cells", [1, 12, 10**6])
def test_blocks_hold_the_same_columns_in_any_order_of_reading(
    block_cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns_duckdb, "_BLOCK_CELLS", block_cells)
    with connect(tmp_path) as connection:
        cells = ", ".join(f"'v{column}r' || i AS c{column}" for column in range(11))
        connection.execute(f"CREATE TABLE t AS SELECT {cells} FROM range(3) AS r(i)")
        names = [f"n{column}" for column in range(11)]
        columns = TextColumns(Relation(connection, "t", "rowid", 3), [f"c{column}" for column in range(11)], names)
        for position in (7, 0, 10, 3, 7):
            raw = columns.read(position, True)
            assert raw.name == f"n{position}"
            assert raw.values.tolist() == [f"v{position}r{row}" for row in range(3)]


def test_long_columns_of_numbers_and_dates_are_converted_by_duckdb(tmp_path: Path) -> None:
    rows = columns_duckdb.FEWEST_ROWS
    with connect(tmp_path) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT i || '.25' AS c0, ' ' || (DATE '1970-01-01' + i::INTEGER)::VARCHAR AS c1, "
            f"CASE WHEN i = 17 THEN 'x' ELSE i::VARCHAR END AS c2 FROM range({rows}) AS r(i)"
        )
        columns = TextColumns(Relation(connection, "t", "rowid", rows), ["c0", "c1", "c2"], ["n", "d", "s"])
        numbers, dates, texts = (columns.read(position, False) for position in range(3))
        assert (numbers.form, numbers.decimal_points, dates.form, texts.form) == ("number", True, "date", "text")
        np.testing.assert_array_equal(numbers.values, np.arange(rows) + 0.25)
        np.testing.assert_array_equal(dates.values, np.arange(rows) * 86400.0)
        assert texts.values[16:19].tolist() == ["16", "x", "18"]
        assert columns.read(0, True).form == "text"
