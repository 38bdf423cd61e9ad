"""Permutation importance: exact where it can be known, and like scikit-learn's elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.inspection import permutation_importance as their_importance
from sklearn.linear_model import LinearRegression

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.metrics import permutation_importance, r2

Columns = dict[str, NDArray[Any]]


def test_an_ignored_column_has_no_importance_and_a_used_one_does() -> None:
    generator = np.random.default_rng(0)
    columns: Columns = {
        "used": generator.normal(size=200),
        "ignored": np.array(["x", "y"] * 100, dtype=object),
    }
    target = 3.0 * columns["used"]
    used, ignored = permutation_importance(
        lambda table: 3.0 * table["used"], columns, lambda predicted: r2(target, predicted), repeats=4, seed=1
    )
    assert (used.column, ignored.column) == ("used", "ignored")
    assert used.mean > 1.0
    assert used.std > 0.0
    assert (ignored.mean, ignored.std, ignored.drops) == (0.0, 0.0, (0.0,) * 4)


def test_agrees_with_scikit_learn_within_the_spread_of_shuffles() -> None:
    generator = np.random.default_rng(3)
    table = generator.normal(size=(400, 3))
    target = table @ np.array([2.0, 0.5, 0.0]) + 0.1 * generator.normal(size=400)
    model = LinearRegression().fit(table, target)
    theirs = their_importance(model, table, target, n_repeats=30, random_state=0)
    mine = permutation_importance(
        lambda columns: model.predict(np.column_stack([columns[name] for name in "abc"])),
        dict(zip("abc", table.T, strict=True)),
        lambda predicted: r2(target, predicted),
        repeats=30,
        seed=5,
    )
    for place, entry in enumerate(mine):
        spread = np.hypot(entry.std, theirs.importances_std[place]) / np.sqrt(30)
        assert abs(entry.mean - theirs.importances_mean[place]) < 5 * spread + 1e-6
    assert mine[0].mean > mine[1].mean > mine[2].mean


def test_shuffles_come_from_the_seed_and_not_from_other_columns() -> None:
    columns: Columns = {"a": np.arange(50.0), "b": np.arange(50.0) ** 2}

    def shuffles(table: Columns, seed: int) -> list[list[float]]:
        seen: list[list[float]] = []

        def predict(changed: Columns) -> NDArray[Any]:
            seen.append(changed["a"].tolist())
            return changed["a"]

        permutation_importance(predict, table, lambda predicted: 0.0, repeats=2, seed=seed)
        return seen[1:3]

    assert shuffles(columns, 7) == shuffles({"a": columns["a"]}, 7)
    assert shuffles(columns, 7) != shuffles(columns, 8)
    first, second = shuffles(columns, 7)
    assert first != second
    assert sorted(first) == columns["a"].tolist()


def test_the_given_columns_stay_as_they_are() -> None:
    columns: Columns = {"a": np.arange(20.0), "image": np.arange(40.0).reshape(20, 2)}
    before = {name: values.copy() for name, values in columns.items()}

    def predict(table: Columns) -> NDArray[Any]:
        assert table["image"].shape == (20, 2)
        assert np.all(table["image"][:, 1] - table["image"][:, 0] == 1.0)  # rows are moved whole
        return table["a"]

    permutation_importance(predict, columns, lambda predicted: float(predicted.mean()), repeats=1)
    for name, values in columns.items():
        np.testing.assert_array_equal(values, before[name])


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="repeats=0"):
        permutation_importance(lambda table: 0, {"a": np.zeros(2)}, float, repeats=0)
    with pytest.raises(ShapeError, match="'b' has 3 rows but the columns before it have 2"):
        permutation_importance(lambda table: 0, {"a": np.zeros(2), "b": np.zeros(3)}, float)
    with pytest.raises(ShapeError, match="'a' is a single value"):
        permutation_importance(lambda table: 0, {"a": np.array(1.0)}, float)
    assert permutation_importance(lambda table: 0, {}, float) == []
