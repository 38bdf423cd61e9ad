"""How far training has come, down to the batch: part of every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class EpochTotals:
    """Sums over the batches of an epoch so far. ``weight`` is the sum of the examples' weights."""

    weight: float = 0.0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    batches: int = 0
    seconds: float = 0.0

    def add(self, loss: float, metrics: Mapping[str, float], squares: Mapping[str, float], weight: float) -> None:
        self.weight += weight
        self.loss += weight * loss
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + weight * value
        for layer, value in squares.items():
            self.squares[layer] = self.squares.get(layer, 0.0) + value
        self.batches += 1

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
    """The epoch (from 1) and the batch (from 0) that come next; ``finished`` says why training ended, if it did."""

    epoch: int = 1
    batch: int = 0
    totals: EpochTotals = field(default_factory=EpochTotals)
    finished: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.batch, "totals": vars(self.totals), "finished": self.finished}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Position:
        return cls(data["epoch"], data["batch"], EpochTotals(**data["totals"]), data["finished"])
