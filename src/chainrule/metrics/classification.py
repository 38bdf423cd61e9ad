"""How well labels and class probabilities agree with the truth.

Two kinds of input. *Labels* (``accuracy``, ``confusion_matrix``, ``precision`` …) are vectors of integers, booleans or
text. *Probabilities* (``log_loss``, ``roc_auc``, ``brier_score`` …) have shape (rows, classes), or (rows,) for the
probability of class 1 of two; the truth is then a vector of class numbers 0…C−1, or of labels with ``classes=``.

``sample_weight`` gives each row a weight; a row of weight 2 counts like two equal rows. A score that the data leave
undefined (no rows, one class only) is NaN, and never a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.core.errors import ConfigError
from chainrule.metrics.checks import (
    FloatArray,
    class_codes,
    class_probabilities,
    class_scores,
    label_codes,
    row_weights,
    weighted_mean,
)

Average = Literal["binary", "macro", "weighted"]


class ClassScores(NamedTuple):
    """Precision, recall and F1 of every class, and the weight of its true rows; each of shape (classes,)."""

    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    support: FloatArray


def accuracy(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """The share of rows whose label is right: Σ w·[y = ŷ] / Σ w."""
    true, pred, _ = label_codes(y_true, y_pred, None)
    return weighted_mean((true == pred).astype(np.float64), row_weights(sample_weight, true.size))


def confusion_matrix(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    classes: Sequence[Any] | None = None,
    sample_weight: ArrayLike | None = None,
) -> NDArray[Any]:
    """C[i, j] = weight of the rows of class i that were called class j; int64 without weights, else float64.

    Rows and columns follow ``classes``, or the sorted labels that occur.
    """
    true, pred, table = label_codes(y_true, y_pred, classes)
    count = table.size
    weights = None if sample_weight is None else row_weights(sample_weight, true.size)
    cells = np.bincount(true * count + pred, weights=weights, minlength=count * count)
    return cells.reshape(count, count)


def class_scores_from_confusion(confusion: ArrayLike) -> ClassScores:
    """Precision, recall and F1 of every class of a confusion matrix (rows true, columns predicted).

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2·TP / (2·TP + FP + FN). Where the denominator is zero
    the score is 0; a class that neither occurs nor is predicted has no score (NaN).
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    hits, support, called = np.diagonal(matrix).copy(), matrix.sum(axis=1), matrix.sum(axis=0)
    seen = support + called > 0.0

    def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
        filled = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0.0)
        return np.where(seen, filled, np.nan)

    return ClassScores(ratio(hits, called), ratio(hits, support), ratio(2.0 * hits, support + called), support)


def balanced_accuracy(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """The mean recall of the classes that occur in ``y_true``."""
    scores = class_scores_from_confusion(confusion_matrix(y_true, y_pred, sample_weight=sample_weight))
    return _mean(scores.recall[scores.support > 0.0])


def precision(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    average: Average = "binary",
    positive: Any = 1,
    sample_weight: ArrayLike | None = None,
) -> float:
    """TP / (TP + FP): of the rows called a class, the share that are of it. See :func:`f1` for ``average``."""
    return _averaged("precision", y_true, y_pred, average, positive, sample_weight)


def recall(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    average: Average = "binary",
    positive: Any = 1,
    sample_weight: ArrayLike | None = None,
) -> float:
    """TP / (TP + FN): of the rows of a class, the share that were found. See :func:`f1` for ``average``."""
    return _averaged("recall", y_true, y_pred, average, positive, sample_weight)


def f1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    average: Average = "binary",
    positive: Any = 1,
    sample_weight: ArrayLike | None = None,
) -> float:
    """2·TP / (2·TP + FP + FN), the harmonic mean of precision and recall.

    ``average="binary"`` is the score of the label ``positive`` alone; ``"macro"`` the plain mean over the classes that
    occur or are predicted; ``"weighted"`` their mean weighted by true rows.
    """
    return _averaged("f1", y_true, y_pred, average, positive, sample_weight)


def log_loss(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: Sequence[Any] | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean of −ln p(true class), in nats.

    Probabilities are kept at least the rounding unit of their own element type away from 0, so that a softmax that
    underflowed costs much, but not infinitely much.
    """
    table, codes, weights = _probability_inputs(y_true, probabilities, classes, sample_weight)
    given = np.asarray(probabilities).dtype
    smallest = float(np.finfo(given if given.kind == "f" else np.float64).eps)
    chosen = table[np.arange(codes.size), codes]
    return weighted_mean(-np.log(np.clip(chosen, smallest, 1.0)), weights)


def brier_score(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: Sequence[Any] | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean squared error of the probabilities (Brier 1950).

    Two classes: mean of (p − y)², between 0 and 1. More classes: mean of Σₖ (pₖ − [y = k])², between 0 and 2.
    """
    table, codes, weights = _probability_inputs(y_true, probabilities, classes, sample_weight)
    wanted = codes[:, np.newaxis] == np.arange(table.shape[1])
    errors = np.square(table - wanted).sum(axis=1)
    return weighted_mean(errors * (0.5 if table.shape[1] == 2 else 1.0), weights)


def roc_auc(
    y_true: ArrayLike,
    scores: ArrayLike,
    *,
    classes: Sequence[Any] | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Area under the ROC curve: the chance that a row of the class scores above a row of another, ties counting half.

    ``scores`` of shape (rows,), (rows, 1) or (rows, 2) rank the rows by class 1. With more columns the areas of each
    class against all others are averaged (one-vs-rest, macro) over the classes that have rows on both sides. Scores
    need not be probabilities. NaN when only one class has weight, or when a score is NaN.
    """
    table = class_scores(scores)
    count = max(2, table.shape[1])
    codes = class_codes(y_true, classes, count, rows=table.shape[0])
    weights = row_weights(sample_weight, codes.size)
    if bool(np.any(np.isnan(table))):
        return float("nan")
    if count == 2:
        return _binary_auc(codes == 1, table[:, -1], weights)
    areas = np.array([_binary_auc(codes == k, table[:, k], weights) for k in range(count)])
    return _mean(areas[~np.isnan(areas)])


def _binary_auc(positive: NDArray[np.bool_], scores: FloatArray, weights: FloatArray) -> float:
    values, group = np.unique(scores, return_inverse=True)
    hits = np.bincount(group[positive], weights=weights[positive], minlength=values.size)
    misses = np.bincount(group[~positive], weights=weights[~positive], minlength=values.size)
    pairs = float(hits.sum() * misses.sum())
    if pairs == 0.0:
        return float("nan")
    below = np.cumsum(misses) - misses
    return float(np.dot(hits, below + 0.5 * misses) / pairs)


def _averaged(
    which: Literal["precision", "recall", "f1"],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    average: Average,
    positive: Any,
    sample_weight: ArrayLike | None,
) -> float:
    true, pred, table = label_codes(y_true, y_pred, None)
    numbers = np.arange(table.size)
    matrix = confusion_matrix(true, pred, classes=numbers.tolist(), sample_weight=row_weights(sample_weight, true.size))
    scores = class_scores_from_confusion(matrix)
    values: FloatArray = getattr(scores, which)
    if average == "binary":
        return _mean(values[table == positive])
    seen = ~np.isnan(values)
    if average == "macro":
        return _mean(values[seen])
    if average == "weighted":
        return weighted_mean(values[seen], scores.support[seen])
    raise ConfigError(f"average={average!r} is not known: use 'binary', 'macro' or 'weighted'.")


def _probability_inputs(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[Any] | None, sample_weight: ArrayLike | None
) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
    table = class_probabilities(probabilities)
    codes = class_codes(y_true, classes, table.shape[1], rows=table.shape[0])
    return table, codes, row_weights(sample_weight, codes.size)


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else float("nan")
