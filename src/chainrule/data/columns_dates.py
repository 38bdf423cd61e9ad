"""Dates written as text: ISO 8601, and day-month-year or month-day-year where the column shows which.

Dates without a time zone are taken as UTC. ``03/04/2021`` alone can be read in two ways; it is a date only if another
value of the same column rules one of them out, or if the parts are separated by points, which is day first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

_TIME = (
    r"(?:(?:[Tt]|,? +)(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"(?: ?(?P<half>[AaPp][Mm]))?(?: ?(?P<zone>Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?)?"
)
_YEAR_FIRST = re.compile(
    r"(?P<year>[0-9]{4})(?P<sign>[-/.])(?P<first>[0-9]{1,2})(?P=sign)(?P<second_part>[0-9]{1,2})" + _TIME
)
_YEAR_LAST = re.compile(
    r"(?P<first>[0-9]{1,2})(?P<sign>[-/.])(?P<second_part>[0-9]{1,2})(?P=sign)(?P<year>[0-9]{4})" + _TIME
)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_SECONDS_PER_DAY = 86400


@dataclass(frozen=True)
class Dates:
    """``seconds`` since 1970-01-01 UTC, one per text; None if not all are dates or their order is open.

    ``misfit`` is the position of the first text that is no date; ``ambiguous`` says that day and month could be
    swapped in all of them.
    """

    seconds: NDArray[np.float64] | None
    misfit: int | None = None
    ambiguous: bool = False


def read_dates(texts: Sequence[str]) -> Dates:
    """Reads ``texts`` (distinct, stripped, none missing) as dates with one order of day and month throughout."""
    matches: list[tuple[re.Match[str], bool]] = []
    for position, text in enumerate(texts):
        year_first = _YEAR_FIRST.fullmatch(text)
        match = year_first or _YEAR_LAST.fullmatch(text)
        if match is None:
            return Dates(None, misfit=position)
        matches.append((match, year_first is not None))
    day_first = _seconds(matches, day_first=True)
    only_year_first = all(year_first for _, year_first in matches)
    month_first = day_first if only_year_first else _seconds(matches, day_first=False)
    if isinstance(day_first, int):
        if isinstance(month_first, int):
            return Dates(None, misfit=max(day_first, month_first))
        return Dates(month_first)
    if isinstance(month_first, int):
        return Dates(day_first)
    if np.array_equal(day_first, month_first):
        return Dates(day_first)
    return Dates(None, ambiguous=True)


def iso_date(seconds: float) -> str:
    """``2021-03-04``, or ``2021-03-04T05:06:07`` where there is a time of day; UTC."""
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return moment.date().isoformat() if seconds % _SECONDS_PER_DAY == 0 else moment.isoformat()


def _seconds(matches: Sequence[tuple[re.Match[str], bool]], *, day_first: bool) -> NDArray[np.float64] | int:
    """Seconds since the epoch, or the position of the first text that is no date in this order."""
    result = np.empty(len(matches))
    for position, (match, year_first) in enumerate(matches):
        first, second = int(match["first"]), int(match["second_part"])
        swapped = not year_first and (day_first or match["sign"] == ".")
        month, day = (second, first) if swapped else (first, second)
        try:
            days = date(int(match["year"]), month, day).toordinal() - _EPOCH_DAY
            # By way of whole microseconds, as DuckDB and data frames count, so that all round alike.
            seconds = days * _SECONDS_PER_DAY + _time_of_day(match)
            micros, nanos = divmod(int((match["fraction"] or "").ljust(9, "0")), 1000)
            result[position] = (float(seconds * 10**6 + micros) + nanos / 1000) / 1e6
        except ValueError:
            return position
    return result


def _time_of_day(match: re.Match[str]) -> int:
    """Whole seconds since midnight, UTC."""
    if match["hour"] is None:
        return 0
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    if match["half"] is not None:
        if not 1 <= hour <= 12:
            raise ValueError("a 12-hour clock has no such hour")
        hour = hour % 12 + (12 if match["half"].lower() == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("no such time of day")
    return hour * 3600 + minute * 60 + second - _zone_offset(match["zone"])


def _zone_offset(zone: str | None) -> int:
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError("no such time zone")
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)
