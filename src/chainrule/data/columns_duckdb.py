"""Text columns of a DuckDB table that DuckDB can turn into numbers or dates by itself, many times faster.

It does so only where that cannot differ from what :mod:`~chainrule.data.columns` makes of the texts: for columns that
consist of plain decimal-point numbers or of ISO dates, and of missing values. Any other column is fetched as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chainrule.data.columns import MISSING_TOKENS, RawColumn, is_identifier_name

# Below this number of rows the queries would cost more than they save.
FEWEST_ROWS = 5_000
_BLOCK_CELLS = 500_000

# At most 15 digits and no leading zeros, so that a number is neither a code nor rounded to another integer.
_NUMBER = r"[+-]?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?"
# A fraction or a zero that thousands separated by points could not have.
_SHOWS_DECIMAL_POINT = r"^[+-]?0\.|\.(?:[0-9]{1,2}|[0-9]{4,})(?:[eE].*)?$"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?)?"
_MISSING = "|".join(re.escape(token) for token in sorted(MISSING_TOKENS))


class Queries(Protocol):
    def execute(self, query: str, parameters: dict[str, object] | None = None) -> Any: ...


@dataclass(frozen=True, eq=False)
class Relation:
    """What a query can select from: ``table`` has the columns c0, c1, … and ``row`` numbers its ``rows`` from 0.

    The number is fetched with every column, because DuckDB runs a query in parallel and promises no order: even IN with
    many values, which becomes a join, does not keep it.
    """

    connection: Queries
    table: str
    row: str
    rows: int

    def fetch(self, expressions: Sequence[str]) -> list[Any]:
        """The values of SQL expressions as arrays, masked where NULL, in the order of the rows."""
        listed = ", ".join(f"{expression} AS v{position}" for position, expression in enumerate(expressions))
        found = self.connection.execute(f"SELECT {self.row} AS r, {listed} FROM {self.table}").fetchnumpy()
        row = np.ma.getdata(found["r"])
        if np.array_equal(row, np.arange(self.rows)):
            return [found[f"v{position}"] for position in range(len(expressions))]
        order = np.empty(self.rows, np.int64)
        order[row] = np.arange(self.rows)
        return [found[f"v{position}"][order] for position in range(len(expressions))]

    def texts(self, expressions: Sequence[str]) -> list[NDArray[Any]]:
        """Object arrays of str with None for NULL."""
        return [_texts(column) for column in self.fetch(expressions)]

    def numbers(self, expression: str) -> NDArray[np.float64]:
        """float64 with NaN for NULL."""
        (column,) = self.fetch([f"CAST({expression} AS DOUBLE)"])
        return np.asarray(np.ma.filled(column, np.nan), dtype=np.float64)


class TextColumns:
    """Columns of text of a relation; ``columns`` are their SQL expressions, ``names`` what to call them."""

    def __init__(self, relation: Relation, columns: Sequence[str], names: Sequence[str]) -> None:
        self._relation = relation
        self._columns = columns
        self._names = names
        self._fetched: dict[int, NDArray[Any]] = {}

    def read(self, position: int, as_text: bool) -> RawColumn:
        """One column: as numbers or dates if it consists of them and ``as_text`` is not set, otherwise as text."""
        name = self._names[position]
        long = self._relation.rows >= FEWEST_ROWS
        if long and not as_text and not is_identifier_name(name):  # identifiers stay as they are written
            typed = _fetch_typed(self._relation, name, self._columns[position])
            if typed is not None:
                return typed
        if position not in self._fetched:
            self._fetch_block(position, 1 if long else max(1, _BLOCK_CELLS // max(self._relation.rows, 1)))
        return RawColumn(name, "text", self._fetched.pop(position))

    def _fetch_block(self, position: int, size: int) -> None:
        """Fetches a column together with its neighbours, in blocks of ``size``, because a query has a fixed cost."""
        first = position - position % size
        columns = self._columns[first : first + size]
        self._fetched.update(enumerate(self._relation.texts(columns), start=first))


def _texts(column: Any) -> NDArray[Any]:
    result = np.empty(len(column), dtype=object)
    result[:] = np.ma.getdata(column)
    result[np.ma.getmaskarray(column)] = None
    return result


def _fetch_typed(relation: Relation, name: str, column: str) -> RawColumn | None:
    value = f"CASE WHEN regexp_full_match(trim({column}), '{_MISSING}') THEN NULL ELSE trim({column}) END"
    present, numbers, dates, points, decimal = relation.connection.execute(
        f"SELECT count(v), count_if(regexp_full_match(v, '{_NUMBER}')), count_if(regexp_full_match(v, '{_DATE}')), "
        f"bool_or(contains(v, '.')), bool_or(regexp_matches(v, '{_SHOWS_DECIMAL_POINT}')) "
        f"FROM (SELECT {value} AS v FROM {relation.table})"
    ).fetchall()[0]
    if present and numbers == present and (decimal or not points):
        result = relation.numbers(f"TRY_CAST({value} AS DOUBLE)")
        if int(np.isfinite(result).sum()) == present:
            return RawColumn(name, "number", result, decimal_points=bool(points))
    elif present and dates == present:
        result = relation.numbers(f"epoch_us(TRY_CAST({value} AS TIMESTAMP))")
        if int(np.isfinite(result).sum()) == present:
            return RawColumn(name, "date", result / 1e6)
    return None
