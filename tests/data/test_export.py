"""CSV written: read back by the csv module, by pandas and by Chainrule; formulas quoted; written wholly or not."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.core.errors import DataError, RunError
from chainrule.data.export import write_csv
from chainrule.data.tables import read_table

TEXTS = st.text(st.one_of(st.sampled_from(',;"\r\n=+-@\t a1.'), st.characters(exclude_categories=("Cs",))), max_size=6)


def read_back(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, strict=True))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@settings(max_examples=100)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_any_text_comes_back_and_no_cell_is_a_formula(rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "o.csv"
        escaped = write_csv(path, {"a": [row[0] for row in rows], "b": [row[1] for row in rows]})
        found = read_back(path)
    assert found[0] == ["a", "b"]
    changed = 0
    for row, cells in zip(rows, found[1:], strict=True):
        for text, cell in zip(row, cells, strict=True):
            assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r") or cell == "" or is_number(cell)
            changed += cell != text
            assert cell in (text, "'" + text)
    assert escaped == changed


@given(st.lists(st.floats(allow_infinity=False), min_size=1, max_size=9))
@settings(max_examples=50)
def test_floats_come_back_exactly(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "o.csv"
        write_csv(path, {"x": np.array(values), "k": ["a"] * len(values)})
        found = pd.read_csv(path)["x"].to_numpy(np.float64)
        cells = [row[0] for row in read_back(path)[1:]]
    np.testing.assert_array_equal(found, values)
    assert cells == ["" if np.isnan(value) else repr(value) for value in values]


def test_cells_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    columns = {
        "f4": np.array([0.1, -0.25], dtype=np.float32),
        "i": np.array([-1, 2]),
        "b": np.array([True, False]),
        "o": np.array(["a,b", None], dtype=object),
        "m": np.array(["2021-01-02T03:04:05", "NaT"], dtype="datetime64[ns]"),
        "list": [np.float64(0.1), np.str_("x")],
        "=1+1": ["@x", "-1"],
    }
    assert write_csv(path, columns) == 2
    assert path.read_bytes() == (
        b"f4,i,b,o,m,list,'=1+1\r\n0.1,-1,True,\"a,b\",2021-01-02T03:04:05,0.1,'@x\r\n-0.25,2,False,,,x,-1\r\n"
    )


def test_labels_that_are_negative_numbers_survive_a_round_trip(tmp_path: Path) -> None:
    write_csv(tmp_path / "o.csv", {"prediction": ["-1", "+1", "-1"], "p": [0.5, 0.25, 0.125]})
    table = read_table(tmp_path / "o.csv", types={"prediction": "category"})
    assert table.column("prediction").values.tolist() == ["-1", "+1", "-1"]


def test_an_empty_cell_alone_in_its_row_is_no_empty_line(tmp_path: Path) -> None:
    write_csv(tmp_path / "o.csv", {"a": ["x", None, "y", None]})
    assert read_back(tmp_path / "o.csv") == [["a"], ["x"], [""], ["y"], [""]]
    assert read_table(tmp_path / "o.csv").column("a").values.tolist() == ["x", None, "y", None]


def test_many_rows_are_written_in_order(tmp_path: Path) -> None:
    values = np.arange(150_000)
    write_csv(tmp_path / "o.csv", {"a": values, "b": values.astype(str)})
    table = read_table(tmp_path / "o.csv")
    np.testing.assert_array_equal(table.column("a").values, values)
    np.testing.assert_array_equal(table.column("b").values, values)


def test_columns_that_do_not_make_a_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'b' has 1 values, but column 'a' has 2"):
        write_csv(tmp_path / "o.csv", {"a": [1, 2], "b": [1]})
    with pytest.raises(DataError, match="without columns"):
        write_csv(tmp_path / "o.csv", {})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("old")

    class Explodes:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(RuntimeError, match="no text"):
        write_csv(path, {"a": [1, Explodes()]})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RunError, match=r"cannot write .*nowhere/o.csv"):
        write_csv(tmp_path / "nowhere" / "o.csv", {"a": [1]})
