"""Evaluation metrics on NumPy arrays; they know nothing of networks."""

from chainrule.metrics.baselines import ConstantBaseline, FrequencyBaseline
from chainrule.metrics.calibration import ReliabilityCurve, expected_calibration_error, reliability_curve
from chainrule.metrics.classification import (
    ClassScores,
    accuracy,
    balanced_accuracy,
    brier_score,
    class_scores_from_confusion,
    confusion_matrix,
    f1,
    log_loss,
    precision,
    recall,
    roc_auc,
)
from chainrule.metrics.importance import ColumnImportance, permutation_importance
from chainrule.metrics.regression import mean_absolute_error, median_absolute_error, r2, root_mean_squared_error
from chainrule.metrics.summary import METRICS, Metric, classification_summary, describe_metric, regression_summary

__all__ = [
    "METRICS",
    "ClassScores",
    "ColumnImportance",
    "ConstantBaseline",
    "FrequencyBaseline",
    "Metric",
    "ReliabilityCurve",
    "accuracy",
    "balanced_accuracy",
    "brier_score",
    "class_scores_from_confusion",
    "classification_summary",
    "confusion_matrix",
    "describe_metric",
    "expected_calibration_error",
    "f1",
    "log_loss",
    "mean_absolute_error",
    "median_absolute_error",
    "permutation_importance",
    "precision",
    "r2",
    "recall",
    "regression_summary",
    "reliability_curve",
    "roc_auc",
    "root_mean_squared_error",
]
