"""How far training has come, down to the batch: part of every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Reports:
    """What steps report, in float64, one entry per step: the loss, the metrics, and the sum of squares of each layer's gradients.

    ``weights`` are the sums of the weights of the steps' examples.
    """

    losses: NDArray
    metrics: dict[str, NDArray]
    squares: dict[str, NDArray]
    weights: NDArray

    @classmethod
    def of_steps(cls, told: Mapping[str, Any], weights: NDArray) -> Reports:
        """From the stacked reports of the compiled step."""

        def wide(values: NDArray) -> NDArray:
            return values.reshape(len(weights)).astype(np.float64)

        return cls(
            wide(told["loss"]),
            {name: wide(values) for name, values in told["metrics"].items()},
            {layer: wide(values) for layer, values in told["squares"].items()},
            weights,
        )

    def first_nonfinite(self) -> int | None:
        """The first step whose loss or gradient is not finite; None where all are."""
        places = [_first_nonfinite(values) for values in (self.losses, *self.squares.values())]
        return min((place for place in places if place is not None), default=None)


def _first_nonfinite(values: NDArray) -> int | None:
    finite = np.isfinite(values)
    return None if finite.all() else int(finite.argmin())


def _added(start: float, terms: NDArray) -> float:
    """``((start + terms[0]) + terms[1]) + ...``: what a loop computes, to the bit."""
    if terms.strides == (0,) and start.is_integer() and float(terms[0]).is_integer():
        return start + len(terms) * float(terms[0])  # one whole number again and again: nothing is rounded
    return float(np.add.accumulate(np.concatenate(([start], terms)))[-1])


@dataclass
class EpochTotals:
    """Sums over the batches of an epoch so far. ``weight`` is the sum of the examples' weights."""

    weight: float = 0.0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    batches: int = 0
    seconds: float = 0.0

    def add(self, reports: Reports) -> None:
        """Add up steps one by one, in order, so that it does not matter how many are taken in one go."""
        self.weight = _added(self.weight, reports.weights)
        self.loss = _added(self.loss, reports.weights * reports.losses)
        for name, values in reports.metrics.items():
            self.metrics[name] = _added(self.metrics.get(name, 0.0), reports.weights * values)
        for layer, values in reports.squares.items():
            self.squares[layer] = _added(self.squares.get(layer, 0.0), values)
        self.batches += len(reports.losses)

    def record(self, epoch: int) -> dict[str, Any]:
        """Means over the epoch; root mean squares over its steps for the gradient norms."""
        norms = {layer: math.sqrt(total / self.batches) for layer, total in self.squares.items()}
        return {
            "epoch": epoch,
            "loss": self.loss / self.weight,
            **{name: total / self.weight for name, total in self.metrics.items()},
            "seconds": self.seconds,
            "gradient_norm": math.sqrt(sum(self.squares.values()) / self.batches),
            "gradient_norms": norms,
        }


@dataclass
class Position:
    """The epoch (from 1) and the batch (from 0) that come next; ``finished`` says why training ended, if it did.

    ``since`` is the number of updates that the model had when this training began.
    """

    epoch: int = 1
    batch: int = 0
    totals: EpochTotals = field(default_factory=EpochTotals)
    finished: str | None = None
    since: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "totals": vars(self.totals)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Position:
        return cls(**{**data, "totals": EpochTotals(**data["totals"])})


class Pace:
    """How many ``steps`` to take in one go, so that they take so many seconds; one at a time for none."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steps = 1

    def after(self, steps: int, seconds: float) -> None:
        """Learn from steps just taken. The number grows slowly: the first step of all compiles the program."""
        fitting = self.seconds * steps / max(seconds, 1e-9)
        self.steps = max(1, int(min(fitting, 8 * self.steps)))
