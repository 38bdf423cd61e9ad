"""Tables: given and expected kinds, selection, and what stands in place of a table file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import duckdb
import numpy as np
import pytest

from chainrule.core.errors import ConfigError, DataError
from chainrule.data.tables import read_table


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    path = tmp_path / "patients.csv"
    path.write_text("id,age,sex,ill\n1,50,f,yes\n2,,m,no\n3,61,f,yes\n")
    return path


def test_a_table_knows_its_columns_and_lines(patients: Path) -> None:
    table = read_table(str(patients))
    assert table.source == "patients.csv"
    assert (table.rows, len(table), table.names) == (3, 3, ("id", "age", "sex", "ill"))
    assert [column.kind for column in table.columns] == ["identifier", "number", "category", "boolean"]
    assert "age" in table
    assert "weight" not in table
    assert table.places.at(2) == "patients.csv, line 4"


def test_select_and_drop(patients: Path) -> None:
    table = read_table(patients)
    picked = table.select(np.array([2, 0])).drop(["id", "ill"])
    assert picked.names == ("age", "sex")
    assert picked.column("age").values.tolist() == [61, 50]
    assert picked.line_numbers.tolist() == [4, 2]
    assert table.select(table.column("age").missing).column("sex").values.tolist() == ["m"]
    assert table.select(slice(1, None)).rows == 2
    with pytest.raises(DataError, match=r"patients.csv has no column 'sx'"):
        table.drop(["sx"])


def test_an_unknown_column_suggests_the_nearest(patients: Path) -> None:
    table = read_table(patients)
    with pytest.raises(DataError, match=r"patients.csv has no column 'Age ' \(did you mean 'age'\?\)"):
        table.column("Age ")
    with pytest.raises(DataError, match=r"patients.csv has no column 'zzzz'$"):
        table.column("zzzz")


def test_types_are_given(patients: Path) -> None:
    notices: list[str] = []
    table = read_table(patients, types={"id": "number", "age": "category"}, notices=notices)
    assert table.column("id").values.tolist() == [1, 2, 3]
    assert table.column("age").values.tolist() == ["50", None, "61"]
    assert notices == []
    with pytest.raises(DataError, match=r"no column 'agee' \(did you mean 'age'\?\)"):
        read_table(patients, types={"agee": "number"})
    with pytest.raises(ConfigError, match="the type 'float' of column 'age' is not one of number, category"):
        read_table(patients, types={"age": "float"})  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"patients.csv, line 2, column 'sex': 'f' is not a number"):
        read_table(patients, types={"sex": "number"})


def test_identifiers_are_announced(patients: Path) -> None:
    notices: list[str] = []
    read_table(patients, notices=notices)
    assert len(notices) == 1
    assert "patients.csv, column 'id': 3 different values in 3 rows look like an identifier" in notices[0]


def test_expected_columns_alone_are_read_as_expected(patients: Path, tmp_path: Path) -> None:
    table = read_table(patients, expect={"sex": "category", "age": "number"})
    assert table.names == ("sex", "age")
    one = tmp_path / "one.csv"
    one.write_text("sex,junk,age\n007,x,true\n")
    assert read_table(one, expect={"sex": "category"}).column("sex").values.tolist() == ["007"]
    assert read_table(one, expect={"age": "boolean"}).column("age").values.tolist() == [1]
    with pytest.raises(DataError, match=r"one.csv, line 2, column 'age': 'true' is not a number"):
        read_table(one, expect={"sex": "category", "age": "number"})
    with pytest.raises(DataError, match=r"one.csv has no column 'ages' \(did you mean 'age'\?\)"):
        read_table(one, expect={"ages": "number"})
    one.write_text("sex,age\n")
    with pytest.raises(DataError, match=r"one.csv has a header but no rows"):
        read_table(one, expect={"sex": "category"})


def test_expected_kinds_hold_for_frames_too() -> None:
    table = read_table({"a": [1, 2.5], "b": ["1", "x"]}, expect={"a": "category"})
    assert table.column("a").values.tolist() == ["1", "2.5"]
    with pytest.raises(DataError, match="the dict, row 2, column 'b': 'x' is not a number"):
        read_table({"a": [1, 2.5], "b": ["1", "x"]}, expect={"b": "number"})


def test_a_missing_file_suggests_the_nearest_in_its_folder(patients: Path) -> None:
    with pytest.raises(DataError, match=r"patient.csv does not exist \(did you mean 'patients.csv'\?\)"):
        read_table(patients.with_name("patient.csv"))
    with pytest.raises(DataError, match=r"does not exist$"):
        read_table(patients.parent / "nowhere" / "patients.csv")


def test_things_that_are_no_files(tmp_path: Path, patients: Path) -> None:
    with pytest.raises(DataError, match="is a folder, not a table"):
        read_table(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is not a regular file"):
        read_table(tmp_path / "pipe")
    (tmp_path / "link.csv").symlink_to("nowhere.csv")
    with pytest.raises(DataError, match=r"link.csv is a link to a file that does not exist$"):
        read_table(tmp_path / "link.csv")
    with pytest.raises(DataError, match=r"cannot read .*: a part of its path is a file"):
        read_table(patients / "x.csv")
    (tmp_path / "t.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"t.parquet is not a Parquet file, although its name says so"):
        read_table(tmp_path / "t.parquet")


# --- databases and Parquet --------------------------------------------------------------------------------------------

MAKE = """
    CREATE TABLE t AS SELECT * FROM (VALUES
        (1, 0.5, 'red', DATE '1970-01-02', TRUE, 1.25::DECIMAL(5, 2), TIMESTAMP '1970-01-01 00:00:01.5'),
        (2, NULL, NULL, NULL, NULL, NULL, NULL),
        (2, -1.0, 'blue', DATE '1969-12-31', FALSE, 2.5, TIMESTAMPTZ '1970-01-01 02:00:00+02'::TIMESTAMP)
    ) AS v(i, f, s, d, b, n, t)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "data.db"
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone='UTC'" if _has_icu(connection) else "SELECT 1")
        connection.execute(MAKE)
        connection.execute("CREATE TABLE nested AS SELECT [1, 2] AS l, 1 AS x UNION ALL SELECT [3], 2")
        for table in ("t", "nested"):
            connection.execute(f"COPY {table} TO '{tmp_path / table}.parquet'")
    return path


def _has_icu(connection: duckdb.DuckDBPyConnection) -> bool:
    rows = connection.execute("SELECT loaded FROM duckdb_extensions() WHERE extension_name = 'icu'").fetchall()
    return bool(rows and rows[0][0])


def check_columns(source: Path, sql: str | None) -> None:
    table = read_table(source, sql=sql)
    kinds = ["number", "number", "category", "date", "boolean", "number", "date"]
    assert [column.kind for column in table.columns] == kinds
    np.testing.assert_array_equal(table.column("f").values, [0.5, np.nan, -1])
    assert table.column("s").values.tolist() == ["red", None, "blue"]
    np.testing.assert_array_equal(table.column("d").values, [86400, np.nan, -86400])
    np.testing.assert_array_equal(table.column("b").values, [1, np.nan, 0])
    np.testing.assert_array_equal(table.column("n").values, [1.25, np.nan, 2.5])
    assert table.column("t").values[0] == 1.5
    assert table.column("f").missing.tolist() == [False, True, False]


def test_a_query_on_a_duckdb_file(database: Path) -> None:
    check_columns(database, "SELECT * FROM t;")
    table = read_table(database, sql="SELECT i AS x, s FROM t ORDER BY f NULLS FIRST, 1")
    assert table.column("s").values.tolist() == [None, "blue", "red"]


def test_a_parquet_file(database: Path, tmp_path: Path) -> None:
    check_columns(tmp_path / "t.parquet", None)
    odd = tmp_path / "o'd[d]*.data"
    odd.write_bytes((tmp_path / "t.parquet").read_bytes())
    check_columns(odd, None)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM nowhere", "the query on data.db failed: .*nowhere"),
        ("SELEC 1", "the query on data.db failed: "),
        ("SELECT 1 AS a; SELECT 2 AS a", "must be a single SELECT"),
        ("CREATE TABLE x (i INT)", "must be a single SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "the query on data.db failed: "),
    ],
)
def test_queries_that_are_refused(sql: str, message: str, database: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_table(database, sql=sql)


def test_a_query_belongs_to_a_database(database: Path, patients: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.db is a database; give the query"):
        read_table(database)
    with pytest.raises(ConfigError, match=r"patients.csv is not a DuckDB or SQLite database"):
        read_table(patients, sql="SELECT 1")
    with pytest.raises(ConfigError, match="a table in memory has none"):
        read_table({"a": [1, 2]}, sql="SELECT 1")


def test_columns_that_are_renamed_or_nested_are_refused(database: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.db: the column name 'i' appears twice"):
        read_table(database, sql="SELECT i, f AS i FROM t")
    with pytest.raises(DataError, match=r"nested.parquet, column 'l': holds INTEGER\[\] values"):
        read_table(tmp_path / "nested.parquet")
    assert read_table(tmp_path / "nested.parquet", expect={"x": "number"}).column("x").values.tolist() == [1, 2]


def test_empty_results(database: Path) -> None:
    with pytest.raises(DataError, match=r"data.db has no rows"):
        read_table(database, sql="SELECT * FROM t WHERE false")
    with pytest.raises(DataError, match=r"data.db has a single row"):
        read_table(database, sql="SELECT * FROM t LIMIT 1")


def test_a_damaged_parquet_file(database: Path, tmp_path: Path) -> None:
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.parquet cannot be read as Parquet: "):
        read_table(tmp_path / "cut.parquet")


def test_a_query_on_an_sqlite_file(tmp_path: Path) -> None:
    path = tmp_path / "it's?.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (i INTEGER, f REAL, s TEXT, d TEXT, x BLOB)")
    rows = [(1, 0.5, "red", "2021-01-01", b"x"), (2, None, None, None, b"y"), (2, 2.0, "blue", "2021-01-02", b"z")]
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    table = read_table(path, sql="SELECT i, f, s, d FROM t ORDER BY i DESC, f")
    assert [column.kind for column in table.columns] == ["number", "number", "category", "date"]
    np.testing.assert_array_equal(table.column("f").values, [np.nan, 2, 0.5])
    assert table.column("s").values.tolist() == [None, "blue", "red"]
    with pytest.raises(DataError, match="row 1, column 'x': a bytes where only numbers"):
        read_table(path, sql="SELECT x FROM t")
    with pytest.raises(ConfigError, match="failed: no such table: nowhere"):
        read_table(path, sql="SELECT * FROM nowhere")
    with pytest.raises(ConfigError, match="failed: attempt to write a readonly database"):
        read_table(path, sql="DELETE FROM t")
    with pytest.raises(ConfigError, match="failed: "):
        read_table(path, sql="SELECT 1; SELECT 2")
    with pytest.raises(DataError, match="has no rows"):
        read_table(path, sql="SELECT i FROM t WHERE i > 5")
    with pytest.raises(DataError, match="'i' appears twice"):
        read_table(path, sql="SELECT i, i FROM t")
