"""Checks that every metric makes of its arguments: numeric vectors, class labels, probabilities, weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.core.errors import DataError, DTypeError, ShapeError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SUM_TOLERANCE = 1e-2  # a softmax in half precision misses one by a little less than this
_UNIT_TOLERANCE = 1e-6


def row_weights(sample_weight: ArrayLike | None, rows: int) -> FloatArray:
    """One weight per row as float64, ones where none were given; ShapeError, DataError."""
    if sample_weight is None:
        return np.ones(rows)
    weights = real_array(sample_weight, "sample_weight")
    if weights.shape != (rows,):
        raise ShapeError(
            f"sample_weight has shape {weights.shape} but there are {rows} rows: give one weight for each row."
        )
    if not bool(np.all(np.isfinite(weights) & (weights >= 0.0))):
        row = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0.0)))[0])
        raise DataError(
            f"sample_weight is {weights[row]} in row {row}: weights must be finite and must not be negative."
        )
    return weights


def real_array(values: ArrayLike, name: str) -> FloatArray:
    """``values`` as float64; DTypeError when they are not real numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" and array.size:
        try:
            if array.dtype.kind == "O":
                return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
        raise DTypeError(f"{name} holds {array.dtype} values: give real numbers.")
    return array.astype(np.float64)


def weighted_mean(values: FloatArray, weights: FloatArray) -> float:
    """Σ w·v / Σ w, and NaN where there is no weight at all."""
    total = float(weights.sum())
    if total == 0.0:
        return float("nan")
    return float(np.dot(values, weights) / total)


def label_codes(
    y_true: ArrayLike, y_pred: ArrayLike, classes: Sequence[Any] | None
) -> tuple[IntArray, IntArray, NDArray[Any]]:
    """True and predicted labels as positions in one sorted table of labels, and that table.

    Without ``classes`` the table is the sorted union of all labels that occur. ShapeError when the two are not
    vectors of the same length, DataError for a label that is missing or is not in ``classes``.
    """
    true, pred = _label_vector(y_true, "y_true"), _label_vector(y_pred, "y_pred")
    if true.shape != pred.shape:
        raise ShapeError(f"y_true has {true.size} rows but y_pred has {pred.size}: both need one label for each row.")
    table = None if classes is None else _label_vector(classes, "classes")
    _check_comparable(true, pred, table)
    if table is None:
        try:
            table, codes = np.unique(np.concatenate([true, pred]), return_inverse=True)
        except TypeError as error:
            raise DTypeError("y_true and y_pred mix labels of different types: use one type for all labels.") from error
        codes = codes.astype(np.int64)
        return codes[: true.size], codes[true.size :], table
    return positions(true, table, "y_true"), positions(pred, table, "y_pred"), table


def positions(labels: NDArray[Any], table: NDArray[Any], name: str) -> IntArray:
    """The place of every label in ``table``; DataError names the first label that is not in it."""
    index = {label: place for place, label in enumerate(table.tolist())}
    if len(index) != table.size:
        raise DataError("classes lists a label twice: give every label once.")
    codes = np.array([index.get(label, -1) for label in labels.tolist()], dtype=np.int64)
    if bool(np.any(codes < 0)):
        row = int(np.flatnonzero(codes < 0)[0])
        raise DataError(
            f"{name} is {labels.tolist()[row]!r} in row {row}, which is not one of the {table.size} classes."
        )
    return codes


def class_codes(y_true: ArrayLike, classes: Sequence[Any] | None, count: int, *, rows: int | None = None) -> IntArray:
    """True classes as integers in 0…count−1, looked up in ``classes`` when it is given; ``rows`` of them if given."""
    labels = _label_vector(y_true, "y_true")
    if rows is not None and labels.size != rows:
        raise ShapeError(f"y_true has {labels.size} rows but there are predictions for {rows}: both need the same.")
    if classes is not None:
        table = _label_vector(classes, "classes")
        if table.size != count:
            raise ShapeError(f"classes has {table.size} labels but there are probabilities for {count} classes.")
        return positions(labels, table, "y_true")
    if labels.size == 0:
        return np.zeros(0, dtype=np.int64)
    if labels.dtype.kind not in "biuf" or not bool(np.all(labels == np.floor(labels))):
        raise DTypeError("y_true holds labels instead of class numbers: give classes= as well to say which is which.")
    outside = (labels < 0) | (labels >= count)
    if bool(np.any(outside)):
        row = int(np.flatnonzero(outside)[0])
        raise DataError(f"y_true is {labels[row]} in row {row}, but there are only the classes 0 to {count - 1}.")
    return labels.astype(np.int64)


def class_probabilities(probabilities: ArrayLike) -> FloatArray:
    """Probabilities of shape (rows, classes); a vector is taken as P(class 1) of two classes.

    NaN is let through. ShapeError for other shapes, DataError for values outside 0…1 and rows that do not sum to one.
    """
    table = _as_columns(real_array(probabilities, "probabilities"), "probabilities")
    with np.errstate(invalid="ignore"):
        outside = (table < -_UNIT_TOLERANCE) | (table > 1.0 + _UNIT_TOLERANCE)
        uneven = np.abs(table.sum(axis=1) - 1.0) > _SUM_TOLERANCE
    if bool(np.any(outside)):
        row, column = (int(place[0]) for place in np.nonzero(outside))
        raise DataError(
            f"The probability in row {row}, column {column} is {table[row, column]:.6g}: "
            "probabilities lie between 0 and 1, so apply a sigmoid or softmax first."
        )
    if table.shape[1] == 1:
        table = np.concatenate([1.0 - table, table], axis=1)
    elif bool(np.any(uneven)):
        row = int(np.flatnonzero(uneven)[0])
        raise DataError(
            f"The probabilities of row {row} sum to {table[row].sum():.6g} instead of 1: "
            "apply a softmax over the classes."
        )
    return np.clip(table, 0.0, 1.0)


def class_scores(scores: ArrayLike) -> FloatArray:
    """Scores of any real size, shape (rows, classes); a vector becomes one column."""
    return _as_columns(real_array(scores, "scores"), "scores")


def paired_targets(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """True and predicted numbers, both of shape (rows, outputs); ShapeError when they differ."""
    true, pred = real_array(y_true, "y_true"), real_array(y_pred, "y_pred")
    true, pred = _as_columns(true, "y_true"), _as_columns(pred, "y_pred")
    if true.shape != pred.shape:
        raise ShapeError(f"y_true has shape {true.shape} but y_pred has shape {pred.shape}: both must be the same.")
    return true, pred


def _as_columns(array: FloatArray, name: str) -> FloatArray:
    if array.ndim == 1:
        return array[:, np.newaxis]
    if array.ndim != 2 or array.shape[1] == 0:
        raise ShapeError(f"{name} has shape {array.shape}: give a vector, or a matrix with one row for each example.")
    return array


def _label_vector(labels: ArrayLike | Sequence[Any], name: str) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(labels)
    if array.dtype.kind == "O" and array.size:
        if any(label is None or label != label for label in array.ravel().tolist()):  # NaN is not equal to itself
            raise DataError(f"{name} has missing labels: leave those rows out first.")
        try:
            array = np.asarray(array.tolist())
        except ValueError as error:
            raise ShapeError(f"{name} is not a rectangular array of labels.") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeError(f"{name} has shape {array.shape}: give one label for each row.")
    if array.dtype.kind == "f" and bool(np.any(np.isnan(array))):
        raise DataError(f"{name} has missing labels: leave those rows out first.")
    return array


def _check_comparable(true: NDArray[Any], pred: NDArray[Any], table: NDArray[Any] | None) -> None:
    kinds = {_kind(labels) for labels in (true, pred, table) if labels is not None and labels.size}
    if len(kinds) > 1:
        raise DTypeError(f"Labels are partly {' and partly '.join(sorted(kinds))}: use one type for all labels.")


def _kind(labels: NDArray[Any]) -> str:
    return {"U": "text", "S": "bytes", "O": "objects", "M": "dates"}.get(labels.dtype.kind, "numbers")
