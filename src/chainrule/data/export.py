"""Tables written as CSV."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import DataError
from chainrule.core.files import atomic_write
from chainrule.data.columns import shown

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NEEDS_QUOTES = frozenset('",\r\n')
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ROWS_AT_ONCE = 65_536


def write_csv(path: str | Path, columns: Mapping[str, NDArray[Any] | Sequence[Any]]) -> int:
    """Writes columns of equal length as CSV (RFC 4180, UTF-8), wholly or not at all.

    Numbers are written with the fewest digits that give the same float back, and missing values (None, NaN) as empty
    cells. A text, or a name, that a spreadsheet would run as a formula because it begins with ``=``, ``+``, ``-``,
    ``@``, a tab or a carriage return is written with ``'`` before it, unless it is a number such as ``-1``; returned is
    how many were. Raises DataError for columns of different lengths and RunError if the file cannot be written.
    """
    names = list(columns)
    if not names:
        raise DataError("a table without columns cannot be written")
    lengths = {name: len(values) for name, values in columns.items()}
    rows = lengths[names[0]]
    for name, length in lengths.items():
        if length != rows:
            raise DataError(f"column {shown(name)} has {length} values, but column {shown(names[0])} has {rows}")
    header = [_text_cell(name) for name in names]
    escaped = sum(map(_is_formula, names))
    with atomic_write(Path(path)) as file:
        file.write((_record(header) + "\r\n").encode("utf-8"))
        for start in range(0, rows, _ROWS_AT_ONCE):
            cells: list[list[str]] = []
            for values in columns.values():
                items = _items(values[start : start + _ROWS_AT_ONCE])
                cells.append([_cell(item) for item in items])
                escaped += sum(isinstance(item, str) and _is_formula(item) for item in items)
            file.write("".join(f"{_record(record)}\r\n" for record in zip(*cells)).encode("utf-8"))
    return escaped


def _record(cells: Sequence[str]) -> str:
    # A record of one empty cell would be an empty line.
    return '""' if len(cells) == 1 and not cells[0] else ",".join(cells)


def _items(values: NDArray[Any] | Sequence[Any]) -> list[Any]:
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return list(values.astype("datetime64[us]").astype(object))
    return list(values)  # NumPy's own floats know how few digits they need


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else str(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    return _text_cell(value) if isinstance(value, str) else str(value)


def _is_formula(text: str) -> bool:
    return text.startswith(_FORMULA_STARTS) and _NUMBER.fullmatch(text) is None


def _text_cell(text: str) -> str:
    safe = f"'{text}" if _is_formula(text) else text
    if _NEEDS_QUOTES.isdisjoint(safe):
        return safe
    return '"' + safe.replace('"', '""') + '"'
