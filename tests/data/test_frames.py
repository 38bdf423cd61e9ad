"""Tables in memory: the same columns from pandas, polars, Arrow and dicts."""

from __future__ import annotations

import datetime as dt
import decimal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from chainrule.core.errors import DataError, MissingExtraError
from chainrule.data.tables import read_table

DATA: dict[str, list[Any]] = {
    "i": [1, 2, 2],
    "f": [0.5, None, -1.0],
    "b": [True, None, False],
    "s": ["red", None, "blue"],
    "d": [dt.date(1970, 1, 2), None, dt.date(1969, 12, 31)],
    "t": [dt.datetime(1970, 1, 1, 0, 0, 1), None, dt.datetime(2001, 9, 9, 1, 46, 40, 500000)],
}
MAKERS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda data: pd.DataFrame(data).convert_dtypes(),
    "pandas arrow": lambda data: pd.DataFrame(data).convert_dtypes(dtype_backend="pyarrow"),
    "pandas object": lambda data: pd.DataFrame(
        {name: pd.Series(values, dtype=object) for name, values in data.items()}
    ),
    "polars": pl.DataFrame,
    "arrow": pa.table,
    "dict of lists": dict,
    "dict of arrays": lambda data: {name: np.array(values, dtype=object) for name, values in data.items()},
}


@pytest.mark.parametrize("maker", MAKERS)
def test_the_same_columns_from_every_kind_of_frame(maker: str) -> None:
    table = read_table(MAKERS[maker](DATA))
    assert [column.kind for column in table.columns] == ["number", "number", "boolean", "category", "date", "date"]
    assert table.column("i").values.tolist() == [1, 2, 2]
    np.testing.assert_array_equal(table.column("f").values, [0.5, np.nan, -1])
    np.testing.assert_array_equal(table.column("b").values, [1, np.nan, 0])
    assert table.column("s").values.tolist() == ["red", None, "blue"]
    np.testing.assert_array_equal(table.column("d").values, [86400, np.nan, -86400])
    np.testing.assert_array_equal(table.column("t").values, [1, np.nan, 1e9 + 0.5])
    for name in ("f", "b", "s", "d", "t"):
        assert table.column(name).missing.tolist() == [False, True, False]
    assert table.line_numbers.tolist() == [1, 2, 3]


def test_categoricals_decimals_and_time_zones() -> None:
    berlin = dt.timezone(dt.timedelta(hours=2))
    frame = pl.DataFrame(
        {
            "c": pl.Series(["a", None, "b"], dtype=pl.Categorical),
            "e": pl.Series(["a", None, "b"], dtype=pl.Enum(["a", "b"])),
            "n": pl.Series([decimal.Decimal("1.25"), None, decimal.Decimal("2.50")]),
            "t": pl.Series([dt.datetime(2021, 1, 1, tzinfo=dt.UTC)] * 3).dt.convert_time_zone("Europe/Berlin"),
            "u": pl.Series([1, None, 255], dtype=pl.UInt8),
        }
    )
    table = read_table(frame)
    assert [column.kind for column in table.columns] == ["category", "category", "number", "date", "number"]
    np.testing.assert_array_equal(table.column("n").values, [1.25, np.nan, 2.5])
    assert table.column("t").values.tolist() == [1609459200.0] * 3
    aware = read_table({"t": [dt.datetime(2021, 1, 1, 2, tzinfo=berlin), dt.date(2021, 1, 1)]})
    assert aware.column("t").values.tolist() == [1609459200.0] * 2
    categorical = read_table(pd.DataFrame({"c": pd.Categorical(["x", None, "y"])}))
    assert categorical.column("c").values.tolist() == ["x", None, "y"]


def test_numpy_columns_of_every_type() -> None:
    stamps = np.array(["1970-01-01T00:00:02", "NaT"], dtype="datetime64[ns]")
    table = read_table(
        {
            "f4": np.array([0.5, np.nan], dtype=np.float32),
            "u1": np.array([0, 255], dtype=np.uint8),
            "b": np.array([True, False]),
            "u": np.array(["x", "NA"]),
            "m": stamps,
            "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
        }
    )
    assert [column.kind for column in table.columns] == ["number", "number", "boolean", "category", "date", "number"]
    np.testing.assert_array_equal(table.column("m").values, [2, np.nan])
    np.testing.assert_array_equal(table.column("masked").values, [1, np.nan])
    assert table.column("u").values.tolist() == ["x", None]


def test_text_in_frames_is_inferred_like_text_in_files() -> None:
    table = read_table(pd.DataFrame({"n": ["1", "2.5"], "z": ["007", "008"], "mixed": [1, "a"]}))
    assert [column.kind for column in table.columns] == ["number", "category", "category"]
    assert table.column("mixed").values.tolist() == ["1", "a"]


def test_names_that_are_no_strings() -> None:
    table = read_table(pd.DataFrame(np.arange(6).reshape(2, 3)))
    assert table.names == ("0", "1", "2")


REFUSED: dict[str, tuple[Any, str]] = {
    "duplicate names": (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), "'a' appears twice"),
    "names equal as text": (pd.DataFrame([[1, 2], [3, 4]], columns=["1", 1]), "'1' appears twice"),
    "blank name": (pd.DataFrame([[1, 2], [3, 4]], columns=["a", " "]), "column 2 has no name"),
    "no columns": (pd.DataFrame(), "has no columns"),
    "no rows": (pd.DataFrame({"a": []}), "the data frame has no rows"),
    "single row": (pl.DataFrame({"a": [1]}), "the data frame has a single row"),
    "infinity": (pl.DataFrame({"a": [1.0, float("inf")]}), "row 2, column 'a': inf is infinite"),
    "lists": (pl.DataFrame({"a": [[1], [2]]}), "column 'a': holds List"),
    "durations": (pl.DataFrame({"a": [dt.timedelta(1)] * 2}), "column 'a': holds Duration"),
    "objects": (pd.DataFrame({"a": [1, {}]}), "row 2, column 'a': a dict where only numbers"),
    "lazy": (pl.DataFrame({"a": [1, 2]}).lazy(), "a LazyFrame is not a table.*collect it first"),
    "no frame": (42, "a int is not a table; expected a path, a pandas"),
    "an array": (np.zeros((3, 3)), "a ndarray is not a table"),
    "lengths": ({"a": [1, 2], "b": [1]}, "column 'b' has 1 values, but column 'a' has 2"),
    "scalar": ({"a": "xyz"}, "column 'a' holds a single str"),
    "two dimensions": ({"a": np.zeros((2, 2))}, r"column 'a' has the shape \(2, 2\)"),
    "complex": ({"a": np.zeros(2, complex)}, "column 'a': holds complex128 values"),
    "empty dict": ({}, "the dict has no columns"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    source, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        read_table(source)


def test_narwhals_missing_is_said_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chainrule\[tables\]'"):
        read_table(pd.DataFrame({"a": [1, 2]}))
