"""Label and probability metrics against scikit-learn, and in the cases it leaves undefined."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from chainrule import metrics
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError

close: dict[str, Any] = {"rel": 1e-10, "abs": 1e-12}


def quiet(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@st.composite
def labelled(draw: st.DrawFn, most_classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rows = draw(st.integers(1, 40))
    classes = draw(st.integers(2, most_classes))
    codes = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    weights = draw(st.none() | st.lists(st.sampled_from([0.25, 1.0, 2.0, 3.5]), min_size=rows, max_size=rows))
    return np.array(draw(codes)), np.array(draw(codes)), None if weights is None else np.array(weights)


@st.composite
def scored(draw: st.DrawFn, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Class numbers in which every class occurs, and probabilities on a coarse grid, so that ties are common."""
    rows = draw(st.integers(classes, 30))
    codes = [*range(classes), *draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))]
    parts = st.lists(st.integers(1, 4), min_size=classes, max_size=classes)
    table = np.array(draw(st.lists(parts, min_size=len(codes), max_size=len(codes))), dtype=float)
    weights = draw(st.none() | st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=len(codes), max_size=len(codes)))
    return np.array(codes), table / table.sum(axis=1, keepdims=True), None if weights is None else np.array(weights)


@settings(deadline=None, max_examples=60)
@given(labelled())
def test_label_metrics_equal_scikit_learn(case: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    true, pred, weight = case
    assert metrics.accuracy(true, pred, sample_weight=weight) == pytest.approx(
        oracle.accuracy_score(true, pred, sample_weight=weight), **close
    )
    assert metrics.balanced_accuracy(true, pred, sample_weight=weight) == pytest.approx(
        quiet(oracle.balanced_accuracy_score, true, pred, sample_weight=weight), **close
    )
    np.testing.assert_allclose(
        metrics.confusion_matrix(true, pred, sample_weight=weight),
        quiet(oracle.confusion_matrix, true, pred, sample_weight=weight),
    )
    for average in ("macro", "weighted"):
        theirs = oracle.precision_recall_fscore_support(
            true, pred, average=average, sample_weight=weight, zero_division=0.0
        )
        for mine, their in zip((metrics.precision, metrics.recall, metrics.f1), theirs, strict=False):
            assert mine(true, pred, average=average, sample_weight=weight) == pytest.approx(their, **close)


@settings(deadline=None, max_examples=60)
@given(labelled(most_classes=2))
def test_binary_scores_equal_scikit_learn(case: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    true, pred, weight = case
    for positive in (0, 1):
        for mine, theirs in (
            (metrics.precision, oracle.precision_score),
            (metrics.recall, oracle.recall_score),
            (metrics.f1, oracle.f1_score),
        ):
            value = mine(true, pred, positive=positive, sample_weight=weight)
            if positive not in true and positive not in pred:
                assert math.isnan(value)
            else:
                expected = theirs(true, pred, labels=[positive], average="macro", sample_weight=weight, zero_division=0)
                assert value == pytest.approx(expected, **close)


@settings(deadline=None, max_examples=60)
@given(labelled())
def test_text_labels_score_like_their_numbers(case: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    true, pred, weight = case
    names = np.array(["ash", "beech", "cedar", "Δrus"])
    for score in (metrics.accuracy, metrics.balanced_accuracy):
        assert score(names[true], names[pred].astype(object)) == score(true, pred)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(names[true], names[pred], classes=names.tolist(), sample_weight=weight),
        metrics.confusion_matrix(true, pred, classes=range(4), sample_weight=weight),
    )


@settings(deadline=None, max_examples=60)
@given(scored(2))
def test_binary_probability_metrics_equal_scikit_learn(case: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    true, table, weight = case
    chance = table[:, 1]
    for given_as in (table, chance, chance[:, np.newaxis]):
        assert metrics.roc_auc(true, given_as, sample_weight=weight) == pytest.approx(
            oracle.roc_auc_score(true, chance, sample_weight=weight), **close
        )
        assert metrics.log_loss(true, given_as, sample_weight=weight) == pytest.approx(
            oracle.log_loss(true, chance, sample_weight=weight), **close
        )
        assert metrics.brier_score(true, given_as, sample_weight=weight) == pytest.approx(
            oracle.brier_score_loss(true, chance, sample_weight=weight), **close
        )


@settings(deadline=None, max_examples=60)
@given(scored(4))
def test_multiclass_probability_metrics_equal_scikit_learn(
    case: tuple[np.ndarray, np.ndarray, np.ndarray | None],
) -> None:
    true, table, weight = case
    assert metrics.roc_auc(true, table, sample_weight=weight) == pytest.approx(
        oracle.roc_auc_score(true, table, multi_class="ovr", average="macro", sample_weight=weight), **close
    )
    assert metrics.log_loss(true, table, sample_weight=weight) == pytest.approx(
        oracle.log_loss(true, table, sample_weight=weight), **close
    )
    assert metrics.brier_score(true, table, sample_weight=weight) == pytest.approx(
        oracle.brier_score_loss(true, table, sample_weight=weight), **close
    )


@settings(deadline=None, max_examples=60)
@given(scored(2), st.integers(1, 12))
def test_reliability_curve_equals_scikit_learn(
    case: tuple[np.ndarray, np.ndarray, np.ndarray | None], bins: int
) -> None:
    true, table, _ = case
    curve = metrics.reliability_curve(true, table, bins=bins)
    observed, predicted = calibration_curve(true, table[:, 1], n_bins=bins)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.count.sum() == true.size
    assert np.all((curve.lower <= curve.predicted + 1e-12) & (curve.predicted <= curve.upper + 1e-12))


@settings(deadline=None, max_examples=60)
@given(scored(2), st.integers(1, 12))
def test_quantile_bins_hold_equal_counts_and_never_part_equal_probabilities(
    case: tuple[np.ndarray, np.ndarray, np.ndarray | None], bins: int
) -> None:
    true, table, _ = case
    curve = metrics.reliability_curve(true, table, bins=bins, strategy="quantile")
    assert curve.count.sum() == true.size
    assert np.all(curve.upper[:-1] < curve.upper[1:])
    assert np.all((curve.lower <= curve.predicted + 1e-12) & (curve.predicted <= curve.upper + 1e-12))
    distinct = np.linspace(0.1, 0.9, true.size)
    even = metrics.reliability_curve(true, distinct, bins=bins, strategy="quantile").count
    assert even.size == min(bins, true.size)
    assert even.max() - even.min() <= 1


@settings(deadline=None, max_examples=60)
@given(scored(3))
def test_whole_weights_equal_repeated_rows(case: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    true, table, _ = case
    times = 1 + np.arange(true.size) % 3
    repeated_true, repeated_table = np.repeat(true, times), np.repeat(table, times, axis=0)
    weighted = metrics.classification_summary(true, table, sample_weight=times)
    repeated = metrics.classification_summary(repeated_true, repeated_table)
    assert weighted == pytest.approx(repeated, **close)


def test_expected_calibration_error_by_hand() -> None:
    # Two bins: 0.2, 0.4 with one event of two; 0.8, 0.9, 1.0 with three of three.
    chance = [0.2, 0.4, 0.8, 0.9, 1.0]
    error = metrics.expected_calibration_error([0, 1, 1, 1, 1], chance, bins=2)
    assert error == pytest.approx((2 * abs(0.5 - 0.3) + 3 * abs(1.0 - 0.9)) / 5)
    weighted = metrics.expected_calibration_error([0, 1, 1, 1, 1], chance, bins=2, sample_weight=[3, 1, 1, 1, 1])
    assert weighted == pytest.approx((4 * abs(0.25 - 0.25) + 3 * abs(1.0 - 0.9)) / 7)


def test_multiclass_calibration_is_of_the_predicted_class() -> None:
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
    curve = metrics.reliability_curve([0, 2, 2], table, bins=10)
    assert curve.predicted.tolist() == pytest.approx([0.6, 0.7])
    assert curve.observed.tolist() == [1.0, 0.5]
    assert [entry["count"] for entry in curve.bins()] == [1, 2]


def test_auc_counts_ties_as_half() -> None:
    assert metrics.roc_auc([0, 1], [0.5, 0.5]) == 0.5
    assert metrics.roc_auc([0, 0, 1, 1], [1.0, 2.0, 2.0, 3.0]) == pytest.approx(3.5 / 4)
    assert metrics.roc_auc([0, 1], [-np.inf, np.inf]) == 1.0


def test_auc_leaves_out_classes_that_do_not_occur() -> None:
    table = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.6, 0.35, 0.05]])
    true = [0, 1, 0, 1]
    expected = np.mean([oracle.roc_auc_score([1, 0, 1, 0], table[:, 0]), oracle.roc_auc_score(true, table[:, 1])])
    assert metrics.roc_auc(true, table) == pytest.approx(expected)


def test_a_probability_of_zero_costs_much_but_not_infinitely_much() -> None:
    single = np.array([[1.0, 0.0]], dtype=np.float32)
    assert metrics.log_loss([1], single) == pytest.approx(-math.log(np.finfo(np.float32).eps))
    assert metrics.log_loss([1], single.astype(np.float64)) == pytest.approx(-math.log(np.finfo(np.float64).eps))


@pytest.mark.parametrize("classes", [2, 3])
def test_no_rows_give_nan(classes: int) -> None:
    summary = metrics.classification_summary(np.zeros(0), np.zeros((0, classes)))
    assert all(math.isnan(value) for value in summary.values())
    assert metrics.confusion_matrix([], [], classes=["a", "b"]).tolist() == [[0, 0], [0, 0]]
    assert metrics.reliability_curve([], [], strategy="quantile").bins() == []


def test_no_weight_gives_nan() -> None:
    summary = metrics.classification_summary([0, 1], [[0.5, 0.5], [0.1, 0.9]], sample_weight=[0, 0])
    assert all(math.isnan(value) for value in summary.values())


def test_one_class_only() -> None:
    summary = metrics.classification_summary([0, 0, 0], [0.1, 0.2, 0.7])
    assert math.isnan(summary["roc_auc"])
    assert summary["accuracy"] == summary["balanced_accuracy"] == pytest.approx(2 / 3)
    assert summary["precision"] == summary["recall"] == summary["f1"] == 0.0
    never = metrics.classification_summary([0, 0], [0.1, 0.2])
    assert math.isnan(never["precision"])
    assert math.isnan(never["f1"])


def test_nan_probabilities_give_nan_scores() -> None:
    table = np.array([[0.5, 0.5], [np.nan, np.nan], [0.2, 0.8]])
    assert math.isnan(metrics.log_loss([0, 1, 1], table))
    assert math.isnan(metrics.brier_score([0, 1, 1], table))
    assert math.isnan(metrics.roc_auc([0, 1, 1], table))
    assert metrics.reliability_curve([0, 1, 1], table).count.sum() == 2


def test_labels_with_a_table_of_classes() -> None:
    table = [[0.9, 0.1], [0.3, 0.7]]
    named = metrics.log_loss(["malignant", "benign"], table, classes=["malignant", "benign"])
    assert named == metrics.log_loss([0, 1], table)
    assert metrics.roc_auc([True, False], [0.9, 0.2]) == 1.0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: metrics.accuracy([0, 1], [0]), ShapeError, "2 rows but y_pred has 1"),
        (lambda: metrics.accuracy([[0, 1]], [[0, 1]]), ShapeError, r"shape \(1, 2\)"),
        (lambda: metrics.accuracy(["a"], [1]), DTypeError, "numbers and partly text"),
        (lambda: metrics.accuracy(np.array(["a", None], dtype=object), ["a", "b"]), DataError, "missing labels"),
        (lambda: metrics.accuracy([0.0, np.nan], [0, 1]), DataError, "missing labels"),
        (lambda: metrics.confusion_matrix(["a"], ["z"], classes=["a", "b"]), DataError, "'z' in row 0"),
        (lambda: metrics.confusion_matrix(["a"], ["a"], classes=["a", "a"]), DataError, "twice"),
        (lambda: metrics.f1([0, 1], [0, 1], average="micro"), ConfigError, "'micro'"),  # type: ignore[arg-type]
        (lambda: metrics.accuracy([0, 1], [0, 1], sample_weight=[1.0]), ShapeError, r"\(1,\) but there are 2 rows"),
        (lambda: metrics.accuracy([0, 1], [0, 1], sample_weight=[1, -2]), DataError, "-2.0 in row 1"),
        (lambda: metrics.accuracy([0, 1], [0, 1], sample_weight=[1, np.inf]), DataError, "finite"),
        (lambda: metrics.log_loss([0, 1], [0.2, 4.2]), DataError, "4.2"),
        (lambda: metrics.log_loss([0, 1], [[0.2, 0.2], [0.5, 0.5]]), DataError, "row 0 sum to 0.4"),
        (lambda: metrics.log_loss([0, 2], [0.2, 0.4]), DataError, "2 in row 1"),
        (lambda: metrics.log_loss([0, 1, 1], [0.2, 0.4]), ShapeError, "3 rows but there are predictions for 2"),
        (lambda: metrics.log_loss(["a", "b"], [0.2, 0.4]), DTypeError, "classes="),
        (lambda: metrics.log_loss([0, 1], ["x", "y"]), DTypeError, "real numbers"),
        (lambda: metrics.roc_auc([0, 1], np.zeros((2, 2, 2))), ShapeError, r"\(2, 2, 2\)"),
        (lambda: metrics.reliability_curve([0], [0.5], bins=0), ConfigError, "bins=0"),
        (lambda: metrics.reliability_curve([0], [0.5], strategy="even"), ConfigError, "'even'"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_make_no_sense(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
