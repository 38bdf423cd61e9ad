"""Dates as text, against the datetime module."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.data.columns_dates import iso_date, read_dates

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)


def seconds(text: str) -> float | None:
    dates = read_dates([text])
    return None if dates.seconds is None else float(dates.seconds[0])


@given(MOMENTS, st.sampled_from(["T", " "]))
def test_iso_moments_with_a_time_zone(moment: datetime, between: str) -> None:
    assert seconds(moment.isoformat(between)) == pytest.approx((moment - EPOCH).total_seconds(), abs=1e-4)


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_moments_without_a_zone_are_utc_and_are_written_back(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    found = seconds(moment.isoformat())
    assert found == (moment.replace(tzinfo=UTC) - EPOCH).total_seconds()
    assert datetime.fromisoformat(iso_date(found)) == moment


@given(st.lists(st.dates(), min_size=1, max_size=6), st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d.%m.%Y"]))
def test_day_and_month_in_the_order_that_the_column_settles(days: list, form: str) -> None:
    texts = [day.strftime(form[:-2]) + f"{day.year:04d}" for day in days]
    expected = [(datetime(day.year, day.month, day.day, tzinfo=UTC) - EPOCH).total_seconds() for day in days]
    dates = read_dates(texts)
    settled = "." in form or any(day.day > 12 for day in days) or all(day.day == day.month for day in days)
    if settled:
        assert dates.seconds is not None
        np.testing.assert_array_equal(dates.seconds, expected)
    else:
        assert dates.ambiguous
        assert dates.seconds is None


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2021/3/4", "2021-03-04"),
        ("2021.03.04", "2021-03-04"),
        ("13/4/2021 5:06", "2021-04-13T05:06:00"),
        ("4/13/2021 12:06 AM", "2021-04-13T00:06:00"),
        ("4/13/2021, 12:06:07 pm", "2021-04-13T12:06:07"),
        ("2021-03-04 05:06:07,5", "2021-03-04T05:06:07.500000"),
        ("2021-03-04T05:06:07+0200", "2021-03-04T03:06:07"),
        ("2021-03-04 05:06:07 UTC", "2021-03-04T05:06:07"),
    ],
)
def test_common_forms(text: str, iso: str) -> None:
    found = seconds(text)
    assert found is not None
    assert iso_date(found) == iso


@pytest.mark.parametrize(
    "text",
    [
        "2021-02-29",
        "2021-13-01",
        "0000-01-01",
        "31/04/2021",
        "2021-03/04",
        "2021-03-04T24:00:00",
        "2021-03-04T05:60",
        "2021-03-04 13:00 PM",
        "2021-03-04T05:06+25:00",
        "20210304",
        "12/05/21",
        "2021-03",
        "05:06:07",
        "",
    ],
)
def test_no_dates(text: str) -> None:
    assert read_dates(["2021-01-01", text]).misfit == 1


def test_contradicting_orders_are_no_dates() -> None:
    assert read_dates(["13/01/2021", "01/13/2021"]).seconds is None
