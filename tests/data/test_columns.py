"""Kinds of columns: what is inferred from texts and typed values, and what given kinds accept and refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chainrule.core.errors import DataError
from chainrule.data.columns import MISSING_TOKENS, Column, Kind, Places, RawColumn, build_columns


def objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def build(
    columns: dict[str, list[str | None]], kinds: dict[str, Kind] | None = None, *, comma_delimited: bool = True
) -> tuple[dict[str, Column], list[str]]:
    raws = [RawColumn(name, "text", objects(values)) for name, values in columns.items()]
    rows = len(next(iter(columns.values())))
    notices: list[str] = []
    places = Places("t.csv", "line", np.arange(2, rows + 2))
    built = build_columns(raws, kinds or {}, places, comma_delimited=comma_delimited, notices=notices)
    return {column.name: column for column in built}, notices


def infer_kind(name: str, texts: list[str | None]) -> Kind:
    return build({name: texts})[0][name].kind


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "2.5", "-3e-2"], "number"),
        (["0", "1", "1"], "number"),
        (["0", "10", "0.5"], "number"),
        (["true", "FALSE", None], "boolean"),
        (["yes", "no", "?"], "boolean"),
        (["Yes", "Yes"], "boolean"),
        (["yes", "true"], "category"),
        (["y", "n"], "category"),
        (["yes", "no", "maybe"], "category"),
        (["2021-03-04", "1999-12-31"], "date"),
        (["2021-03-04T05:06:07Z", "1999-12-31 23:59"], "date"),
        (["2021-02-30", "2021-02-28"], "category"),
        (["red", "green", "red"], "category"),
        (["01234", "99999", "12345"], "category"),
        (["-", "007"], "category"),
        (["4111111111111111", "5500005555555559"], "category"),
        ([None, "", "NA"], "number"),
        (["inf", "stable"], "category"),
        ([f"name {i}" for i in range(20)], "identifier"),
        ([f"name {i}" for i in range(19)], "category"),
        ([f"name {i % 17}" for i in range(20)], "category"),
        ([f"{i:05d}" for i in range(30)], "identifier"),
        ([str(i) for i in range(30)], "number"),
    ],
)
def test_inferred_from_texts(texts: list[str | None], kind: Kind) -> None:
    assert infer_kind("x", texts) == kind


@pytest.mark.parametrize(
    "name", ["id", "ID", "patient_id", "PatientID", "Unnamed: 0", "index", "row", "column_1", "user.uuid", "Row Number"]
)
def test_distinct_integers_in_a_column_named_like_an_identifier(name: str) -> None:
    assert infer_kind(name, ["3", "1", "2"]) == "identifier"
    assert infer_kind(name, ["3", "1", "1"]) == "number"
    assert infer_kind(name, ["3", "1", ""]) == "number"
    assert infer_kind(name, ["3", "1", "0.5"]) == "number"


@pytest.mark.parametrize("name", ["humidity", "grid", "body mass index", "paid", "arid_zone", "x", "rows", "Idaho"])
def test_other_names_do_not_make_identifiers(name: str) -> None:
    assert infer_kind(name, ["1", "2", "3"]) == "number"


def test_values_and_missing_of_each_kind() -> None:
    columns, _ = build(
        {
            "n": [" 1 ", "NA", "2.5"],
            "b": ["no", "YES", None],
            "d": ["1970-01-02", "?", "1969-12-31T23:59:59"],
            "c": [" red", "-", "red "],
        }
    )
    np.testing.assert_array_equal(columns["n"].values, [1, np.nan, 2.5])
    np.testing.assert_array_equal(columns["b"].values, [0, 1, np.nan])
    assert columns["b"].words == ("no", "YES")
    np.testing.assert_array_equal(columns["d"].values, [86400, np.nan, -1])
    assert columns["c"].values.tolist() == ["red", None, "red"]
    assert [column.missing.tolist() for column in columns.values()] == [
        [False, True, False],
        [False, False, True],
        [False, True, False],
        [False, True, False],
    ]
    assert all(column.values.dtype == np.float64 for name, column in columns.items() if name != "c")


def test_every_missing_token_is_missing() -> None:
    columns, notices = build({"x": [f" {token} " for token in sorted(MISSING_TOKENS)]})
    assert columns["x"].missing.all()
    assert notices == ["t.csv, column 'x': every value is missing"]


def test_select_keeps_order_and_words() -> None:
    columns, _ = build({"b": ["no", "yes", "yes", "?"]})
    picked = columns["b"].select(np.array([2, 0]))
    assert (picked.values.tolist(), picked.missing.tolist(), picked.words) == ([1, 0], [False, False], ("no", "yes"))


def test_a_mistake_in_a_column_of_numbers_is_refused_with_its_line() -> None:
    values: list[str | None] = [str(i / 7) for i in range(40)]
    values[17] = "abc"
    with pytest.raises(DataError, match=r"t\.csv, line 19, column 'x': 'abc' is not a number, but 97.5% .* x=category"):
        build({"x": values})
    assert build({"x": values}, {"x": "category"})[0]["x"].kind == "category"


def test_codes_that_are_mostly_digits_are_categories() -> None:
    assert infer_kind("size", [*"123456789" * 20, "10+"]) == "category"
    assert infer_kind("ticket", [*map(str, range(100)), *(f"PC {i}" for i in range(30))]) == "identifier"


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        ("number", "abc", "'abc' is not a number"),
        ("number", "12,3,4", "'12,3,4' is not a number"),
        ("number", "1_000", "'1_000' is not a number"),
        ("number", "Inf", "'Inf' is infinite"),
        ("number", "1,234", "'1,234' could have a decimal comma or a thousands separator"),
        ("boolean", "2", "'2' is neither true nor false"),
        ("date", "31.02.2021", "'31.02.2021' is not a date"),
        ("date", "yesterday", "'yesterday' is not a date"),
        ("date", "03/04/2021", "'03/04/2021' has its day and month in either order"),
    ],
)
def test_a_value_that_does_not_fit_its_kind_is_refused_with_line_and_column(kind: Kind, bad: str, message: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv, line 4, column 'x': " + message):
        build({"x": ["", "NA", bad]}, {"x": kind})


def test_given_kinds_win_over_what_would_be_inferred() -> None:
    texts: list[str | None] = ["01", "1", "0"]
    assert build({"x": texts}, {"x": "number"})[0]["x"].values.tolist() == [1, 1, 0]
    assert build({"x": texts}, {"x": "category"})[0]["x"].values.tolist() == ["01", "1", "0"]
    assert build({"x": ["1", "0", "off"]}, {"x": "boolean"})[0]["x"].values.tolist() == [1, 0, 0]
    assert build({"x": texts}, {"x": "identifier"})[0]["x"].kind == "identifier"


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["3%", "12.5%", "-4 %"], "%"),
        (["$1,200.50", "$3.10"], "$"),
        (["12 kg", "3kg"], "kg"),
        (["1.234,50 €", "2 €"], "€"),
        (["20 km/h", "30 km/h"], "km/h"),
    ],
)
def test_numbers_with_a_unit_are_announced(texts: list[str | None], unit: str) -> None:
    columns, notices = build({"x": texts * 3})
    assert columns["x"].kind == "category"
    assert len(notices) == 1
    assert f"every value is a number with '{unit}' beside it (such as '{texts[0]}')" in notices[0]


@pytest.mark.parametrize(
    "texts",
    [
        ["3%", "4$"],
        ["3%", "4"],
        ["3%", "x%"],
        ["3%"],
        ["a1", "a2"],
        ["1-2", "3-4"],
        ["12 31", "13 31"],
        ["1e", "."],
        ["%"],
    ],
)
def test_other_texts_have_no_unit(texts: list[str | None]) -> None:
    _, notices = build({"x": texts * 3})
    assert not any("beside it" in notice for notice in notices)


def test_an_ambiguous_separator_follows_the_other_columns() -> None:
    alone, notices = build({"x": ["1,234", "5,678"]})
    assert alone["x"].kind == "category"
    assert "'1,234' could have a decimal comma or a thousands separator" in notices[0]

    beside_points, _ = build({"x": ["1,234", "5,678"], "y": ["0.5", "2.25"]})
    assert beside_points["x"].values.tolist() == [1234, 5678]

    in_semicolons, notices = build({"x": ["1,234", "5,678"]}, comma_delimited=False)
    assert in_semicolons["x"].values.tolist() == [1.234, 5.678]
    assert notices == ["t.csv: decimal comma recognised in column 'x'"]

    points, _ = build({"x": ["1.234", "5.678"]}, comma_delimited=False)
    assert points["x"].values.tolist() == [1.234, 5.678]

    beside_commas, notices = build({"x": ["1.234", "5.678"], "y": ["0,5", "2,25"]}, comma_delimited=False)
    assert beside_commas["x"].values.tolist() == [1234, 5678]
    assert notices == ["t.csv: decimal comma recognised in column 'x', 'y'"]


def test_points_of_numbers_that_were_converted_elsewhere_are_evidence_too() -> None:
    places = Places("t.csv", "line", np.arange(2))
    raws = [
        RawColumn("x", "text", objects(["1,234", "5,678"])),
        RawColumn("y", "number", np.array([0.5, 2.25]), decimal_points=True),
    ]
    x, _ = build_columns(raws, {}, places, comma_delimited=False, notices=[])
    assert x.values.tolist() == [1234, 5678]


def test_dates_whose_order_stays_open_are_not_dates() -> None:
    columns, notices = build({"d": ["03/04/2021", "05/06/2021"]})
    assert columns["d"].kind == "category"
    assert "day and month could be swapped in every value (such as '03/04/2021')" in notices[0]


def typed(form: Any, values: list[float], kind: Kind | None = None, name: str = "x") -> Column:
    raw = RawColumn(name, form, np.array(values, dtype=np.float64))
    places = Places("the data frame", "row", np.arange(1, len(values) + 1))
    (column,) = build_columns([raw], {name: kind} if kind else {}, places, comma_delimited=True, notices=[])
    return column


def test_inferred_from_typed_values() -> None:
    nan = float("nan")
    assert typed("number", [1, nan, 3]).kind == "number"
    assert typed("boolean", [1, 0]).kind == "boolean"
    assert typed("date", [1, 0]).kind == "date"
    assert typed("number", [4, 5, 6], name="id").kind == "identifier"
    assert typed("number", [4, 5, 6], name="id").values.tolist() == ["4", "5", "6"]
    assert typed("number", [4, 5, 5], name="id").kind == "number"
    assert typed("date", [nan, nan]).kind == "number"


@pytest.mark.parametrize(
    ("form", "kind", "expected"),
    [
        ("number", "category", ["1", "2.5", None]),
        ("boolean", "number", [1, 0, None]),
        ("boolean", "category", ["True", "False", None]),
        ("date", "category", ["1970-01-02", "2001-09-09T01:46:40", None]),
        ("number", "boolean", [1, 0, None]),
    ],
)
def test_typed_values_as_another_kind(form: str, kind: Kind, expected: list[Any]) -> None:
    values = {"number": [1, 2.5], "boolean": [1, 0], "date": [86400, 1e9]}[form]
    column = typed(form, [*(expected if kind == "boolean" else values)[:2], float("nan")], kind)
    assert column.kind == kind
    assert column.missing.tolist() == [False, False, True]
    assert [None if lost else value for value, lost in zip(column.values.tolist(), column.missing)] == expected


def test_typed_values_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="the data frame, row 2, column 'x': inf is infinite"):
        typed("number", [1, float("inf")])
    with pytest.raises(DataError, match="row 2, column 'x': 2 is neither true nor false"):
        typed("number", [1, 2], "boolean")
    with pytest.raises(DataError, match="column 'x': holds dates where numbers are expected"):
        typed("date", [1, 2], "number")
