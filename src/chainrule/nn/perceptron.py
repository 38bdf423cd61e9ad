"""Rosenblatt's perceptron: the learning rule that came before gradients, for one unit with a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import DataError, ShapeError

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class PerceptronResult:
    """What :func:`perceptron_fit` found. ``mistakes`` counts updates, in all and by epoch in ``mistakes_by_epoch``.

    ``separates`` is true when the last epoch made no mistake: the hyperplane ``x · weights + bias = 0`` separates the classes.
    """

    weights: NDArray
    bias: float
    mistakes: int
    mistakes_by_epoch: tuple[int, ...]
    separates: bool
    classes: tuple[Any, Any]

    def predict(self, x: npt.ArrayLike) -> NDArray:
        """The class of each row: the larger one where ``x · weights + bias > 0``."""
        low, high = self.classes
        found: NDArray = np.where(np.asarray(x) @ self.weights + self.bias > 0, high, low)
        return found


def perceptron_fit(x: npt.ArrayLike, y: npt.ArrayLike, epochs: int = 100) -> PerceptronResult:
    """Learn a linear threshold unit from rows ``x`` (n, features) and two classes ``y``, such as 0 and 1 or -1 and 1.

    Rows are visited in order. One that lies on the wrong side of the hyperplane, or on it, is a mistake and is added:
    ``w ← w + s x``, ``b ← b + s`` with s = ±1 for the larger and the smaller class. It stops after an epoch without a mistake.
    With R the largest norm of a row extended by a 1, and γ the margin of any unit vector (w, b) that separates the classes,
    there are at most (R/γ)² mistakes however many epochs are run. Rosenblatt 1958; Novikoff 1962.
    Raises :class:`DataError` for targets of another number of classes than two, and for values that are not finite.
    """
    rows, signs, classes = _checked(x, y)
    weights, bias = np.zeros(rows.shape[1]), 0.0
    counts: list[int] = []
    while len(counts) < epochs and (not counts or counts[-1]):
        mistakes = 0
        for row, sign in zip(rows, signs, strict=True):
            if sign * (row @ weights + bias) <= 0:
                weights, bias = weights + sign * row, bias + sign
                mistakes += 1
        counts.append(mistakes)
    separates = bool(counts) and counts[-1] == 0
    return PerceptronResult(weights, float(bias), sum(counts), tuple(counts), separates, classes)


def _checked(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[NDArray, NDArray, tuple[Any, Any]]:
    rows, targets = np.asarray(x, np.float64), np.asarray(y)
    if rows.ndim != 2 or targets.shape != rows.shape[:1]:
        raise ShapeError(
            f"a perceptron learns from rows of shape (n, features) and targets of shape (n,), not {rows.shape} and "
            f"{targets.shape}"
        )
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise DataError(f"row {wrong[0]} of the inputs holds a value that is not finite")
    found = np.unique(targets).tolist()
    if len(found) != 2:
        shown = ", ".join(map(repr, found[:5])) or "none"
        raise DataError(f"a perceptron tells two classes apart, but the targets have {len(found)}: {shown}")
    return rows, np.where(targets == found[1], 1.0, -1.0), (found[0], found[1])
