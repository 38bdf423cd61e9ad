"""Regression metrics and baselines against scikit-learn, and in the cases it leaves undefined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier, DummyRegressor

from chainrule import metrics
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.metrics.regression import weighted_median

close: dict[str, Any] = {"rel": 1e-9, "abs": 1e-9}
numbers = st.floats(-1e4, 1e4, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def paired(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rows, outputs = draw(st.integers(2, 30)), draw(st.sampled_from([0, 1, 3]))
    row = numbers if outputs == 0 else st.lists(numbers, min_size=outputs, max_size=outputs)
    true, pred = (np.array(draw(st.lists(row, min_size=rows, max_size=rows))) for _ in range(2))
    weights = draw(st.none() | st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=rows, max_size=rows))
    return true, pred, None if weights is None else np.array(weights)


@settings(deadline=None, max_examples=60)
@given(paired())
def test_regression_metrics_equal_scikit_learn(case: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    true, pred, weight = case
    summary = metrics.regression_summary(true, pred, sample_weight=weight)
    assert summary["mean_absolute_error"] == pytest.approx(
        oracle.mean_absolute_error(true, pred, sample_weight=weight), **close
    )
    assert summary["root_mean_squared_error"] == pytest.approx(
        oracle.root_mean_squared_error(true, pred, sample_weight=weight), **close
    )
    assert summary["median_absolute_error"] == pytest.approx(
        oracle.median_absolute_error(true, pred, sample_weight=weight), **close
    )
    if np.all(np.ptp(true, axis=0) > 1e-3):
        expected = oracle.r2_score(true, pred, sample_weight=weight, force_finite=False)
        assert summary["r2"] == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("power", [-1000, -500, -3, 500, 1000])
def test_numbers_of_any_size_have_the_scores_of_others(power: int) -> None:
    rng = np.random.default_rng(0)
    true, pred = rng.normal(size=(2, 50, 2))
    usual = metrics.regression_summary(true, pred)
    unit = 2.0**power
    scaled = metrics.regression_summary(unit * true, unit * pred)
    for name, score in usual.items():
        assert scaled[name] == (score if name == "r2" else unit * score)
    # Each output has a unit of its own.
    apart = metrics.regression_summary(true * [1, 2.0**-900], pred * [1, 2.0**-900])
    assert apart["root_mean_squared_error"] == pytest.approx(
        metrics.root_mean_squared_error(true[:, 0], pred[:, 0]) / 2, rel=1e-14
    )
    assert apart["r2"] == usual["r2"]


def test_a_constant_target_has_no_r2_whatever_the_rounding() -> None:
    constant = np.full(7, 0.1)
    assert math.isnan(metrics.r2(constant, constant + 1.0))
    assert math.isnan(metrics.r2([1.0, 2.0], [1.0, 2.0], sample_weight=[1.0, 0.0]))


def test_no_rows_or_no_weight_give_nan() -> None:
    for summary in (
        metrics.regression_summary([], []),
        metrics.regression_summary(np.zeros((0, 2)), np.zeros((0, 2))),
        metrics.regression_summary([1.0, 2.0], [1.0, 3.0], sample_weight=[0, 0]),
    ):
        assert all(math.isnan(value) for value in summary.values())


@pytest.mark.parametrize("wild", [np.inf, np.nan, 1e300])
def test_diverged_predictions_give_no_warning(wild: float) -> None:
    summary = metrics.regression_summary([1.0, 2.0, 3.0], [1.0, wild, -wild])
    assert not any(value == 0.0 for value in summary.values())
    if math.isfinite(wild):
        assert summary["root_mean_squared_error"] == pytest.approx(wild * math.sqrt(2 / 3))
    else:
        assert not math.isfinite(summary["root_mean_squared_error"])
    assert summary["r2"] == -math.inf or math.isnan(summary["r2"])


def test_weighted_median_by_hand() -> None:
    values = np.array([3.0, 1.0, 2.0])
    assert weighted_median(values, np.array([1.0, 1.0, 1.0])) == 2.0
    assert weighted_median(values, np.array([3.0, 1.0, 1.0])) == 3.0
    assert weighted_median(values, np.array([1.0, 2.0, 1.0])) == 1.5
    assert weighted_median(np.arange(10.0), np.full(10, 0.1)) == 4.5  # ten tenths do not sum to one exactly


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_frequency_baseline_is_the_prior(labels: list[int]) -> None:
    codes = np.array(labels)
    baseline = metrics.FrequencyBaseline.fit(codes, 4)
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((codes.size, 1)), codes)
    assert baseline.predict(3).tolist() == dummy.predict(np.zeros((3, 1))).tolist()
    np.testing.assert_allclose(baseline.probabilities(3)[:, dummy.classes_], dummy.predict_proba(np.zeros((3, 1))))
    assert baseline.probabilities(3).shape == (3, 4)


@settings(deadline=None, max_examples=60)
@given(st.lists(numbers, min_size=1, max_size=40), st.sampled_from(["mean", "median"]))
def test_constant_baseline_is_the_mean_or_median(values: list[float], statistic: str) -> None:
    baseline = metrics.ConstantBaseline.fit(values, statistic)  # type: ignore[arg-type]
    dummy = DummyRegressor(strategy=statistic).fit(np.zeros((len(values), 1)), values)
    np.testing.assert_allclose(baseline.predict(2), dummy.predict(np.zeros((2, 1))), rtol=1e-12, atol=1e-9)


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 1\) but y_pred has shape \(3, 1\)"):
        metrics.r2([1, 2], [1, 2, 3])
    with pytest.raises(DTypeError, match="real numbers"):
        metrics.r2(["a"], [1])
    with pytest.raises(DataError, match="no most frequent class"):
        metrics.FrequencyBaseline.fit([], 2)
    with pytest.raises(DataError, match="no median"):
        metrics.ConstantBaseline.fit([], "median")
    with pytest.raises(ConfigError, match="'mode'"):
        metrics.ConstantBaseline.fit([1.0], "mode")  # type: ignore[arg-type]


def test_every_reported_metric_has_a_title() -> None:
    reported = (
        metrics.classification_summary([0, 1], [0.1, 0.9])
        | metrics.classification_summary([0, 1, 2], np.eye(3))
        | metrics.regression_summary([0.0, 1.0], [0.0, 1.0])
    )
    assert set(reported) == set(metrics.METRICS)
