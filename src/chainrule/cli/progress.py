"""How far training has come: bars that are redrawn on a terminal, a line now and then everywhere else."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chainrule.cli.terminal import in_sentence, safe
from chainrule.metrics import describe_metric
from chainrule.report.formats import amount, count, duration
from chainrule.report.verdict import write_metric
from chainrule.train import BatchEvent, Callback, EpochRecord, Trainer

_SECONDS_BETWEEN_DRAWINGS = 0.1
_SECONDS_BETWEEN_LINES = 3.0
_SLOW_EPOCH = 1.0  # seconds; only then is the place inside an epoch worth a bar of its own
_RATE_WINDOW = 5.0  # seconds
_BAR_WIDTH = 40
_NOT_SCORES = frozenset({"epoch", "learning_rate", "seconds", "gradient_norm", "gradient_norms"})


class Progress(Callback):
    """Shows training as it goes on, and never stops it: when the output is closed, it goes on unseen.

    Args:
        console: where to draw; None draws nothing.
        patience: after how many epochs without a better one training stops, if it does.
        clock: seconds that never go back.
    """

    def __init__(
        self, console: Console | None, *, patience: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self.patience = patience
        self.clock = clock
        self.interrupted = False
        self._live: Live | None = None
        self._reset(clock())

    def on_train_begin(self, trainer: Trainer) -> None:
        self._reset(self.clock())
        if self.console is not None and self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._try(self._live.start)

    def on_batch_end(self, trainer: Trainer, event: BatchEvent) -> None:
        self._event = event
        now = self.clock()
        if self._first_examples is None:
            self._first_examples = _examples(event) - event.examples / max(event.batch, 1)
            self._first_fraction = _fraction(event) - 1 / max(event.batches, 1)
        if self._live is not None and now - self._drawn >= _SECONDS_BETWEEN_DRAWINGS:
            self._draw(trainer, now)

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        now = self.clock()
        self._epoch_seconds.append(now - self._epoch_began)
        self._epoch_began = now
        self._record = record
        if self.console is None or self._live is not None:
            return
        if self._lines == 0 or now - self._drawn >= _SECONDS_BETWEEN_LINES:
            self._drawn, self._lines = now, self._lines + 1
            text = Text(safe(self._line(trainer, record, now)))
            self._try(lambda: self.console and self.console.print(text, soft_wrap=True))

    def on_train_end(self, trainer: Trainer) -> None:
        self.close()
        self.interrupted = trainer.history.stop_reason == "interrupted"

    def close(self) -> None:
        """Takes the bars off the terminal; also needed when training ends with an exception."""
        if self._live is not None:
            self._try(self._live.stop)
            self._live = None

    @property
    def seconds(self) -> float:
        """How long training has gone on."""
        return self.clock() - self._began

    def seconds_left(self, now: float) -> float:
        """How long all the epochs that are asked for would still take, at the present pace; NaN before the first batch."""
        if self._event is None:
            return math.nan
        done, all_epochs = _fraction(self._event), float(self._event.epochs)
        if self._record is not None:
            done = max(done, float(self._record["epoch"]))
        if self._epoch_seconds:
            per_epoch = sum(self._epoch_seconds) / len(self._epoch_seconds)
        elif done > self._first_fraction:
            per_epoch = (now - self._began) / (done - self._first_fraction)
        else:
            return math.nan
        return per_epoch * max(0.0, all_epochs - done)

    def rate(self, now: float) -> float:
        """Examples a second over the last seconds."""
        if self._event is None or self._first_examples is None:
            return math.nan
        while len(self._samples) > 1 and now - self._samples[1][0] > _RATE_WINDOW:
            self._samples.popleft()
        then, before = self._samples[0] if self._samples else (self._began, self._first_examples)
        self._samples.append((now, float(_examples(self._event))))
        return (_examples(self._event) - before) / (now - then) if now > then else math.nan

    def _reset(self, now: float) -> None:
        self._began = self._epoch_began = now
        self._drawn = -math.inf
        self._lines = 0
        self._event: BatchEvent | None = None
        self._record: EpochRecord | None = None
        self._first_examples: float | None = None
        self._first_fraction = 0.0
        self._epoch_seconds: deque[float] = deque(maxlen=8)
        self._samples: deque[tuple[float, float]] = deque()

    def _try(self, draw: Callable[[], object]) -> None:
        try:
            draw()
        except OSError:
            self.console = self._live = None

    # --- what is shown ---

    def _draw(self, trainer: Trainer, now: float) -> None:
        self._drawn = now
        live, event = self._live, self._event
        if live is not None and event is not None:
            shown = Group(self._bars(event), *(Text(safe(line), no_wrap=True, overflow="ellipsis") for line in self._texts(trainer, now)))
            self._try(lambda: live.update(shown, refresh=True))

    def _bars(self, event: BatchEvent) -> Table:
        most = "at most " if self.patience is not None else ""
        bars = [(f"epoch {count(event.epoch)} of {most}{count(event.epochs)}", _fraction(event), float(event.epochs))]
        if self._seconds_per_epoch(event) > _SLOW_EPOCH:
            bars.append((f"batch {count(event.batch)} of {count(event.batches)}", float(event.batch), float(event.batches)))
        table = Table.grid(padding=(0, 2, 0, 0))
        for label, done, total in bars:
            table.add_row(safe(label), ProgressBar(total=total, completed=done, width=_BAR_WIDTH), f"{100 * done / total:.0f} %")
        return table

    def _seconds_per_epoch(self, event: BatchEvent) -> float:
        if self._epoch_seconds:
            return self._epoch_seconds[-1]
        return (self.clock() - self._epoch_began) * event.batches / max(event.batch, 1)

    def _texts(self, trainer: Trainer, now: float) -> list[str]:
        texts = []
        if self._record is not None:
            texts.append(" · ".join(_scores(self._record)))
        elif self._event is not None:
            texts.append(f"loss {amount(self._event.loss)}")
        texts += self._best(trainer)
        texts.append(" · ".join(self._pace(now)))
        return texts

    def _best(self, trainer: Trainer) -> list[str]:
        best = trainer.history.best_epoch
        if best is None or self._record is None:
            return []
        words = f"best so far: epoch {count(best)}"
        if self.patience is not None:
            left = self.patience - (int(self._record["epoch"]) - best)
            words += f"; stops after {count(max(left, 0))} more without a better one"
        return [words]

    def _pace(self, now: float) -> list[str]:
        words = []
        if math.isfinite(rate := self.rate(now)):
            words.append(f"{_rounded(rate)} examples/s")
        words.append(f"{duration(now - self._began)} so far")
        if math.isfinite(left := self.seconds_left(now)):
            words.append(f"{'at most' if self.patience is not None else 'about'} {duration(left)} left")
        return words

    def _line(self, trainer: Trainer, record: Mapping[str, Any], now: float) -> str:
        epochs = f"/{self._event.epochs}" if self._event is not None else ""
        best = trainer.history.best_epoch
        mark = [] if best is None else ["best so far" if best == record["epoch"] else f"best: epoch {best}"]
        return ", ".join([f"epoch {record['epoch']}{epochs}: {_scores(record)[0]}", *_scores(record)[1:], *mark, *self._pace(now)])


def _fraction(event: BatchEvent) -> float:
    """Epochs done, with the part of the present one."""
    return event.epoch - 1 + event.batch / max(event.batches, 1)


def _examples(event: BatchEvent) -> int:
    return (event.epoch - 1) * event.examples_per_epoch + event.examples


def _scores(record: Mapping[str, Any]) -> list[str]:
    """The losses first, then the metrics on the validation part, or on the training part where there is no other."""
    values = {name: value for name, value in record.items() if name not in _NOT_SCORES}
    metrics = [name for name in values if not name.endswith("loss") and not name.startswith("val_")]
    names = [name for name in ("loss", "val_loss") if name in values]
    names += [f"val_{name}" if f"val_{name}" in values else name for name in metrics]
    return [f"{_title(name)} {_written(name, float(values[name]))}" for name in names]


def _title(name: str) -> str:
    plain = name.removeprefix("val_")
    title = "loss" if plain == "loss" else describe_metric(plain).title
    return f"validation {in_sentence(title)}" if name != plain else in_sentence(title)


def _written(name: str, value: float) -> str:
    return write_metric(name.removeprefix("val_"), value)


def _rounded(rate: float) -> str:
    """Two significant digits: more would flicker."""
    if rate < 10:
        return amount(rate, 2)
    return count(round(rate, 1 - math.floor(math.log10(rate))))
