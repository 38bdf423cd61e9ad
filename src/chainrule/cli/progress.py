"""How far training has come: bars that are redrawn on a terminal, a line now and then everywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chainrule.cli.pace import Pace, epochs_done
from chainrule.cli.terminal import in_sentence, is_seen, safe
from chainrule.metrics import describe_metric
from chainrule.report.formats import amount, count, duration
from chainrule.report.verdict import write_metric
from chainrule.train import BatchEvent, Callback, EpochRecord, StepTrainer

_SECONDS_BETWEEN_DRAWINGS = 0.1
_SECONDS_BETWEEN_LINES = 3.0
_SLOW_EPOCH = 1.0  # seconds; only then is the place inside an epoch worth a bar of its own
_BAR_WIDTH = 40
_NOT_SCORES = frozenset({"epoch", "learning_rate", "seconds", "gradient_norm", "gradient_norms"})


class Progress(Callback):
    """Shows training as it goes on, and never stops it: when the output is closed, training goes on unseen.

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
        self.pace = Pace(clock())
        self.epochs = 0
        self.stop_reason: str | None = None
        self._live: Live | None = None
        self._event: BatchEvent | None = None
        self._record: EpochRecord | None = None
        self._shown = -math.inf

    @property
    def interrupted(self) -> bool:
        """Whether training was ended by Ctrl-C."""
        return self.stop_reason == "interrupted"

    @property
    def begun(self) -> bool:
        """Whether there has been a step."""
        return self._event is not None

    def on_train_begin(self, trainer: StepTrainer) -> None:
        self.pace = Pace(self.clock())
        self._event, self._record, self._shown = None, None, -math.inf
        self._open()

    def on_progress(self, trainer: StepTrainer, event: BatchEvent) -> None:
        self._event = event
        now = self.clock()
        self.pace.after_steps(event, now)
        if self._live is not None and now - self._shown >= _SECONDS_BETWEEN_DRAWINGS:
            self._shown = now
            self._draw(self._live, trainer, event, now)

    def on_epoch_end(self, trainer: StepTrainer, record: EpochRecord) -> None:
        now = self.clock()
        self.pace.after_epoch(now)
        self.epochs = int(record["epoch"])
        self._record = record
        console = self.console
        if console is not None and self._live is None and now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            line = Text(self._line(trainer, record, now))
            self._try(lambda: console.print(line, soft_wrap=True))

    def on_train_end(self, trainer: StepTrainer) -> None:
        self.stop_reason = trainer.history.stop_reason
        self.phase("scoring the held-out rows and writing the report …")

    def phase(self, words: str) -> None:
        """Says on a terminal what is being done before or after training, until the next thing is shown."""
        self._open()
        live = self._live
        if live is not None:
            self._try(lambda: live.update(Text(safe(words), no_wrap=True, overflow="ellipsis"), refresh=True))

    def close(self) -> None:
        """Takes the bars off the terminal: needed before anything else is written, whatever happened."""
        if self._live is not None:
            self._try(self._live.stop)
            self._live = None

    def _open(self) -> None:
        if self._live is None and self.console is not None and _can_redraw(self.console):
            self._live = Live(
                console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._try(self._live.start)

    def _try(self, show: Callable[[], object]) -> None:
        try:
            show()
        except OSError:
            self.console = self._live = None

    # --- what is shown ---

    def _draw(self, live: Live, trainer: StepTrainer, event: BatchEvent, now: float) -> None:
        texts = [self._scores_so_far(event), *self._best(trainer), " · ".join(self._times(now))]
        shown = Group(self._bars(event, now), *(Text(text, no_wrap=True, overflow="ellipsis") for text in texts))
        self._try(lambda: live.update(shown, refresh=True))

    def _bars(self, event: BatchEvent, now: float) -> Table:
        most = "at most " if self.patience is not None else ""
        bars = [(f"epoch {event.epoch} of {most}{event.epochs}", epochs_done(event), event.epochs)]
        if self.pace.seconds_per_epoch(now) > _SLOW_EPOCH:
            bars.append((f"batch {event.batch} of {event.batches}", event.batch, event.batches))
        table = Table.grid(padding=(0, 2, 0, 0))
        for label, done, total in bars:
            bar = ProgressBar(total=total, completed=done, width=_BAR_WIDTH)
            table.add_row(label, bar, f"{100 * done / total:.0f} %")
        return table

    def _scores_so_far(self, event: BatchEvent) -> str:
        return f"loss {safe(amount(event.loss))}" if self._record is None else " · ".join(_scores(self._record))

    def _best(self, trainer: StepTrainer) -> list[str]:
        best = trainer.history.best_epoch
        if best is None or self._record is None:
            return []
        words = f"best so far: epoch {best}"
        if self.patience is not None:
            left = max(self.patience - (int(self._record["epoch"]) - best), 0)
            words += f"; stops after {left} more epoch{'s' * (left != 1)} without a better one"
        return [words]

    def _line(self, trainer: StepTrainer, record: EpochRecord, now: float) -> str:
        epochs = f"/{self._event.epochs}" if self._event is not None else ""
        best = trainer.history.best_epoch
        mark = [] if best is None else ["the best so far" if best == record["epoch"] else f"best so far: epoch {best}"]
        return ", ".join(
            [f"epoch {record['epoch']}{epochs}: {_scores(record)[0]}", *_scores(record)[1:], *mark, *self._times(now)]
        )

    def _times(self, now: float) -> list[str]:
        words = [f"{duration(now - self.pace.began)} so far"]
        if math.isfinite(left := self.pace.seconds_left(now)) and left > 0:
            words.append(f"{'at most' if self.patience is not None else 'about'} {duration(left)} left")
        if math.isfinite(rate := self.pace.rate()):
            words.insert(0, f"{_rounded(rate)} examples/s")
        return [safe(word) for word in words]


def _can_redraw(console: Console) -> bool:
    return is_seen(console) and console.is_terminal and not console.is_dumb_terminal


def _scores(record: Mapping[str, Any]) -> list[str]:
    """The losses first, then the metrics on the validation part, or on the training part where there is no other."""
    values = {name: value for name, value in record.items() if name not in _NOT_SCORES}
    metrics = [name for name in values if name.removeprefix("val_") != "loss" and not name.startswith("val_")]
    names: list[str] = [name for name in ("loss", "val_loss") if name in values]
    names += [f"val_{name}" if f"val_{name}" in values else name for name in metrics]
    return [safe(f"{_title(name)} {_written(name, float(values[name]))}") for name in names]


def _title(name: str) -> str:
    plain = name.removeprefix("val_")
    title = in_sentence(describe_metric(plain).title)
    return title if name == plain else f"validation {title}"


def _written(name: str, value: float) -> str:
    return amount(value) if name.endswith("loss") else write_metric(name.removeprefix("val_"), value)


def _rounded(rate: float) -> str:
    """Two significant digits; more would flicker."""
    return amount(rate, 2) if rate < 10 else count(round(rate, 1 - math.floor(math.log10(rate))))
