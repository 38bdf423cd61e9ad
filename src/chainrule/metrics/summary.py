"""The metrics that are reported for a task, under the names that run folders and reports use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from chainrule.metrics.calibration import expected_calibration_error
from chainrule.metrics.checks import class_codes, class_probabilities
from chainrule.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier_score,
    f1,
    log_loss,
    precision,
    recall,
    roc_auc,
)
from chainrule.metrics.regression import mean_absolute_error, median_absolute_error, r2, root_mean_squared_error


@dataclass(frozen=True)
class Metric:
    """How a metric is called and read: ``better`` says which way is up, ``form`` how people write its values."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    form: Literal["percent", "score", "amount"]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy", "higher", "percent"),
        Metric("balanced_accuracy", "Balanced accuracy", "higher", "percent"),
        Metric("precision", "Precision", "higher", "percent"),
        Metric("recall", "Recall", "higher", "percent"),
        Metric("f1", "F1", "higher", "score"),
        Metric("precision_macro", "Precision, mean of classes", "higher", "percent"),
        Metric("recall_macro", "Recall, mean of classes", "higher", "percent"),
        Metric("f1_macro", "F1, mean of classes", "higher", "score"),
        Metric("f1_weighted", "F1, weighted by class size", "higher", "score"),
        Metric("roc_auc", "Area under the ROC curve", "higher", "score"),
        Metric("log_loss", "Log loss", "lower", "amount"),
        Metric("brier_score", "Brier score", "lower", "amount"),
        Metric("expected_calibration_error", "Expected calibration error", "lower", "percent"),
        Metric("mean_absolute_error", "Mean absolute error", "lower", "amount"),
        Metric("root_mean_squared_error", "Root mean squared error", "lower", "amount"),
        Metric("median_absolute_error", "Median absolute error", "lower", "amount"),
        Metric("r2", "R²", "higher", "score"),
    )
}


_SHORT_NAMES = {
    "auc": "roc_auc",
    "brier": "brier_score",
    "ece": "expected_calibration_error",
    "mae": "mean_absolute_error",
    "rmse": "root_mean_squared_error",
    "r2_score": "r2",
}


def describe_metric(name: str) -> Metric:
    """The metric of that name, or of a usual short form of it; a name of the user's own becomes its own title."""
    known = METRICS.get(_SHORT_NAMES.get(name, name))
    if known is not None:
        return known
    title = name.replace("_", " ").strip() or name
    better: Literal["higher", "lower"] = "lower" if name.endswith(("loss", "error", "norm")) else "higher"
    return Metric(name, title[:1].upper() + title[1:], better, "amount")


def classification_summary(
    y_true: ArrayLike, probabilities: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> dict[str, float]:
    """Every classification metric of class numbers and probabilities; the answer is the most probable class.

    Two classes report precision, recall and F1 of class 1; more classes report their means over the classes.
    """
    table = class_probabilities(probabilities)
    codes = class_codes(y_true, None, table.shape[1], rows=table.shape[0])
    answers = np.argmax(table, axis=1)
    weights = sample_weight
    values = {
        "accuracy": accuracy(codes, answers, sample_weight=weights),
        "balanced_accuracy": balanced_accuracy(codes, answers, sample_weight=weights),
    }
    if table.shape[1] == 2:
        values["precision"] = precision(codes, answers, sample_weight=weights)
        values["recall"] = recall(codes, answers, sample_weight=weights)
        values["f1"] = f1(codes, answers, sample_weight=weights)
    else:
        values["precision_macro"] = precision(codes, answers, average="macro", sample_weight=weights)
        values["recall_macro"] = recall(codes, answers, average="macro", sample_weight=weights)
        values["f1_macro"] = f1(codes, answers, average="macro", sample_weight=weights)
        values["f1_weighted"] = f1(codes, answers, average="weighted", sample_weight=weights)
    values["roc_auc"] = roc_auc(codes, table, sample_weight=weights)
    values["log_loss"] = log_loss(codes, probabilities, sample_weight=weights)
    values["brier_score"] = brier_score(codes, table, sample_weight=weights)
    values["expected_calibration_error"] = expected_calibration_error(codes, table, sample_weight=weights)
    return values


def regression_summary(
    y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> dict[str, float]:
    """Every regression metric, in the unit of the target."""
    return {
        "mean_absolute_error": mean_absolute_error(y_true, y_pred, sample_weight=sample_weight),
        "root_mean_squared_error": root_mean_squared_error(y_true, y_pred, sample_weight=sample_weight),
        "median_absolute_error": median_absolute_error(y_true, y_pred, sample_weight=sample_weight),
        "r2": r2(y_true, y_pred, sample_weight=sample_weight),
    }
