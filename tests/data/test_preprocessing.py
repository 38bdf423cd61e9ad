"""The features of every kind of column, against independent computations, and as part of a graph."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import chainrule as cr
from chainrule.core.errors import DataError
from chainrule.core.files import from_json, to_json
from chainrule.data import Preprocessing, Table, read_table
from chainrule.data.features import LIMIT
from chainrule.data.preprocessing_columns import MISSING, MOST_CATEGORIES, UNKNOWN, split_date
from chainrule.engines import reference


def learn(columns: dict[str, Any], train: int | None = None, **options: Any) -> tuple[Preprocessing, Table, list[str]]:
    table = read_table(columns, **options)
    notices: list[str] = []
    return Preprocessing.learn(table, np.arange(train or table.rows), notices), table, notices


def features(preprocessing: Preprocessing, table: Table) -> dict[str, NDArray[np.float32]]:
    computed = preprocessing.features(preprocessing.encode(table))
    assert computed.dtype == np.float32
    assert computed.shape == (table.rows, preprocessing.width)
    return {name: computed[:, place] for place, name in enumerate(preprocessing.feature_names)}


@pytest.fixture
def mixed() -> dict[str, Any]:
    """Every kind of column, with missing values, 120 rows."""
    generator = np.random.default_rng(5)
    age = generator.normal(50, 12, 120)
    age[[3, 40]] = np.nan
    city = generator.choice(["Oslo", "Rome", "Kyiv"], 120).astype(object)
    city[7] = None
    seen = np.datetime64("1999-11-03T08:00") + generator.integers(0, 10**8, 120).astype("timedelta64[s]")
    return {
        "age": age,
        "income, net": np.exp(generator.normal(8, 2, 120)),
        "a.b/c": generator.random(120) < 0.4,
        "city": city,
        "seen": seen,
    }


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_numbers_are_standardised_with_the_training_rows_alone() -> None:
    values = np.random.default_rng(0).normal(1e6, 3, 80)
    preprocessing, table, _ = learn({"x": values}, train=50)
    oracle = StandardScaler().fit(values[:50, None])
    assert np.allclose(features(preprocessing, table)["x"], oracle.transform(values[:, None])[:, 0], atol=1e-6)


def test_a_missing_number_becomes_the_median_and_is_indicated() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 10.0, np.nan])
    preprocessing, table, _ = learn({"x": values})
    found = features(preprocessing, table)
    filled = np.where(np.isnan(values), 3.0, values)
    assert np.allclose(found["x"], (filled - filled.mean()) / filled.std(), atol=1e-6)
    assert found["x is missing"].tolist() == [0, 0, 1, 0, 0, 1]


def test_a_number_missing_for_the_first_time_after_training_is_the_median() -> None:
    preprocessing, _, _ = learn({"x": [1.0, 2.0, 9.0]})
    assert preprocessing.feature_names == ("x",)
    new = read_table({"x": [np.nan, 2.0]})
    missing, median = features(preprocessing, new)["x"]
    assert missing == median


def test_a_column_that_is_constant_or_empty_in_the_training_rows_is_left_out_with_a_notice() -> None:
    preprocessing, _, notices = learn(
        {"x": [1.0, 2.0, 3.0, 4.0], "same": [7.0, 7.0, 7.0, 8.0], "late": [np.nan, np.nan, np.nan, 1.0]}, train=3
    )
    assert preprocessing.feature_names == ("x",)
    assert notices == [
        "column 'same' is left out: the same value in all training rows",
        "column 'late' is left out: no value in the training rows",
    ]


def test_a_constant_that_is_sometimes_missing_keeps_only_the_indicator() -> None:
    preprocessing, table, notices = learn({"x": [5.0, np.nan, 5.0, np.nan]})
    assert not notices
    found = features(preprocessing, table)
    assert list(found) == ["x is missing"]
    assert found["x is missing"].tolist() == [0, 1, 0, 1]
    # A value that was never seen cannot reach a weight that was never trained.
    assert preprocessing.features({"x": np.array([1e9])}).tolist() == [[0.0]]


def test_heavy_tails_become_signed_logarithms() -> None:
    generator = np.random.default_rng(1)
    heavy, normal = np.exp(generator.normal(0, 2.5, 400)), generator.normal(0, 1, 400)
    preprocessing, table, _ = learn({"heavy": heavy, "normal": normal})
    found = features(preprocessing, table)
    distance = heavy - np.median(heavy)
    logs = np.sign(distance) * np.log1p(np.abs(distance) / np.median(np.abs(distance[distance != 0])))
    assert np.allclose(found["heavy"], (logs - logs.mean()) / logs.std(), atol=1e-5)
    assert np.abs(found["heavy"]).max() < 5 < np.abs((heavy - heavy.mean()) / heavy.std()).max()
    assert np.allclose(found["normal"], (normal - normal.mean()) / normal.std(), atol=1e-6)
    treatments = {entry["name"]: entry["treatment"] for entry in preprocessing.describe(table, np.arange(400))}
    assert treatments == {"heavy": "signed logarithm, standardised", "normal": "standardised"}


@pytest.mark.parametrize("extreme", [1.7e308, -1.7e308, 1e300, 5e-324])
def test_no_finite_number_makes_an_infinite_feature(extreme: float) -> None:
    for values in ([1.0, 2.0, 4.0], [extreme, 0.0, -extreme, 1.0], [extreme, extreme / 2, 1.0]):
        preprocessing, _, _ = learn({"x": values, "y": [float(i) for i in range(len(values))]})
        found = preprocessing.features({"x": np.array([extreme, -extreme, 0.0]), "y": np.zeros(3)})
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= LIMIT


def test_booleans_are_plus_and_minus_one_and_the_mean_where_missing() -> None:
    preprocessing, table, _ = learn({"b": ["yes", "no", "", "yes", "yes"]})
    found = features(preprocessing, table)
    assert np.allclose(found["b"], [1, -1, 0.5, 1, 1])
    assert found["b is missing"].tolist() == [0, 0, 1, 0, 0]


# --- categories -------------------------------------------------------------------------------------------------------


def test_categories_have_a_feature_each_as_scikit_learn_encodes_them() -> None:
    values = np.random.default_rng(3).choice(["u", "v", "w"], 90)
    preprocessing, table, _ = learn({"c": values})
    oracle = OneHotEncoder(sparse_output=False).fit(values[:, None])
    expected = dict(
        zip([f"c = {name}" for name in oracle.categories_[0]], oracle.transform(values[:, None]).T, strict=True)
    )
    found = features(preprocessing, table)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert np.array_equal(found[name], column)


def test_rare_categories_share_a_feature_which_unknown_ones_get_too() -> None:
    values = ["a"] * 50 + ["b"] * 38 + ["rare"] * 2 + ["rarer"]
    preprocessing, table, _ = learn({"c": values})
    assert preprocessing.feature_names == ("c = a", "c = b", "c is another")
    found = features(preprocessing, table)
    assert found["c is another"].tolist() == [0] * 88 + [1] * 3
    notices: list[str] = []
    encoded = preprocessing.encode(read_table({"c": ["a", "rare", "new", "new"]}), notices)
    assert encoded["c"].tolist() == [0, UNKNOWN, UNKNOWN, UNKNOWN]
    assert preprocessing.features(encoded).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert notices == [
        "column 'c': 2 rows have categories that the training rows did not have ('new'), treated as one of the rare "
        "categories"
    ]


def test_without_rare_categories_unknown_and_missing_ones_are_the_mean_of_the_features() -> None:
    values = ["a"] * 30 + ["b"] * 60
    preprocessing, table, _ = learn({"c": values})
    encoded = preprocessing.encode(read_table({"c": ["new", "", "b"]}))
    assert encoded["c"].tolist() == [UNKNOWN, MISSING, 0]
    mean = preprocessing.features(preprocessing.encode(table)).mean(axis=0)
    assert np.allclose(preprocessing.features(encoded), [mean, mean, [1, 0]])


def test_a_missing_category_has_a_feature_of_its_own() -> None:
    values: list[str | None] = ["a", None, "b", "a", "b", None, "a", "b", "a"]
    preprocessing, table, _ = learn({"c": values})
    found = features(preprocessing, table)
    assert list(found) == ["c = a", "c = b", "c is missing"]
    assert found["c is missing"].tolist() == [value is None for value in values]
    unknown = preprocessing.features({"c": np.array([UNKNOWN, 99, -77])})
    assert np.allclose(unknown, np.tile([4 / 9, 3 / 9, 2 / 9], (3, 1)))


def test_of_very_many_categories_the_most_frequent_are_kept() -> None:
    values = [f"c{number:03}" for number in range(200) for _ in range(3 + number // 10)]
    preprocessing, table, _ = learn({"c": values})
    assert preprocessing.width == MOST_CATEGORIES + 1
    assert preprocessing.feature_names[:2] == ("c = c190", "c = c191")
    assert features(preprocessing, table)["c is another"].sum() == sum(3 + n // 10 for n in range(150))


def test_the_order_of_the_rows_does_not_matter() -> None:
    values = np.array(["b", "a", "c", "b", "a", "a", "c", "c"])
    one, two = learn({"c": values})[0], learn({"c": values[::-1]})[0]
    assert one == two


def test_an_identifier_and_categories_that_are_all_rare_are_left_out() -> None:
    preprocessing, _, notices = learn(
        {
            "name": [f"person {n}" for n in range(120)],
            "pair": [f"p{n // 2}" for n in range(120)],
            "x": np.arange(120.0) ** 2,
        }
    )
    assert preprocessing.feature_names == ("x",)
    assert notices == [
        "column 'pair' is left out: no value is in 3 or more of the training rows",
    ]


# --- dates ------------------------------------------------------------------------------------------------------------


@given(st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)))
def test_dates_are_split_as_the_calendar_says(moment: datetime.datetime) -> None:
    moment = moment.replace(microsecond=0)
    seconds = int((moment - datetime.datetime(1970, 1, 1)).total_seconds())
    parts = split_date(np.array([seconds], dtype=np.int64))
    march = datetime.date(moment.year - (moment.month < 3), 3, 1)
    assert {name: int(part[0]) for name, part in parts.items()} == {
        "year": moment.year,
        "time of year": (moment.date() - march).days,
        "weekday": moment.weekday(),
        "time of day": moment.hour * 3600 + moment.minute * 60 + moment.second,
    }


def test_a_date_gives_its_parts() -> None:
    stamps = pd.date_range("2019-12-30T06:00", periods=400, freq="31h")
    preprocessing, table, _ = learn({"d": stamps.to_numpy()})
    found = features(preprocessing, table)
    assert list(found) == [
        "d: elapsed",
        "d: year",
        *(f"d: {part} {form}" for part in ("time of year", "weekday", "time of day") for form in ("sine", "cosine")),
    ]
    elapsed = np.arange(400.0)
    assert np.allclose(found["d: elapsed"], (elapsed - elapsed.mean()) / elapsed.std(), atol=1e-5)
    years = stamps.year.to_numpy()
    assert np.allclose(found["d: year"], (years - years.mean()) / years.std(), atol=1e-5)
    angle = 2 * np.pi * stamps.day_of_week.to_numpy() / 7
    assert np.allclose(found["d: weekday sine"], np.sin(angle), atol=1e-6)
    assert np.allclose(found["d: weekday cosine"], np.cos(angle), atol=1e-6)
    angle = 2 * np.pi * stamps.hour.to_numpy() / 24
    assert np.allclose(found["d: time of day sine"], np.sin(angle), atol=1e-6)
    # The phase of the year is continuous over New Year and closes within a day and a half.
    phase = np.stack([found["d: time of year sine"], found["d: time of year cosine"]], axis=1)
    steps = np.linalg.norm(np.diff(phase, axis=0), axis=1)
    assert steps.max() < 2 * np.pi * 2 / 365


def test_parts_that_do_not_vary_are_left_out_and_missing_dates_are_zero() -> None:
    days: list[str | None] = ["2024-03-01", "2024-03-08", None, "2024-03-15"]
    preprocessing, table, _ = learn({"d": days})
    found = features(preprocessing, table)
    assert list(found) == ["d: elapsed", "d: time of year sine", "d: time of year cosine", "d is missing"]
    assert [column[2] for column in found.values()] == [0, 0, 0, 1]


def test_of_the_column_that_rows_are_split_by_only_phases_are_used() -> None:
    table = read_table({"d": pd.date_range("2019-01-01", periods=900, freq="D").to_numpy()})
    preprocessing = Preprocessing.learn(table, np.arange(900), only_phases=["d"])
    assert {name.split(": ")[1].rsplit(" ", 1)[0] for name in preprocessing.feature_names} == {
        "time of year",
        "weekday",
    }


# --- the whole --------------------------------------------------------------------------------------------------------


def test_traced_features_have_the_same_bits_for_any_batch_size(mixed: dict[str, Any]) -> None:
    preprocessing, table, _ = learn(mixed, train=90)
    encoded = preprocessing.encode(table)
    graph = cr.parse_graph(cr.print_graph(cr.trace(preprocessing.features, encoded, batch=("inputs",))))
    program = reference.ENGINE.load(graph)
    expected = preprocessing.features(encoded)
    for rows in (slice(0, 1), slice(0, 120), slice(5, 5), slice(90, 120)):
        (found,) = program([values[rows] for values in encoded.values()])
        assert np.array_equal(found, expected[rows])
    assert [value.name for value in graph.inputs] == [f"inputs.{name}" for name in mixed]
    assert {node.origin.path for node in graph.nodes} == {
        "preprocessing",
        "preprocessing.numbers",
        "preprocessing.city",
        "preprocessing.seen",
    }


def test_json_gives_the_same_preprocessing_back(mixed: dict[str, Any]) -> None:
    preprocessing, table, _ = learn(mixed)
    again = Preprocessing.from_json(from_json(to_json(preprocessing.to_json())))
    assert again == preprocessing
    assert np.array_equal(again.features(again.encode(table)), preprocessing.features(preprocessing.encode(table)))


def test_learning_looks_at_no_other_rows(mixed: dict[str, Any]) -> None:
    table = read_table(mixed)
    rows = np.arange(60)
    assert Preprocessing.learn(table, rows) == Preprocessing.learn(table.select(slice(0, 60)), rows)


def test_a_table_without_a_usable_column_is_refused() -> None:
    with pytest.raises(DataError, match=r"the dict has no column to learn from \('x': the same value"):
        learn({"x": [1.0, 1.0], "y": [2.0, 2.0]})


def test_a_column_of_another_kind_or_none_is_refused(mixed: dict[str, Any]) -> None:
    preprocessing, _, _ = learn(mixed)
    changed = {**mixed, "age": ["old"] * 119 + ["young"]}
    with pytest.raises(DataError, match=r"column 'age': holds values of kind category, but .* with number"):
        preprocessing.encode(read_table(changed))
    del changed["age"]
    with pytest.raises(DataError, match="has no column 'age'"):
        preprocessing.encode(read_table(changed))


def _without(content: dict[str, Any], place: int, field: str) -> None:
    del content["columns"][place][field]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.update(format="pickle"), "this is no preprocessing"),
        (lambda c: c.update(version=99), "has version 99"),
        (lambda c: c.update(columns="age"), "lists no columns"),
        (lambda c: c["columns"].append(c["columns"][0]), "names a column twice"),
        (lambda c: c["columns"][0].update(treatment="eval"), "without a treatment"),
        (lambda c: c["columns"][0].update(code="import os"), "lacks a field or has one too many"),
        (lambda c: _without(c, 0, "scale"), "lacks a field"),
        (lambda c: c["columns"][0].update(scale="1"), "column 'age' has a scale that makes no sense"),
        (lambda c: c["columns"][0].update(fill=float("nan")), "has a fill that makes no sense"),
        (lambda c: c["columns"][3].update(counts=[1, -2, 3]), "column 'city' has a counts that makes no sense"),
        (lambda c: c["columns"][3].update(categories=["Oslo"]), "column 'city' contradicts itself"),
        (lambda c: c["columns"][4].update(parts=["minutes"]), "column 'seen' contradicts itself"),
        (lambda c: c["columns"][0].update(scale=0.0), "column 'age' contradicts itself"),
        (lambda c: c["columns"][0].update(kind="date"), "column 'age' contradicts itself"),
    ],
)
def test_damaged_json_is_refused(mixed: dict[str, Any], damage: Any, message: str) -> None:
    content = from_json(to_json(learn(mixed)[0].to_json()))
    damage(content)
    with pytest.raises(DataError, match=message):
        Preprocessing.from_json(content)
