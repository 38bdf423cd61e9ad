"""Tables that are already in memory: pandas, polars and Arrow frames, and dicts of arrays."""

from __future__ import annotations

import datetime
import decimal
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import DataError, MissingExtraError
from chainrule.data.columns import Places, RawColumn, shown
from chainrule.data.columns_dates import iso_date
from chainrule.data.tables_duckdb import RawTable, check_names

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def open_frame(frame: Any) -> RawTable:
    """A pandas, polars or Arrow table as raw columns, its index left out; rows are counted from 1 in messages.

    Raises DataError for something that is no table in memory, for repeated names, and, once read, for a column that
    holds other things than numbers, text, booleans and dates. Raises MissingExtraError without Narwhals.
    """
    try:
        import narwhals as nw
    except ImportError:
        raise MissingExtraError(
            "reading data frames needs Narwhals; install it with: pip install 'chainrule[tables]'"
        ) from None
    kind = type(frame).__name__
    if kind == "DataFrame":  # before Narwhals, which refuses repeated names with a message of its own
        check_names([str(name) for name in frame.columns], "the data frame")
    try:
        table = nw.from_native(frame, eager_only=True)
    except TypeError:
        hint = "; collect it first" if kind == "LazyFrame" else ""
        raise DataError(
            f"a {kind} is not a table; expected a path, a pandas, polars or Arrow table, or a dict of arrays{hint}"
        ) from None
    names = [str(name) for name in table.columns]
    check_names(names, "the data frame")
    rows = len(table)
    places = Places("the data frame", "row", np.arange(1, rows + 1))
    series = list(table.iter_columns())

    def read(position: int, as_text: bool) -> RawColumn:
        return _from_series(nw, names[position], series[position], places)

    return RawTable(tuple(names), rows, places, read)


def open_mapping(columns: Mapping[str, Any]) -> RawTable:
    """A dict from column names to one-dimensional arrays or sequences, all of the same length."""
    names = [str(name) for name in columns]
    check_names(names, "the dict")
    arrays = [_array(name, values) for name, values in zip(names, columns.values())]
    rows = len(arrays[0])
    for name, array in zip(names, arrays):
        if len(array) != rows:
            raise DataError(
                f"column {shown(name)} has {len(array)} values, but column {shown(names[0])} has {rows}; all columns "
                "of a table have the same length"
            )
    places = Places("the dict", "row", np.arange(1, rows + 1))

    def read(position: int, as_text: bool) -> RawColumn:
        return _from_array(names[position], arrays[position], places)

    return RawTable(tuple(names), rows, places, read)


def raw_from_objects(name: str, values: Sequence[Any], places: Places) -> RawColumn:
    """Python objects as a raw column: all booleans, all numbers or all dates where they are, otherwise text.

    None, NaN and the missing values of pandas are missing. Raises DataError naming the row of any other object.
    """
    present = [value for value in values if not _is_missing(value)]
    if present and all(isinstance(value, (bool, np.bool_)) for value in present):
        return RawColumn(name, "boolean", _floats(values, float))
    if present and all(_is_number(value) for value in present):
        return RawColumn(name, "number", _floats(values, float))
    if present and all(isinstance(value, (datetime.date, np.datetime64)) for value in present):
        return RawColumn(name, "date", _floats(values, _seconds))
    texts = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        texts[row] = None if _is_missing(value) else _text(value, row, name, places)
    return RawColumn(name, "text", texts)


def _from_series(nw: Any, name: str, series: Any, places: Places) -> RawColumn:
    dtype = series.dtype
    if dtype == nw.Boolean:
        return RawColumn(name, "boolean", _series_floats(nw, series))
    if dtype.is_numeric():
        return RawColumn(name, "number", _series_floats(nw, series))
    if dtype == nw.Date or dtype == nw.Datetime:
        seconds = _series_floats(nw, series.cast(nw.Datetime("us")) if dtype == nw.Date else series, stamp=True)
        return RawColumn(name, "date", seconds)
    if dtype in (nw.String, nw.Categorical, nw.Enum, nw.Object, nw.Unknown):
        return raw_from_objects(name, series.to_list(), places)
    raise places.column_error(name, f"holds {dtype} values; only numbers, text, booleans and dates can be used")


def _series_floats(nw: Any, series: Any, *, stamp: bool = False) -> NDArray[np.float64]:
    """float64 with NaN for nulls; time stamps as seconds since 1970-01-01 UTC."""
    missing = np.asarray(series.is_null().to_numpy(), dtype=np.bool_)
    numbers = series.dt.timestamp("us") if stamp else series
    if missing.any():
        numbers = numbers.filter(~series.is_null())
    result = np.full(len(missing), np.nan)
    result[~missing] = np.asarray(numbers.cast(nw.Float64).to_numpy(), dtype=np.float64)
    return result / 1e6 if stamp else result


def _array(name: str, values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        array = np.ma.filled(values.astype(object), None) if isinstance(values, np.ma.MaskedArray) else values
    elif isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise DataError(f"column {shown(name)} holds a single {type(values).__name__}; give it one value for each row")
    else:
        items = list(values)
        array = np.empty(len(items), dtype=object)
        array[:] = items
    if array.ndim != 1:
        raise DataError(f"column {shown(name)} has the shape {array.shape}; a column has one dimension")
    return array


def _from_array(name: str, array: NDArray[Any], places: Places) -> RawColumn:
    match array.dtype.kind:
        case "b":
            return RawColumn(name, "boolean", array.astype(np.float64))
        case "i" | "u" | "f":
            return RawColumn(name, "number", array.astype(np.float64))
        case "M":
            seconds = array.astype("datetime64[us]").astype(np.int64) / 1e6
            return RawColumn(name, "date", np.where(np.isnat(array), np.nan, seconds))
        case "O" | "U" | "T":
            return raw_from_objects(name, array.tolist(), places)
    raise places.column_error(name, f"holds {array.dtype} values; only numbers, text, booleans and dates can be used")


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, (float, np.floating, decimal.Decimal)):
        return math.isnan(value)
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return type(value).__name__ in ("NAType", "NaTType")


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, decimal.Decimal)) and not isinstance(value, (bool, np.bool_))


def _floats(values: Sequence[Any], convert: Any) -> NDArray[np.float64]:
    return np.array([math.nan if _is_missing(value) else convert(value) for value in values], dtype=np.float64)


def _seconds(value: datetime.date | np.datetime64) -> float:
    if isinstance(value, np.datetime64):
        return float(value.astype("datetime64[us]").astype(np.int64)) / 1e6
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
    return (aware - _EPOCH).total_seconds()


def _text(value: Any, row: int, name: str, places: Places) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if _is_number(value):
        number = float(value)
        return str(int(value)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    if isinstance(value, (datetime.date, np.datetime64)):
        return iso_date(_seconds(value))
    raise places.cell_error(
        row, name, f"a {type(value).__name__} where only numbers, text, booleans and dates can be used"
    )
