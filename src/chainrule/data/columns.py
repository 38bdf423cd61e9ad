"""Kinds of columns: what they hold, and how text or typed data becomes one.

========== ========================================= ==============================================================
kind       ``Column.values``                         inferred from
========== ========================================= ==============================================================
number     float64, NaN where missing                numbers (see :mod:`~chainrule.data.columns_numbers`); a column
                                                     without any value
boolean    float64 0 or 1, NaN where missing         ``true``/``false`` or ``yes``/``no`` in any case; 0 and 1 are
                                                     numbers
date       float64 seconds since 1970-01-01 UTC,     ISO 8601, or day, month and year in an order that the column
           NaN where missing                         settles (see :mod:`~chainrule.data.columns_dates`)
category   object array of str, None where missing   every other text; digits with leading zeros; very long integers
identifier object array of str, None where missing   at least 20 texts of which 90 % or more differ; integers that
                                                     all differ, none missing, in a column named like an identifier
========== ========================================= ==============================================================

White space around a text is not part of it, and the texts of :data:`MISSING_TOKENS` stand for a missing value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import DataError
from chainrule.core.names import escape_terminal, nearest
from chainrule.data.columns_dates import iso_date, read_dates
from chainrule.data.columns_numbers import (
    DECIMAL_POINT,
    UNREAD,
    Numerals,
    Style,
    are_codes,
    decide_style,
    is_infinite,
    parse_numbers,
    read_numerals,
    unit_of,
)

Kind = Literal["number", "category", "boolean", "date", "identifier"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MISSING_TOKENS = frozenset(
    ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "NULL", "Null", "null", "None", "?", "-", "."]
)

_WORD_PAIRS = (("false", "true"), ("no", "yes"))
_FALSE_WORDS = frozenset(["false", "no", "n", "f", "off", "0"])
_TRUE_WORDS = frozenset(["true", "yes", "y", "t", "on", "1"])

_IDENTIFIER_MINIMUM_TEXTS = 20
_IDENTIFIER_SHARE = 0.9
_IDENTIFIER_WORDS = frozenset(["id", "ids", "uid", "uuid", "guid", "identifier", "rowid", "unnamed"])
_IDENTIFIER_NAMES = frozenset(
    ["", "index", "idx", "row", "rownum", "row number", "row nr", "row no", "key", "column 1"]
)

# A column is numbers with a mistake in it, not categories, if it has more distinct numbers than a code would have and
# either nearly all values are numbers or a single text stands in for all the others.
_MISTAKE_DISTINCT_NUMBERS = 20
_MISTAKE_SHARE = 0.99
_MISTAKE_SHARE_ONE_TEXT = 0.9


@dataclass(frozen=True, eq=False)
class Column:
    """One column: ``values`` as the table at the head of this module says, ``missing`` a boolean mask of its length.

    ``words`` are the texts that stood for 0 and 1 in a boolean column read from text, as first written there.
    """

    name: str
    kind: Kind
    values: NDArray[Any]
    missing: NDArray[np.bool_]
    words: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: NDArray[Any] | slice) -> Column:
        """The rows named by an integer array, a boolean mask or a slice, in that order."""
        return Column(self.name, self.kind, self.values[rows], self.missing[rows], self.words)


@dataclass(frozen=True, eq=False)
class RawColumn:
    """A column before its kind is decided.

    ``form`` "text": an object array of str, None where missing; any other form: float64 as in :class:`Column`.
    ``decimal_points`` says that the source wrote these numbers as text with a decimal point.
    """

    name: str
    form: Literal["text", "number", "boolean", "date"]
    values: NDArray[Any]
    decimal_points: bool = False


@dataclass(frozen=True, eq=False)
class Places:
    """Where the rows of a table stand in their source: the ``word`` ("line" or "row") and a number for each."""

    source: str
    word: Literal["line", "row"]
    numbers: NDArray[np.int64]

    def at(self, row: int) -> str:
        return f"{self.source}, {self.word} {self.numbers[row]}"

    def cell_error(self, row: int, column: str, problem: str) -> DataError:
        return DataError(f"{self.at(row)}, column {shown(column)}: {problem}")

    def column_error(self, column: str, problem: str) -> DataError:
        return DataError(f"{self.source}, column {shown(column)}: {problem}")


def shown(text: str) -> str:
    """``text`` in quotes for a message, on one line and not longer than 60 characters."""
    return f"'{escape_terminal(text, limit=60)}'"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``(did you mean 'x'?)``, after a space, for the most similar of ``names``; "" if none is similar."""
    found = nearest(name, names)
    return "" if found is None else f" (did you mean {shown(found)}?)"


def is_identifier_name(name: str) -> bool:
    """Whether a column is named like an identifier or a row number: ``id``, ``PatientID``, ``Unnamed: 0``, ``index``."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    tokens = [token.lower() for token in re.split(r"[^0-9A-Za-z]+", words) if token]
    return " ".join(tokens) in _IDENTIFIER_NAMES or not _IDENTIFIER_WORDS.isdisjoint(tokens)


def build_columns(
    raws: Iterable[RawColumn],
    kinds: Mapping[str, Kind],
    places: Places,
    *,
    comma_delimited: bool,
    notices: list[str],
) -> tuple[Column, ...]:
    """Turns raw columns into columns of the kinds in ``kinds``, or of inferred kinds where it names none.

    ``comma_delimited`` says that a comma inside a number cannot be taken for a decimal comma without evidence.
    Raises DataError with line and column for a value that is infinite or that does not fit a given kind, and for a
    column of numbers that has a few other texts in it.
    """
    prepared: list[Column | tuple[_Text, Numerals]] = []
    evidence: list[Numerals] = []
    for raw in raws:
        prepared.append(_prepare(raw, kinds.get(raw.name), places, notices))
        if isinstance(prepared[-1], tuple):
            evidence.append(prepared[-1][1])
        elif raw.decimal_points:
            evidence.append(DECIMAL_POINT)
    columns: list[Column] = []
    decimal_commas: list[str] = []
    for item in prepared:
        if isinstance(item, Column):
            columns.append(item)
            continue
        text, numerals = item
        style = decide_style(evidence, numerals, comma_delimited=comma_delimited)
        columns.append(_from_text(text, kinds.get(text.name), numerals, style, places, notices))
        if style == "comma" and columns[-1].kind == "number":
            decimal_commas.append(text.name)
    if decimal_commas:
        names = ", ".join(map(shown, decimal_commas[:5])) + (", …" if len(decimal_commas) > 5 else "")
        notices.append(f"{places.source}: decimal comma recognised in column {names}")
    return tuple(columns)


def _prepare(
    raw: RawColumn, wanted: Kind | None, places: Places, notices: list[str]
) -> Column | tuple[_Text, Numerals]:
    """The finished column; or, for texts that are all numbers, what the other columns are needed to read."""
    if raw.form != "text":
        return _from_typed(raw, wanted, places, notices)
    text = _Text.of(raw)
    numerals = read_numerals(text.distinct) if wanted in (None, "number") else UNREAD
    if numerals.numeric and numerals.separator:
        return text, numerals
    return _from_text(text, wanted, numerals, numerals.style, places, notices)


@dataclass(frozen=True, eq=False)
class _Text:
    """A text column as its distinct values, stripped and without missing tokens; code -1 marks a missing value."""

    name: str
    distinct: list[str]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, raw: RawColumn) -> _Text:
        values = raw.values.tolist()
        first = {value: code for code, value in enumerate(dict.fromkeys(values))}
        codes = np.fromiter(map(first.__getitem__, values), np.int64, len(values))
        cleaned: dict[str, int] = {}
        merged = np.full(len(first), -1, np.int64)
        for code, value in enumerate(first):
            text = "" if value is None else value.strip()
            if text not in MISSING_TOKENS:
                merged[code] = cleaned.setdefault(text, len(cleaned))
        return cls(raw.name, list(cleaned), merged[codes] if len(codes) else codes)

    @property
    def missing(self) -> NDArray[np.bool_]:
        return self.codes < 0

    def counts(self) -> NDArray[np.int64]:
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.distinct)).astype(np.int64)

    def row_of(self, code: int) -> int:
        return int(np.argmax(self.codes == code))

    def spread(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(numbers, np.nan)[self.codes]

    def strings(self) -> NDArray[Any]:
        table = np.empty(len(self.distinct) + 1, dtype=object)
        table[:-1] = self.distinct
        return table[self.codes]


def _from_text(
    text: _Text, wanted: Kind | None, numerals: Numerals, style: Style | None, places: Places, notices: list[str]
) -> Column:
    kind = wanted or _infer_text(text, numerals, style, places, notices)
    match kind:
        case "number":
            return _numbers(text, numerals, style, places)
        case "boolean":
            return _booleans(text, places)
        case "date":
            return _dates(text, places)
        case "category" | "identifier":
            return Column(text.name, kind, text.strings(), text.missing)


def _infer_text(text: _Text, numerals: Numerals, style: Style | None, places: Places, notices: list[str]) -> Kind:
    where = f"{places.source}, column {shown(text.name)}"
    if not text.distinct:
        notices.append(f"{where}: every value is missing")
        return "number"
    lowered = {value.lower() for value in text.distinct} if len(text.distinct) <= 16 else set()
    if any(lowered and lowered <= set(pair) for pair in _WORD_PAIRS):
        return "boolean"
    if style is not None and not are_codes(text.distinct):
        every_row_differs = len(text.distinct) == len(text.codes)
        if every_row_differs and _is_row_identifier(text.name, parse_numbers(text.distinct, style)):
            notices.append(_identifier_notice(where, text.name, len(text.distinct), len(text.codes)))
            return "identifier"
        return "number"
    if style is None:
        _refuse_spoiled_numbers(text, numerals, places)
        if numerals.numeric:
            notices.append(
                f"{where}: {shown(text.distinct[_separated(text.distinct)])} could have a decimal comma or a thousands "
                "separator, so the column is not read as numbers; write its numbers with a decimal point"
            )
        elif (unit := unit_of(text.distinct)) is not None:
            notices.append(
                f"{where}: every value is a number with {shown(unit)} beside it (such as {shown(text.distinct[0])}), so the column "
                "is not read as numbers; leave that away, and it is"
            )
        elif (dates := read_dates(text.distinct)).seconds is not None:
            return "date"
        elif dates.ambiguous:
            notices.append(
                f"{where}: day and month could be swapped in every value (such as {shown(text.distinct[0])}), so the "
                "column is not read as dates; write them as YYYY-MM-DD"
            )
    present = int((text.codes >= 0).sum())
    if present >= _IDENTIFIER_MINIMUM_TEXTS and len(text.distinct) >= _IDENTIFIER_SHARE * present:
        notices.append(_identifier_notice(where, text.name, len(text.distinct), len(text.codes)))
        return "identifier"
    return "category"


def _refuse_spoiled_numbers(text: _Text, numerals: Numerals, places: Places) -> None:
    """Raises DataError where all but a few values are numbers: an infinity, or a mistake in a few cells."""
    misfits = np.flatnonzero(~numerals.matches)
    if not len(misfits) or not numerals.matches.any():
        return
    infinite = [code for code in misfits.tolist() if is_infinite(text.distinct[code])]
    if len(infinite) == len(misfits):
        raise _infinity_error(text, infinite[0], places)
    counts = text.counts()
    share = counts[numerals.matches].sum() / counts.sum()
    needed = _MISTAKE_SHARE_ONE_TEXT if len(misfits) == 1 else _MISTAKE_SHARE
    if numerals.matches.sum() > _MISTAKE_DISTINCT_NUMBERS and share >= needed:
        code = int(misfits[0])
        raise places.cell_error(
            text.row_of(code),
            text.name,
            f"{shown(text.distinct[code])} is not a number, but {share:.1%} of the column are; correct it, leave the "
            f"cell empty, or read the column as a category (type {text.name}=category)",
        )


def _numbers(text: _Text, numerals: Numerals, style: Style | None, places: Places) -> Column:
    if not text.distinct:
        return Column(text.name, "number", np.full(len(text.codes), np.nan), text.missing)
    if style is None:
        raise _not_a_number(text, numerals, places)
    numbers = parse_numbers(text.distinct, style)
    if not np.isfinite(numbers).all():
        raise _infinity_error(text, int(np.argmin(np.isfinite(numbers))), places)
    return Column(text.name, "number", text.spread(numbers), text.missing)


def _not_a_number(text: _Text, numerals: Numerals, places: Places) -> DataError:
    if numerals.numeric:
        code = _separated(text.distinct)
        problem = "could have a decimal comma or a thousands separator; write it with a decimal point"
        return places.cell_error(text.row_of(code), text.name, f"{shown(text.distinct[code])} {problem}")
    code = int(np.argmin(numerals.matches))
    if is_infinite(text.distinct[code]):
        return _infinity_error(text, code, places)
    return places.cell_error(text.row_of(code), text.name, f"{shown(text.distinct[code])} is not a number")


def _infinity_error(text: _Text, code: int, places: Places) -> DataError:
    problem = f"{shown(text.distinct[code])} is infinite or too large; correct it or leave the cell empty"
    return places.cell_error(text.row_of(code), text.name, problem)


def _separated(texts: Sequence[str]) -> int:
    return next(code for code, text in enumerate(texts) if "," in text or "." in text)


def _booleans(text: _Text, places: Places) -> Column:
    words: dict[bool, str] = {}
    numbers = np.empty(len(text.distinct))
    for code, word in enumerate(text.distinct):
        lowered = word.lower()
        if lowered not in _TRUE_WORDS and lowered not in _FALSE_WORDS:
            problem = f"{shown(word)} is neither true nor false (nor yes or no, 1 or 0)"
            raise places.cell_error(text.row_of(code), text.name, problem)
        numbers[code] = truth = lowered in _TRUE_WORDS
        words.setdefault(truth, word)
    pair = (words.get(False, "false"), words.get(True, "true"))
    return Column(text.name, "boolean", text.spread(numbers), text.missing, pair)


def _dates(text: _Text, places: Places) -> Column:
    dates = read_dates(text.distinct)
    if dates.seconds is not None:
        return Column(text.name, "date", text.spread(dates.seconds), text.missing)
    code = dates.misfit or 0
    problem = (
        "is not a date that is understood" if dates.misfit is not None else "has its day and month in either order"
    )
    raise places.cell_error(
        text.row_of(code), text.name, f"{shown(text.distinct[code])} {problem}; write it as YYYY-MM-DD"
    )


def _from_typed(raw: RawColumn, wanted: Kind | None, places: Places, notices: list[str]) -> Column:
    values = np.ascontiguousarray(raw.values, dtype=np.float64)
    missing = np.isnan(values)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise places.cell_error(row, raw.name, f"{values[row]} is infinite; correct it or leave the cell empty")
    kind = wanted or _infer_typed(raw.name, raw.form, values, missing, places, notices)
    if kind in ("category", "identifier"):
        return Column(raw.name, kind, _typed_strings(raw.form, values, missing), missing)
    if kind == raw.form or (kind == "number" and raw.form == "boolean"):
        return Column(raw.name, kind, values, missing)
    if kind == "boolean" and raw.form == "number":
        wrong = ~missing & (values != 0) & (values != 1)
        if not wrong.any():
            return Column(raw.name, "boolean", values, missing)
        row = int(np.argmax(wrong))
        raise places.cell_error(row, raw.name, f"{values[row]:g} is neither true nor false (nor 1 or 0)")
    if missing.all():
        return Column(raw.name, kind, values, missing)
    raise places.column_error(raw.name, f"holds {raw.form}s where {kind}s are expected")


def _infer_typed(
    name: str, form: str, values: NDArray[np.float64], missing: NDArray[np.bool_], places: Places, notices: list[str]
) -> Kind:
    where = f"{places.source}, column {shown(name)}"
    if missing.all() and len(values):
        notices.append(f"{where}: every value is missing")
        return "number"
    if form == "number" and not missing.any() and _is_row_identifier(name, values):
        notices.append(_identifier_notice(where, name, len(values), len(values)))
        return "identifier"
    return "boolean" if form == "boolean" else "date" if form == "date" else "number"


def _typed_strings(form: str, values: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[Any]:
    distinct, codes = np.unique(values[~missing], return_inverse=True)
    table = np.empty(len(distinct), dtype=object)
    table[:] = [_typed_string(form, value) for value in distinct.tolist()]
    result = np.full(len(values), None, dtype=object)
    result[~missing] = table[codes]
    return result


def _typed_string(form: str, value: float) -> str:
    if form == "boolean":
        return str(bool(value))
    if form == "date":
        return iso_date(value)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _is_row_identifier(name: str, numbers: NDArray[np.float64]) -> bool:
    """Integers that all differ, in a column that is named like an identifier."""
    if not is_identifier_name(name) or len(numbers) < 2:
        return False
    return bool((numbers == np.floor(numbers)).all()) and len(np.unique(numbers)) == len(numbers)


def _identifier_notice(where: str, name: str, distinct: int, rows: int) -> str:
    return (
        f"{where}: {distinct} different values in {rows} rows look like an identifier, which says nothing about new "
        f"rows; to learn from it all the same, give its type ({name}=category or {name}=number)"
    )
