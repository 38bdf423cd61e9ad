"""What happened in training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochRecord(Mapping[str, Any]):
    """The numbers of one epoch, by name.

    ``epoch`` counts from 1; ``loss`` and the metrics are means over the epoch's examples; names with ``val_`` come from the
    validation data after the epoch; ``learning_rate``; ``seconds``; ``gradient_norm`` and ``gradient_norms`` (by layer) are root
    mean squares over the epoch's steps of the norms.
    """

    numbers: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.numbers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "numbers" or name not in self.numbers:
            raise AttributeError(name)
        return self.numbers[name]


@dataclass
class History:
    """The records so far, the epoch that early stopping judged best, why training ended, and which engine
    ran the steps and why."""

    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    stop_reason: str | None = None
    engine: str | None = None
    engine_reason: str | None = None

    def __getitem__(self, name: str) -> list[Any]:
        """One quantity over the epochs, such as ``history["val_loss"]``."""
        return [record.get(name) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def to_json(self) -> dict[str, Any]:
        return {
            "records": [dict(record) for record in self.records],
            "best_epoch": self.best_epoch,
            "stop_reason": self.stop_reason,
            "engine": self.engine,
            "engine_reason": self.engine_reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> History:
        records = [EpochRecord(record) for record in data["records"]]
        return cls(records, data["best_epoch"], data["stop_reason"], data.get("engine"), data.get("engine_reason"))
