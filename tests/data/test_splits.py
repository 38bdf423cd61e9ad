"""Splits into training, validation and test, and folds: complete, disjoint, proportional and reproducible."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.core.errors import ConfigError, DataError
from chainrule.data import Split, Table, k_folds, quantile_strata, read_table, split_rows


def table_of(rows: int, classes: str = "ab", **columns: Any) -> Table:
    generator = np.random.default_rng(0)
    return read_table({"y": generator.choice(list(classes), rows), "x": generator.normal(size=rows), **columns})


def split(table: Table, target: str = "y", **options: Any) -> Split:
    rows = np.flatnonzero(~table.column(target).missing)
    parts = split_rows(table, target, rows, classification=table.column(target).kind == "category", **options)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(together.tolist()) == rows.tolist(), "every row is in exactly one part"
    for part in (parts.train, parts.validation, parts.test):
        assert part.tolist() == sorted(part.tolist())
    return parts


def counts(table: Table, rows: Any, column: str = "y") -> Counter[Any]:
    return Counter(table.column(column).values[rows].tolist())


# --- at random --------------------------------------------------------------------------------------------------------


def test_the_default_shares_are_kept_in_every_class() -> None:
    table = read_table({"y": ["a"] * 120 + ["b"] * 60 + ["c"] * 20, "x": np.arange(200.0)})
    parts = split(table)
    assert parts.sizes() == {"train": 140, "validation": 30, "test": 30}
    assert counts(table, parts.test) == {"a": 18, "b": 9, "c": 3}
    assert counts(table, parts.validation) == {"a": 18, "b": 9, "c": 3}


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.1, 0.15, 0.3, 0.45]),
    st.sampled_from([0.0, 0.1, 0.2, 0.5]),
    st.integers(0, 2**64 - 1),
)
def test_every_class_is_split_in_proportion_and_stays_in_training(
    sizes: list[int], validation: float, test: float, seed: int
) -> None:
    labels = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
    table = read_table({"y": [*labels, "z", "z"], "x": np.arange(len(labels) + 2.0)}, types={"y": "category"})
    parts = split(table, validation_share=validation, test_share=test, seed=seed)
    for number, size in enumerate(sizes):
        held = [counts(table, rows)[f"c{number}"] for rows in (parts.train, parts.validation, parts.test)]
        assert held[0] >= 1
        if size <= 2:
            assert held == [size, 0, 0]
        else:
            assert held[1] <= size * validation + 1
            assert held[2] <= size * test + 1


def test_a_split_is_a_function_of_the_seed() -> None:
    table = table_of(100)
    one, again, other = split(table, seed=7), split(table, seed=7), split(table, seed=8)
    assert np.array_equal(one.test, again.test)
    assert np.array_equal(one.validation, again.validation)
    assert not np.array_equal(one.test, other.test)
    # These numbers must never change: runs are resumed and compared by them.
    assert split(table_of(20), seed=3).test.tolist() == [8, 12, 19]


def test_a_regression_is_split_across_the_range_of_the_target() -> None:
    values = np.random.default_rng(1).lognormal(0, 2, 400)
    table = read_table({"y": values, "x": np.arange(400.0)})
    parts = split(table)
    assert parts.sizes() == {"train": 280, "validation": 60, "test": 60}
    tenth = quantile_strata(values)
    assert np.bincount(tenth[parts.test]).tolist() == [6] * 10


def test_rare_classes_stay_in_training_with_a_notice() -> None:
    table = read_table({"y": ["a"] * 40 + ["b"] * 40 + ["rare"] * 2, "x": np.arange(82.0)})
    notices: list[str] = []
    parts = split(table, notices=notices)
    assert counts(table, parts.train)["rare"] == 2
    assert notices == ["no test row has the class 'rare' of 'y', so the scores say nothing about it"]


def test_of_very_few_rows_none_is_held_out_with_a_notice() -> None:
    notices: list[str] = []
    parts = split(table_of(9), notices=notices)
    assert parts.sizes() == {"train": 9, "validation": 0, "test": 0}
    assert len(notices) == 1
    assert "only 9 rows" in notices[0]
    assert split(table_of(10)).sizes() == {"train": 6, "validation": 2, "test": 2}
    assert split(table_of(9), test_share=0.3).sizes()["test"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": 1.0}, "the test share must be at least 0 and less than 1"),
        ({"validation_share": -0.1}, "the validation share must be"),
        ({"test_share": float("nan")}, "the test share must be"),
        ({"test_share": 0.6, "validation_share": 0.4}, "leave no rows for training"),
        ({"group": "x", "time": "x"}, "by a group column or by a time column"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split(table_of(50), **options)


# --- by group ---------------------------------------------------------------------------------------------------------


@given(st.integers(3, 30), st.integers(20, 150), st.integers(0, 99))
def test_no_group_is_in_two_parts_and_no_part_is_empty(groups: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = [f"g{number}" for number in np.concatenate([np.arange(groups), generator.integers(0, groups, rows)])]
    table = table_of(len(labels), g=labels)
    parts = split(table, group="g", seed=seed)
    seen = [set(counts(table, rows, "g")) for rows in (parts.train, parts.validation, parts.test)]
    assert all(seen)
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_many_groups_come_near_the_shares() -> None:
    table = table_of(600, g=np.repeat(np.arange(60), 10).astype(float))
    assert split(table, group="g").sizes() == {"train": 420, "validation": 90, "test": 90}


def test_groups_that_are_missing_or_too_few_are_refused() -> None:
    with pytest.raises(DataError, match=r"the dict, row 3, column 'g': the group is missing"):
        split(table_of(20, g=["a", "b", None, *["c"] * 17]), group="g")
    with pytest.raises(DataError, match=r"column 'g': 2 groups are too few to split into 3 parts"):
        split(table_of(20, g=["a", "b"] * 10), group="g")
    assert split(table_of(20, g=["a", "b"] * 10), group="g", validation_share=0.0).sizes()["validation"] == 0


# --- by time ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 25), min_size=12, max_size=120), st.integers(0, 3))
def test_held_out_rows_are_later_and_equal_times_stay_together(times: list[int], seed: int) -> None:
    table = table_of(len(times) + 3, t=np.array([*times, 30, 31, 32], dtype=float))
    parts = split(table, time="t", seed=seed)
    values = table.column("t").values
    assert values[parts.train].max() < values[parts.validation].min()
    assert values[parts.validation].max() < values[parts.test].min()


def test_dates_without_ties_are_split_exactly() -> None:
    days = np.datetime64("2020-01-01") + np.random.default_rng(2).permutation(100).astype("timedelta64[D]")
    table = table_of(100, t=days)
    parts = split(table, time="t")
    assert parts.sizes() == {"train": 70, "validation": 15, "test": 15}
    assert sorted(table.column("t").values[parts.test]) == sorted(table.column("t").values)[-15:]


def test_times_that_are_missing_too_few_or_no_times_are_refused() -> None:
    with pytest.raises(DataError, match=r"row 1, column 't': the time is missing"):
        split(table_of(20, t=[None, *range(19)]), time="t")
    with pytest.raises(DataError, match=r"column 't': 2 different times are too few"):
        split(table_of(20, t=[1.0, 2.0] * 10), time="t")
    with pytest.raises(DataError, match=r"column 't': is a category; rows are split by a column of dates or numbers"):
        split(table_of(20, t=["u", "v"] * 10), time="t")


def test_classes_that_training_never_sees_are_noticed() -> None:
    table = read_table({"y": ["a", "b"] * 40 + ["late"] * 10, "t": np.arange(90.0)})
    notices: list[str] = []
    split(table, time="t", notices=notices)
    assert notices[0] == "no training row has the class 'late' of 'y', so it cannot be learned"


# --- folds ------------------------------------------------------------------------------------------------------------


def test_folds_hold_every_row_out_once_with_all_classes() -> None:
    labels = np.array(["a"] * 52 + ["b"] * 33 + ["c"] * 7)
    folds = list(k_folds(labels, 5, seed=1))
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(92))
    for train, held in folds:
        assert sorted([*train, *held]) == list(range(92))
        assert len(held) in (18, 19)
        assert 10 <= (labels[held] == "a").sum() <= 11
        assert 1 <= (labels[held] == "c").sum() <= 2
    assert not np.array_equal(folds[0][1], next(k_folds(labels, 5, seed=2))[1])


@pytest.mark.parametrize("folds", [1, 11])
def test_impossible_folds_are_refused(folds: int) -> None:
    with pytest.raises(ConfigError, match=f"10 rows cannot be split into {folds} folds"):
        next(k_folds(np.zeros(10), folds))
