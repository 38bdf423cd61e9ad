"""The training loop: epochs, batches, validation, stopping and checkpoints around the step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chainrule.core.errors import ConfigError, NonFiniteError
from chainrule.train.batches import Examples, examples, is_count, order_of_epoch
from chainrule.train.callbacks import BatchEvent, Callback, checked_callbacks
from chainrule.train.checkpoints import Checkpoint, CheckpointFolder, clear_checkpoints
from chainrule.train.history import EpochRecord, History
from chainrule.train.journal import Stretch
from chainrule.train.progress import EpochTotals, Pace, Position

if TYPE_CHECKING:
    from chainrule.train.stepping import StepTrainer

NDArray = np.ndarray[Any, Any]
BatchSize = int | Literal["full"]

_INTERRUPTED = "interrupted"
# Between steps taken in one go, progress is shown, Ctrl-C is heeded and checkpoints are saved. Aiming at half of 50 ms leaves
# room for steps that take longer than those before.
_SECONDS_IN_ONE_GO = 0.025


def _threshold(name: str, value: Any) -> float | None:
    """A number, or None; raises :class:`ConfigError` for anything else."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number)):
        raise ConfigError(f"{name} is a number or None, not {value!r}")
    return None if value is None else float(value)


class Loop:
    """One call of ``fit`` or ``resume``: its arguments, checked, and the loop over epochs and batches."""

    def __init__(
        self,
        trainer: StepTrainer,
        data: Any,
        *,
        validation_data: Any = None,
        epochs: int = 10,
        batch_size: BatchSize = 32,
        shuffle: bool = True,
        callbacks: Sequence[Callback] = (),
        stop_at_loss: float | None = None,
        stop_at_gradient_norm: float | None = None,
        checkpoints: Path | str | CheckpointFolder | None = None,
        checkpoint_seconds: float = 5.0,
    ) -> None:
        if not is_count(epochs):
            raise ConfigError(f"epochs is a whole number of at least 1, not {epochs!r}")
        self.trainer = trainer
        self.data = examples(data, trainer.dtype, "the training data")
        validation = (
            None if validation_data is None else examples(validation_data, trainer.dtype, "the validation data")
        )
        self.validation = validation
        self.epochs = int(epochs)
        if batch_size != "full" and not is_count(batch_size):
            raise ConfigError(f"batch_size is a whole number of at least 1 or 'full', not {batch_size!r}")
        self.batch = self.data.count if batch_size == "full" else int(batch_size)
        self.shuffle = shuffle and self.batch < self.data.count
        trainer.check_streams(min(self.batch, self.data.count), self.shuffle)
        self.callbacks = checked_callbacks(callbacks)
        self.stop_at_loss = _threshold("stop_at_loss", stop_at_loss)
        self.stop_at_gradient_norm = _threshold("stop_at_gradient_norm", stop_at_gradient_norm)
        self.folder = None if checkpoints is None else CheckpointFolder.of(checkpoints)
        self.checkpoint_seconds = checkpoint_seconds
        self.batches = -(-self.data.count // self.batch)
        one_by_one = any(type(callback).on_batch_end is not Callback.on_batch_end for callback in self.callbacks)
        between = _SECONDS_IN_ONE_GO if self.folder is None else min(_SECONDS_IN_ONE_GO, checkpoint_seconds / 2)
        self._pace = Pace(0.0 if one_by_one else between)
        self.began = self.saved = time.monotonic()

    def start(self) -> History:
        """Train from the beginning; checkpoints of an earlier training in the folder are removed."""
        self.trainer.history = History()
        position = Position(since=self.trainer.steps)
        self.trainer.check_examples(self.data, "the training data")
        if self.validation is not None:
            self.trainer.check_examples(self.validation, "the validation data")
        first = Examples(*self.data.take(slice(0, self.batch)), min(self.batch, self.data.count))
        why = self.trainer.choose_engines(first, self.epochs * self.batches, self.validation, self.epochs)
        self.trainer.history.engine, self.trainer.history.engine_reason = self.trainer.engine, why
        if self.folder is not None:
            clear_checkpoints(self.folder.path)
            self._save(position)
        return self.train(position)

    def train(self, position: Position) -> History:
        """Train from a position on."""
        trainer = self.trainer
        trainer.stopping = None
        for callback in self.callbacks:
            callback.on_train_begin(trainer)
        with _interruptible(trainer):
            while position.epoch <= self.epochs and trainer.stopping is None and not position.finished:
                self._epoch(position)
        reason = trainer.stopping or ("all epochs are done" if position.epoch > self.epochs else position.finished)
        trainer.history.stop_reason = reason
        for callback in self.callbacks:
            callback.on_train_end(trainer)
        return trainer.history

    def _epoch(self, position: Position) -> None:
        order = None
        if self.shuffle:
            order = order_of_epoch(self.trainer.order_key, position.since, position.epoch, self.data.count)
        began = time.monotonic() - position.totals.seconds
        while position.batch < self.batches:
            stretch = self._next_steps(position, order)
            started = time.monotonic()
            reports = self.trainer.advance(stretch)
            position.totals.add(reports)
            position.batch += stretch.steps
            now = time.monotonic()
            self._pace.after(stretch.steps, now - started)
            position.totals.seconds = now - began
            self._after_steps(position, float(reports.losses[-1]))
            if self.trainer.stopping is not None and position.batch < self.batches:
                self._save(position)
                return
        self._finish_epoch(position)

    def _next_steps(self, position: Position, order: NDArray | None) -> Stretch:
        """As many whole batches as are taken in one go, or the last, smaller one."""
        start = position.batch * self.batch
        whole = self.data.count // self.batch - position.batch
        batch = self.batch if whole else self.data.count - start
        steps = min(self._pace.steps, whole) if whole else 1
        data, rows = self.data, None
        if order is None:
            data = data.from_row(start)
        else:
            rows = order[start : start + steps * batch]
        return Stretch(data.x, data.y, data.weights, rows, batch, steps)

    def _after_steps(self, position: Position, loss: float) -> None:
        now = time.monotonic()
        event = BatchEvent(
            position.epoch,
            self.epochs,
            position.batch,
            self.batches,
            self.trainer.steps,
            loss,
            min(position.batch * self.batch, self.data.count),
            self.data.count,
            now - self.began,
        )
        for callback in self.callbacks:
            callback.on_batch_end(self.trainer, event)
            callback.on_progress(self.trainer, event)
        if now - self.saved >= self.checkpoint_seconds and position.batch < self.batches:
            self._save(position)

    def _finish_epoch(self, position: Position) -> None:
        trainer = self.trainer
        values = position.totals.record(position.epoch)
        values["learning_rate"] = trainer.learning_rate
        if self.validation is not None:
            values.update((f"val_{name}", value) for name, value in trainer.evaluate_examples(self.validation).items())
        record = EpochRecord(values)
        trainer.history.records.append(record)
        self._check_validation(record)
        for callback in self.callbacks:
            callback.on_epoch_end(trainer, record)
        if self.stop_at_loss is not None and record["loss"] <= self.stop_at_loss:
            trainer.stop(f"the loss is at most {self.stop_at_loss:g}")
        if self.stop_at_gradient_norm is not None and record["gradient_norm"] <= self.stop_at_gradient_norm:
            trainer.stop(f"the gradient norm is at most {self.stop_at_gradient_norm:g}")
        position.epoch, position.batch, position.totals = position.epoch + 1, 0, EpochTotals()
        if trainer.stopping is not None and trainer.stopping != _INTERRUPTED:
            # Stopping is part of what is saved, so that resuming a run that was killed afterwards does not train on.
            position.finished = trainer.stopping
        self._save(position)

    def _check_validation(self, record: EpochRecord) -> None:
        """Raise :class:`NonFiniteError` where no validation loss has been finite so far and this one is NaN: it could only be compared
        in vain. An infinity is a loss that others can be better than."""
        losses = [float(epoch.get("val_loss", np.inf)) for epoch in self.trainer.history.records]
        if self.validation is None or not np.isnan(losses[-1]) or np.isfinite(losses).any():
            return
        where = self.trainer.nonfinite_place(self.validation)
        raise NonFiniteError(
            f"the validation loss is not finite after epoch {record['epoch']}, and never was: the first non-finite value appeared in "
            f"{where}; the weights of this epoch are kept; check the validation data and layers that compute something else at "
            "inference"
        )

    def _save(self, position: Position) -> None:
        if self.folder is None:
            return
        trainer = self.trainer
        groups: dict[str, Mapping[str, NDArray]] = dict(trainer.state_arrays())
        groups.update((f"callback.{n}", callback.arrays()) for n, callback in enumerate(self._stateful()))
        progress = {
            "position": position.to_json(),
            "history": trainer.history.to_json(),
            "callbacks": [
                {"type": type(callback).__name__, "state": callback.state()} for callback in self._stateful()
            ],
            "arguments": self._arguments(),
            "engines": {name: compiled.engine.name for name, compiled in trainer.compiled().items()},
        }
        self.folder.save(Checkpoint(groups, progress), trainer.steps)
        self.saved = time.monotonic()

    def _stateful(self) -> list[Callback]:
        """Callbacks that take part in checkpoints; the others only watch, and may come and go."""
        return [callback for callback in self.callbacks if type(callback).state is not Callback.state]

    def _arguments(self) -> dict[str, Any]:
        """What must be the same for the result to be the same."""
        return {"examples": self.data.count, "batch": self.batch, "shuffle": self.shuffle}

    def restore(self, checkpoint: Checkpoint) -> Position:
        trainer = self.trainer
        progress = checkpoint.progress
        if progress["arguments"] != self._arguments():
            raise ConfigError(
                f"the checkpoint was made with {progress['arguments']}, which cannot go on with {self._arguments()}; use the same "
                "data and batch size"
            )
        trainer.use_engines(progress.get("engines", {}))
        trainer.load_state_arrays(checkpoint.groups)
        trainer.history = History.from_json(progress["history"])
        saved = progress["callbacks"]
        stateful = self._stateful()
        if [entry["type"] for entry in saved] != [type(callback).__name__ for callback in stateful]:
            raise ConfigError("resuming needs the callbacks that training was started with, in the same order")
        for n, (callback, entry) in enumerate(zip(stateful, saved, strict=True)):
            callback.load(entry["state"], checkpoint.groups.get(f"callback.{n}", {}))
        return Position.from_json(progress["position"])


@contextmanager
def _interruptible(trainer: StepTrainer) -> Iterator[None]:
    """Let the first Ctrl-C end training after the current step; a second one interrupts as usual."""
    before = signal.getsignal(signal.SIGINT)
    # A handler that is None was set by code that is not Python, and could not be set back.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return

    def interrupted(number: int, frame: Any) -> None:
        trainer.stop(_INTERRUPTED)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
