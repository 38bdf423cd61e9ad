"""How far predicted numbers are from true ones.

Arrays have shape (rows,) or (rows, outputs); several outputs are scored one by one and averaged. ``sample_weight``
gives each row a weight. Without rows, or without weight, every score is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.metrics.checks import FloatArray, paired_targets, row_weights

# A network that diverged predicts infinities; its scores are then infinite or NaN, without a warning for each.
_quiet = np.errstate(over="ignore", invalid="ignore")


@_quiet
def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Mean of |y − ŷ|, in the unit of the target."""
    true, pred, unit = _paired(y_true, y_pred)
    errors, weights = np.abs(true - pred), row_weights(sample_weight, true.shape[0])
    return _over_outputs(errors, weights, unit)


@_quiet
def root_mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """√(mean of (y − ŷ)²), in the unit of the target."""
    true, pred, unit = _paired(y_true, y_pred)
    squares, weights = np.square(true - pred), row_weights(sample_weight, true.shape[0])
    if weights.sum() == 0.0:
        return float("nan")
    return float(np.ldexp(np.sqrt(weights @ squares / weights.sum()), unit).mean())


@_quiet
def r2(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Coefficient of determination, 1 − Σ w·(y − ŷ)² / Σ w·(y − ȳ)².

    1 is perfect, 0 is as good as always answering the mean, less than 0 is worse. NaN when the target does not vary.
    """
    true, pred, _ = _paired(y_true, y_pred)
    weights = row_weights(sample_weight, true.shape[0])
    used = weights > 0.0
    true, pred, weights = true[used], pred[used], weights[used]
    # Compared as values: the rounding of the mean would give a constant target a tiny variance, and a huge score.
    if weights.size == 0 or bool(np.any(true.min(axis=0) == true.max(axis=0))):
        return float("nan")
    # What is missed may be far larger than what varies, so each has a unit of its own.
    away = true - weights @ true / weights.sum()
    finer: NDArray[np.int32] = np.frexp(np.abs(away).max(axis=0))[1]
    missed, varied = weights @ np.square(true - pred), weights @ np.square(np.ldexp(away, -finer))
    return float((1.0 - np.ldexp(missed / varied, -2 * finer)).mean())


@_quiet
def median_absolute_error(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Median of |y − ŷ|, in the unit of the target; half of the rows are at least this close.

    With weights, the value at which the rows below and the rows above weigh the same; the mean of the two
    neighbours when a whole interval does that.
    """
    true, pred = paired_targets(y_true, y_pred)
    weights = row_weights(sample_weight, true.shape[0])
    errors = np.abs(true - pred)
    return float(np.mean([weighted_median(errors[:, k], weights) for k in range(errors.shape[1])]))


def weighted_median(values: FloatArray, weights: FloatArray) -> float:
    """The point that splits the weight of ``values`` in half; NaN without weight or when a value is NaN."""
    values, weights = values[weights > 0.0], weights[weights > 0.0]
    if values.size == 0 or bool(np.any(np.isnan(values))):
        return float("nan")
    order = np.argsort(values, kind="stable")
    ordered, reached = values[order], np.cumsum(weights[order])
    half = 0.5 * reached[-1]
    low = int(np.searchsorted(reached, half, side="left"))
    # Sums of equal weights round differently in each order, so "exactly half" allows for the last few bits.
    split_evenly = bool(np.isclose(reached[low], half, rtol=1e-12, atol=0.0)) and low + 1 < ordered.size
    return float(0.5 * (ordered[low] + ordered[low + 1])) if split_evenly else float(ordered[low])


def _paired(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
    """Both arrays in a unit of their own for each output, and its exponent: powers of two, so that nothing is rounded, and numbers
    of any size have squares and sums."""
    true, pred = paired_targets(y_true, y_pred)
    largest = np.maximum(np.abs(true).max(axis=0, initial=0.0), np.abs(pred).max(axis=0, initial=0.0))
    unit: NDArray[np.int32] = np.frexp(largest)[1]
    return np.ldexp(true, -unit), np.ldexp(pred, -unit), unit


def _over_outputs(errors: FloatArray, weights: FloatArray, unit: NDArray[np.int32]) -> float:
    total = weights.sum()
    if total == 0.0:
        return float("nan")
    return float(np.ldexp(weights @ errors / total, unit).mean())
