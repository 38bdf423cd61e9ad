"""Numbers written as text: decimal points, decimal commas and thousands separators.

A text such as ``1,234`` can mean 1234 or 1.234. A column settles its own reading when only one of the two fits all of
its values (``0,5``, ``1,234.5`` or ``1,234,567`` do); otherwise the other columns of the file are the evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Style = Literal["point", "comma"]

_SIGN = r"[+\-−]?"
_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"


def _number_pattern(decimal: str, grouping: str) -> re.Pattern[str]:
    """Digits with an optional fraction; groups of three never start with 0 and use one separator throughout."""
    separators = (grouping, "[ \u00a0\u202f]", "['’]")
    groups = "|".join(f"(?:{separator}[0-9]{{3}})+" for separator in separators)
    whole = f"(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{groups}))"
    return re.compile(f"{_SIGN}(?:{whole}(?:{decimal}[0-9]*)?|{decimal}[0-9]+){_EXPONENT}")


_PATTERNS: dict[Style, re.Pattern[str]] = {
    "point": _number_pattern(r"\.", ","),
    "comma": _number_pattern(",", r"\."),
}
_SEPARATORS = dict.fromkeys(map(ord, " \u00a0\u202f'’"))
# A number with one sign or a short word on one side.
_WITH_UNIT = re.compile(r"(?P<before>[^\w\s+.,-]?)\s*(?P<number>[+-]?[\d.,]*\d)\s*(?P<after>[^\d\s+.,-]{0,6})")
_TO_PLAIN: dict[Style, dict[int, str | None]] = {
    "point": {**_SEPARATORS, ord(","): None, ord("−"): "-"},
    "comma": {**_SEPARATORS, ord("."): None, ord(","): ".", ord("−"): "-"},
}
_PLAIN_CHARACTERS = b"0123456789+-.eE\n"
_INFINITE = re.compile(r"[+\-−]?(?:inf|infinity|∞)", re.IGNORECASE)
_LEADING_ZERO = re.compile(r"[+\-−]?0[0-9]+")
_INTEGER = re.compile(r"[+\-−]?[0-9]+")
_LARGEST_EXACT_DIGITS = 15


@dataclass(frozen=True)
class Numerals:
    """Which readings fit the texts of one column.

    ``matches`` marks the texts that the better of the two fits. ``separator`` is the character that the two would read
    differently, or "" if no text has one.
    """

    point: bool
    comma: bool
    separator: str
    matches: NDArray[np.bool_]

    @property
    def numeric(self) -> bool:
        return self.point or self.comma

    @property
    def style(self) -> Style | None:
        """The reading that these texts alone decide; None if neither fits or both do and differ."""
        if self.point and (not self.comma or not self.separator):
            return "point"
        return "comma" if self.comma and not self.point else None


DECIMAL_POINT = Numerals(True, False, ".", np.zeros(0, np.bool_))
UNREAD = Numerals(False, False, "", np.zeros(0, np.bool_))


def read_numerals(texts: Sequence[str]) -> Numerals:
    """Finds which readings fit all of ``texts`` (distinct, stripped, none missing)."""
    if _only_plain_characters(texts) and _floats_or_none(texts) is not None:
        separator = _separator(texts)
        grouped = not separator or all(fits_style(text, "comma") for text in texts)
        return Numerals(True, grouped, separator, np.ones(len(texts), np.bool_))
    point, comma = _fits(texts, "point"), _fits(texts, "comma")
    better = point if point.sum() >= comma.sum() else comma
    return Numerals(bool(point.all()), bool(comma.all()), _separator(texts), better)


def unit_of(texts: Sequence[str]) -> str | None:
    """The sign or unit that stands before or behind every number, such as ``%``, ``$`` or ``kg``; None if texts are something else."""
    found = [_WITH_UNIT.fullmatch(text) for text in texts]
    pairs = {match.group("before", "after") if match else ("", "") for match in found}
    if len(texts) < 2 or len(pairs) != 1 or pairs == {("", "")}:
        return None
    numbers = [match["number"] for match in found if match]
    return "".join(pairs.pop()) if read_numerals(numbers).numeric else None


def decide_style(columns: Iterable[Numerals], numerals: Numerals, *, comma_delimited: bool) -> Style | None:
    """The reading of an ambiguous column, from the columns that decide for themselves; None if it stays open.

    Without evidence, ``1.234`` has a decimal point; ``1,234`` has a decimal comma where the comma does not delimit
    fields, and stays open where it does.
    """
    if numerals.style is not None or not numerals.numeric:
        return numerals.style
    evidence = {column.style for column in columns if column.style is not None and column.separator}
    if len(evidence) == 1:
        return evidence.pop()
    if numerals.separator == ".":
        return "point"
    return None if comma_delimited else "comma"


def parse_numbers(texts: Sequence[str], style: Style) -> NDArray[np.float64]:
    """The float64 values of texts that ``style`` fits; a number too large for float64 becomes an infinity."""
    table = _TO_PLAIN[style]
    plain = texts if style == "point" and _only_plain_characters(texts) else [text.translate(table) for text in texts]
    return np.array([float(text) for text in plain], dtype=np.float64)


def fits_style(text: str, style: Style) -> bool:
    return _PATTERNS[style].fullmatch(text) is not None


def is_infinite(text: str) -> bool:
    return _INFINITE.fullmatch(text) is not None


def are_codes(texts: Sequence[str]) -> bool:
    """Whether digits are labels, not quantities: leading zeros (``01234``), or integers too long for float64."""
    if any(_LEADING_ZERO.fullmatch(text) for text in texts):
        return True
    longest = max(texts, key=len, default="")
    return len(longest) > _LARGEST_EXACT_DIGITS and all(_INTEGER.fullmatch(text) for text in texts)


def _separator(texts: Sequence[str]) -> str:
    joined = "\n".join(texts)
    return "." if "." in joined else "," if "," in joined else ""


def _only_plain_characters(texts: Sequence[str]) -> bool:
    return not "\n".join(texts).encode("utf-8", "replace").translate(None, _PLAIN_CHARACTERS)


def _floats_or_none(texts: Sequence[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _fits(texts: Sequence[str], style: Style) -> NDArray[np.bool_]:
    matches = _PATTERNS[style].fullmatch
    return np.array([matches(text) is not None for text in texts], dtype=np.bool_)
