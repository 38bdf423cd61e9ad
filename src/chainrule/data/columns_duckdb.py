"""Text columns of a DuckDB table that DuckDB can turn into numbers or dates by itself, many times faster.

It does so only where that cannot differ from what :mod:`~chainrule.data.columns` makes of the texts: for columns that
consist of plain decimal-point numbers or of ISO dates, and of missing values. Any other column is fetched as text.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Queries(Protocol):
    def execute(self, query: str, parameters: dict[str, object] | None = None) -> Any: ...


class TextColumns:
    """Columns of text of a DuckDB relation; ``columns`` are their SQL expressions, ``names`` what to call them."""

    def __init__(
        self, connection: Queries, relation: str, columns: Sequence[str], names: Sequence[str], rows: int
    ) -> None:
        self._connection = connection
        self._relation = relation
        self._columns = columns
        self._names = names
        self._rows = rows
        self._fetched: dict[int, NDArray[Any]] = {}

    def read(self, position: int, as_text: bool) -> RawColumn:
        """One column: as numbers or dates if it consists of them and ``as_text`` is not set, otherwise as text."""
        name = self._names[position]
        if not as_text and self._rows >= FEWEST_ROWS and not is_identifier_name(name):  # identifiers stay as written
            typed = _fetch_typed(self._connection, name, self._columns[position], self._relation)
            if typed is not None:
                return typed
        if position not in self._fetched:
            self._fetch_block(position)
        return RawColumn(name, "text", self._fetched.pop(position))

    def _fetch_block(self, position: int) -> None:
        """Fetches the column, together with its neighbours in a short table, because a query has a fixed cost."""
        size = 1 if self._rows >= FEWEST_ROWS else max(1, _BLOCK_CELLS // max(self._rows, 1))
        first = position - position % size
        block = range(first, min(first + size, len(self._columns)))
        expressions = ", ".join(f"{self._columns[member]} AS v{member}" for member in block)
        found = self._connection.execute(f"SELECT {expressions} FROM {self._relation}").fetchnumpy()
        self._fetched.update({member: _texts(found[f"v{member}"]) for member in block})


def _texts(column: Any) -> NDArray[Any]:
    """An object array of str with None for NULL."""
    result = np.empty(len(column), dtype=object)
    result[:] = np.ma.getdata(column)
    result[np.ma.getmaskarray(column)] = None
    return result


def fetch_numbers(connection: Queries, query: str) -> NDArray[np.float64]:
    """The one column of numbers that ``query`` gives, as float64 with NaN for NULL."""
    (column,) = connection.execute(query).fetchnumpy().values()
    return np.asarray(np.ma.filled(column.astype(np.float64), np.nan), dtype=np.float64)


def _fetch_typed(connection: Queries, name: str, column: str, relation: str) -> RawColumn | None:
    tokens = ", ".join(f"'{token}'" for token in sorted(MISSING_TOKENS))
    values = f"(SELECT CASE WHEN trim({column}) IN ({tokens}) THEN NULL ELSE trim({column}) END AS v FROM {relation})"
    present, numbers, dates, points, decimal = connection.execute(
        f"SELECT count(v), count_if(regexp_full_match(v, '{_NUMBER}')), count_if(regexp_full_match(v, '{_DATE}')), "
        f"bool_or(contains(v, '.')), bool_or(regexp_matches(v, '{_SHOWS_DECIMAL_POINT}')) FROM {values}"
    ).fetchall()[0]
    if present and numbers == present and (decimal or not points):
        result = fetch_numbers(connection, f"SELECT TRY_CAST(v AS DOUBLE) FROM {values}")
        if int(np.isfinite(result).sum()) == present:
            return RawColumn(name, "number", result, decimal_points=bool(points))
    elif present and dates == present:
        result = fetch_numbers(connection, f"SELECT CAST(epoch_us(TRY_CAST(v AS TIMESTAMP)) AS DOUBLE) FROM {values}")
        if int(np.isfinite(result).sum()) == present:
            return RawColumn(name, "date", result / 1e6)
    return None
