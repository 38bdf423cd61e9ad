"""Answers that look at no column, so that a score has something to be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.core.errors import ConfigError, DataError
from chainrule.metrics.checks import FloatArray, class_codes, real_array, row_weights, weighted_mean
from chainrule.metrics.regression import weighted_median


@dataclass(frozen=True)
class FrequencyBaseline:
    """Answers every row with the class frequencies of the training part, and so with its most frequent class."""

    frequencies: tuple[float, ...]

    @classmethod
    def fit(cls, y_train: ArrayLike, classes: int, *, sample_weight: ArrayLike | None = None) -> FrequencyBaseline:
        """Count the class numbers 0…classes−1 of the training part; DataError when it has no rows."""
        codes = class_codes(y_train, None, classes)
        counts = np.bincount(codes, weights=row_weights(sample_weight, codes.size), minlength=classes)
        if counts.sum() == 0.0:
            raise DataError("The training part has no rows with a weight, so it has no most frequent class.")
        return cls(tuple(float(share) for share in counts / counts.sum()))

    @property
    def answer(self) -> int:
        """The most frequent class; the first of them in a tie."""
        return int(np.argmax(self.frequencies))

    def predict(self, rows: int) -> NDArray[np.int64]:
        """The most frequent class for every row, shape (rows,)."""
        return np.full(rows, self.answer, dtype=np.int64)

    def probabilities(self, rows: int) -> FloatArray:
        """The training frequencies for every row, shape (rows, classes)."""
        return np.tile(np.asarray(self.frequencies, dtype=np.float64), (rows, 1))


@dataclass(frozen=True)
class ConstantBaseline:
    """Answers every row with one number: the mean or the median of the training part."""

    answer: float
    statistic: Literal["mean", "median"]

    @classmethod
    def fit(
        cls,
        y_train: ArrayLike,
        statistic: Literal["mean", "median"] = "mean",
        *,
        sample_weight: ArrayLike | None = None,
    ) -> ConstantBaseline:
        """The weighted mean (best under squared error) or median (best under absolute error) of the targets."""
        values = real_array(y_train, "y_train").ravel()
        weights = row_weights(sample_weight, values.size)
        if weights.sum() == 0.0:
            raise DataError(f"The training part has no rows with a weight, so its target has no {statistic}.")
        if statistic == "mean":
            return cls(weighted_mean(values, weights), statistic)
        if statistic == "median":
            return cls(weighted_median(values, weights), statistic)
        raise ConfigError(f"statistic={statistic!r} is not known: use 'mean' or 'median'.")

    def predict(self, rows: int) -> FloatArray:
        """The same number for every row, shape (rows,)."""
        return np.full(rows, self.answer)
