"""Numbers as text, against exact decimal arithmetic."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.data.columns_numbers import Style, are_codes, parse_numbers, read_numerals

GROUPING: dict[Style, tuple[str, str]] = {"point": (".", ","), "comma": (",", ".")}


@st.composite
def grouped(draw: st.DrawFn) -> tuple[str, Style, float]:
    """A number with thousands separators and a fraction, how it is to be read, and its value."""
    style = draw(st.sampled_from(list(GROUPING)))
    decimal, grouping = GROUPING[style]
    grouping = draw(st.sampled_from([grouping, " ", "\u00a0", "\u202f", "'"]))
    whole, fraction = draw(st.integers(1000, 10**12)), draw(st.text("0123456789", min_size=1, max_size=2))
    sign = draw(st.sampled_from(["", "-", "+", "−"]))
    value = float(Decimal(f"{whole}.{fraction}")) * (-1 if sign in ("-", "−") else 1)
    return f"{sign}{whole:,}".replace(",", grouping) + decimal + fraction, style, value


@given(grouped())
def test_thousands_with_a_fraction_have_one_reading(case: tuple[str, Style, float]) -> None:
    text, style, value = case
    numerals = read_numerals([text])
    assert numerals.style == style
    assert parse_numbers([text], style).tolist() == [value]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_repr_writes_is_read_exactly(value: float) -> None:
    assert parse_numbers([repr(value)], "point").tolist() == [value]
    assert parse_numbers([repr(value).replace(".", ",")], "comma").tolist() == [value]


@pytest.mark.parametrize(
    ("texts", "point", "comma"),
    [
        (["1", "22", "-333"], True, True),
        (["1.234"], True, True),
        (["1,234"], True, True),
        (["1,234,567"], True, False),
        (["1.234.567"], False, True),
        (["0,123"], False, True),
        (["0.123"], True, False),
        (["1,23"], False, True),
        (["1.23", "1,23"], False, False),
        (["1,234.5", "1.234,5"], False, False),
        (["1,2345"], False, True),
        (["12,34,567"], False, False),
        (["1 234,567"], False, True),
        (["1 23"], False, False),
        (["1 234'567"], False, False),
        (["1.", ".5", "5e3", "5E-3"], True, False),
        (["1e"], False, False),
        (["e5"], False, False),
        ([".", "+"], False, False),
        (["0x10"], False, False),
        (["１２"], False, False),
        (["12%"], False, False),
        (["$5"], False, False),
        (["nan"], False, False),
    ],
)
def test_which_readings_fit(texts: list[str], point: bool, comma: bool) -> None:
    numerals = read_numerals(texts)
    assert (numerals.point, numerals.comma) == (point, comma)


def test_matches_mark_the_texts_of_the_better_reading() -> None:
    assert read_numerals(["1.5", "x", "2.5", "1,5"]).matches.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("texts", "codes"),
    [
        (["01"], True),
        (["-07"], True),
        (["0", "10"], False),
        (["0.5"], False),
        (["00.5"], False),
        (["1" * 15], False),
        (["1" * 16], True),
        (["1" * 16, "0.5"], False),
        (["0.1234567890123456"], False),
    ],
)
def test_codes(texts: list[str], codes: bool) -> None:
    assert are_codes(texts) is codes
