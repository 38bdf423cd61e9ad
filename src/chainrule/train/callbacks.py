"""Callbacks: what can watch training and stop it. What they hold is part of every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.optim import ReduceOnPlateau
from chainrule.train.history import EpochRecord

if TYPE_CHECKING:
    from chainrule.train.stepping import StepTrainer

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """Where training stands after a batch; ``loss`` is that batch's.

    ``examples`` counts within the epoch; ``seconds`` since training began.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    step: int
    loss: float
    examples: int
    examples_per_epoch: int
    seconds: float


class Callback:
    """Subclass and override what is of interest. ``state`` and ``arrays`` are what must survive an interruption."""

    def on_train_begin(self, trainer: StepTrainer) -> None:
        """Before the first step of ``fit`` or ``resume``."""

    def on_batch_end(self, trainer: StepTrainer, event: BatchEvent) -> None:
        """After every step. Where a callback has this, steps are taken one at a time, which is slower for small networks."""

    def on_progress(self, trainer: StepTrainer, event: BatchEvent) -> None:
        """Now and then, about 30 times a second while steps are short: after steps taken in one go."""

    def on_epoch_end(self, trainer: StepTrainer, record: EpochRecord) -> None:
        """After every epoch, validation included; may call ``trainer.stop(reason)``."""

    def on_train_end(self, trainer: StepTrainer) -> None:
        """After the last step, also when training was stopped."""

    def state(self) -> dict[str, Any]:
        """JSON that a resumed run needs."""
        return {}

    def arrays(self) -> dict[str, NDArray]:
        """Arrays that a resumed run needs."""
        return {}

    def load(self, state: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        """Take back what ``state`` and ``arrays`` gave."""


def larger_is_better(monitor: str) -> bool:
    """Whether a quantity should grow, judged by its name: accuracies, scores, R², areas under curves do; losses do not."""
    name = monitor.removeprefix("val_")
    return any(part in name for part in ("accuracy", "auc", "f1", "r2", "score", "precision", "recall"))


def checked_callbacks(given: Any) -> list[Callback]:
    """Callbacks as a list; raises :class:`ConfigError` for what is none."""
    if not isinstance(given, Sequence) or not all(isinstance(callback, Callback) for callback in given):
        raise ConfigError(f"callbacks is a list of them, such as [cr.EarlyStopping()], not {given!r}")
    return list(given)


@final
class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved by more than ``min_delta`` for ``patience`` epochs, and restore the best weights.

    ``mode`` is ``"min"``, ``"max"`` or ``"auto"`` (by the name). Prechelt, *Early stopping - but when?*, 1998.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        if patience < 1:
            raise ConfigError(f"patience is a number of epochs of at least 1, not {patience}")
        if mode not in ("auto", "min", "max"):
            raise ConfigError(f"mode is auto, min or max, not {mode!r}")
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.restore_best = restore_best
        self.sign = 1 if mode == "max" or (mode == "auto" and larger_is_better(monitor)) else -1
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.waited = 0
        self._weights: dict[str, NDArray] = {}

    def on_epoch_end(self, trainer: StepTrainer, record: EpochRecord) -> None:
        if self.monitor not in record:
            known = ", ".join(name for name in record if name not in ("epoch", "seconds", "gradient_norms"))
            raise ConfigError(f"early stopping watches {self.monitor!r}, but an epoch has only {known}")
        value = float(record[self.monitor])
        if math.isfinite(value) and (self.best is None or self.sign * (value - self.best) > self.min_delta):
            self.best, self.best_epoch, self.waited = value, record["epoch"], 0
            self._weights = trainer.model_arrays() if self.restore_best else {}
            trainer.history.best_epoch = self.best_epoch
            return
        self.waited += 1
        if self.waited >= self.patience:
            what = "has never been finite in" if self.best is None else "has not improved for"
            trainer.stop(f"{self.monitor} {what} {self.patience} epochs")

    def on_train_end(self, trainer: StepTrainer) -> None:
        if self.restore_best and self._weights:
            trainer.load_model_arrays(self._weights)

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def arrays(self) -> dict[str, NDArray]:
        return self._weights

    def load(self, state: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        self._weights = dict(arrays)


@final
class PlateauScheduler(Callback):
    """Lower the learning rate by the rule of an :class:`chainrule.optim.ReduceOnPlateau` when ``monitor`` stalls."""

    def __init__(self, rule: ReduceOnPlateau, monitor: str = "val_loss") -> None:
        self.rule = rule
        self.monitor = monitor

    def on_epoch_end(self, trainer: StepTrainer, record: EpochRecord) -> None:
        if self.monitor not in record:
            raise ConfigError(f"the plateau schedule watches {self.monitor!r}, which an epoch does not have")
        value = float(record[self.monitor])
        trainer.change_optimizer_state(lambda state: self.rule.update(value, state))

    def state(self) -> dict[str, Any]:
        return dict(self.rule.progress)

    def load(self, state: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        self.rule.restore(state)
