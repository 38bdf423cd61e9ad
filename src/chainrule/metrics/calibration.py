"""Whether probabilities mean what they say: of the rows given 80 %, do 80 % turn out so?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.core.errors import ConfigError
from chainrule.metrics.checks import FloatArray, class_codes, class_probabilities, row_weights

Strategy = Literal["uniform", "quantile"]


@dataclass(frozen=True)
class ReliabilityCurve:
    """The non-empty bins of a reliability diagram, in rising order; every field has shape (bins,).

    ``lower`` and ``upper`` bound the predicted probability, ``predicted`` is its weighted mean inside the bin,
    ``observed`` the weighted share of rows that turned out so, ``weight`` the weight in the bin, ``count`` its rows.
    """

    lower: FloatArray
    upper: FloatArray
    predicted: FloatArray
    observed: FloatArray
    weight: FloatArray
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: Σ_b w_b·|observed_b − predicted_b| / Σ_b w_b; NaN without rows."""
        total = float(self.weight.sum())
        if total == 0.0:
            return float("nan")
        return float(np.dot(self.weight, np.abs(self.observed - self.predicted)) / total)

    def bins(self) -> list[dict[str, float]]:
        """The bins as plain dictionaries, the form in which a report stores them."""
        return [
            {
                "lower": float(self.lower[b]),
                "upper": float(self.upper[b]),
                "predicted": float(self.predicted[b]),
                "observed": float(self.observed[b]),
                "weight": float(self.weight[b]),
                "count": int(self.count[b]),
            }
            for b in range(self.count.size)
        ]


def reliability_curve(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    *,
    bins: int = 10,
    strategy: Strategy = "uniform",
    classes: Sequence[Any] | None = None,
    sample_weight: ArrayLike | None = None,
) -> ReliabilityCurve:
    """Bin the rows by predicted probability and compare with what happened.

    Two classes: the event is class 1 and the probability its probability. More classes: the probability is that of
    the predicted class and the event that the prediction is right (confidence calibration, Guo et al. 2017).
    ``strategy="uniform"`` cuts 0…1 into bins of equal width; ``"quantile"`` into bins of about equal row count. A
    value on an edge belongs to the lower bin. Rows with a NaN probability are left out.
    """
    if bins < 1:
        raise ConfigError(f"bins={bins} makes no sense: use at least one bin.")
    table = class_probabilities(probabilities)
    codes = class_codes(y_true, classes, table.shape[1], rows=table.shape[0])
    weights = row_weights(sample_weight, codes.size)
    chance, event = _chance_and_event(table, codes)
    known = ~np.isnan(chance)
    chance, event, weights = chance[known], event[known], weights[known]
    edges = _edges(chance, bins, strategy)
    place = np.searchsorted(edges[1:-1], chance)
    weight: FloatArray = np.bincount(place, weights=weights, minlength=bins).astype(np.float64)
    filled = weight > 0.0
    predicted = np.bincount(place, weights=weights * chance, minlength=bins)[filled] / weight[filled]
    observed = np.bincount(place, weights=weights * event, minlength=bins)[filled] / weight[filled]
    count = np.bincount(place, minlength=bins)[filled].astype(np.int64)
    return ReliabilityCurve(edges[:-1][filled], edges[1:][filled], predicted, observed, weight[filled], count)


def expected_calibration_error(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    *,
    bins: int = 10,
    strategy: Strategy = "uniform",
    classes: Sequence[Any] | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """The weighted mean distance of the :func:`reliability_curve` from the diagonal (Naeini et al. 2015)."""
    curve = reliability_curve(
        y_true, probabilities, bins=bins, strategy=strategy, classes=classes, sample_weight=sample_weight
    )
    return curve.error


def _chance_and_event(table: FloatArray, codes: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    if table.shape[1] == 2:
        return table[:, 1], (codes == 1).astype(np.float64)
    return table.max(axis=1), (table.argmax(axis=1) == codes).astype(np.float64)


def _edges(chance: FloatArray, bins: int, strategy: Strategy) -> FloatArray:
    if strategy == "uniform":
        return np.linspace(0.0, 1.0, bins + 1)
    if strategy == "quantile":
        if chance.size == 0:
            return np.linspace(0.0, 1.0, bins + 1)
        # Edges are probabilities that occur, found by whole-number places, so that equal ones share a bin exactly.
        ordered = np.sort(chance)
        places = [0, *(-(-ordered.size * edge // bins) - 1 for edge in range(1, bins + 1))]
        return ordered[places]
    raise ConfigError(f"strategy={strategy!r} is not known: use 'uniform' or 'quantile'.")
