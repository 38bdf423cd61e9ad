"""Progress on made-up events: what is drawn, how often, and the times that are promised."""

from __future__ import annotations

import io
import math
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from chainrule.cli.pace import Pace
from chainrule.cli.progress import Progress
from chainrule.cli.terminal import open_console
from chainrule.train import BatchEvent, EpochRecord, Trainer

BATCHES = 10
BATCH_SIZE = 32
EXAMPLES = BATCHES * BATCH_SIZE


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at_batch(epoch: int, batch: int, epochs: int = 20, loss: float = 0.5) -> BatchEvent:
    step = (epoch - 1) * BATCHES + batch
    return BatchEvent(epoch, epochs, batch, BATCHES, step, loss, batch * BATCH_SIZE, EXAMPLES, 0.0)


def at_epoch(epoch: int, **values: float) -> EpochRecord:
    norms = {"learning_rate": 0.01, "seconds": 1.0, "gradient_norm": 2.0, "gradient_norms": {"layers.0": 2.0}}
    return EpochRecord({"epoch": epoch, "loss": 0.25, **norms, **values})


def a_trainer(best_epoch: int | None = None, stop_reason: str | None = None) -> Trainer:
    return cast(Trainer, SimpleNamespace(history=SimpleNamespace(best_epoch=best_epoch, stop_reason=stop_reason)))


def train(
    progress: Progress, clock: Clock, trainer: Trainer, epochs: range, seconds_per_batch: float, **values: float
) -> None:
    for epoch in epochs:
        for batch in range(1, BATCHES + 1):
            clock.now += seconds_per_batch
            progress.on_progress(trainer, at_batch(epoch, batch))
        progress.on_epoch_end(trainer, at_epoch(epoch, **values))


# --- pace -------------------------------------------------------------------------------------------------------------


def test_nothing_is_promised_before_the_first_batch() -> None:
    pace = Pace(0.0)
    assert math.isnan(pace.rate())
    assert math.isnan(pace.seconds_left(5.0))


def test_within_the_first_epoch_the_batches_tell_the_pace() -> None:
    pace = Pace(0.0)
    pace.after_steps(at_batch(1, 1, epochs=2), 3.0)
    assert pace.seconds_left(3.0) == pytest.approx(3.0 * (2 * BATCHES - 1))
    assert pace.rate() == pytest.approx(BATCH_SIZE / 3.0)


def test_the_time_between_epochs_counts() -> None:
    """Validation takes time too, though no batch event falls into it."""
    pace = Pace(0.0)
    for batch in range(1, BATCHES + 1):
        pace.after_steps(at_batch(1, batch, epochs=5), 0.1 * batch)
    pace.after_epoch(4.0)
    pace.after_steps(at_batch(2, 5, epochs=5), 4.5)
    assert pace.seconds_per_epoch(4.5) == pytest.approx(4.0)
    assert pace.seconds_left(4.5) == pytest.approx(4.0 * 3.5)


def test_a_resumed_training_does_not_claim_what_was_done_before() -> None:
    pace = Pace(0.0)
    pace.after_steps(at_batch(15, 3, epochs=20), 2.0)
    pace.after_steps(at_batch(15, 4, epochs=20), 4.0)
    assert pace.rate() == pytest.approx(BATCH_SIZE / 2.0)
    assert pace.seconds_per_epoch(4.0) == pytest.approx(2.0 * BATCHES)
    assert pace.seconds_left(4.0) == pytest.approx(2.0 * (5 * BATCHES + 6))


def test_the_rate_follows_the_last_seconds() -> None:
    pace = Pace(0.0)
    now = 0.0
    for batch in range(1, BATCHES + 1):
        pace.after_steps(at_batch(1, batch), now := now + 1.0)
    for epoch in range(2, 12):
        for batch in range(1, BATCHES + 1):
            pace.after_steps(at_batch(epoch, batch), now := now + 0.1)
    assert pace.rate() == pytest.approx(BATCH_SIZE / 0.1, rel=1e-6)


# --- without a terminal -----------------------------------------------------------------------------------------------


def test_plain_lines_come_at_most_every_few_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(open_console(stream), patience=5, clock=clock)
    trainer = a_trainer(best_epoch=1)
    progress.on_train_begin(trainer)
    train(progress, clock, trainer, range(1, 11), 0.1, val_loss=0.5, val_accuracy=0.975)
    progress.on_train_end(trainer)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "epoch 1/20: loss 0.2500, validation loss 0.5000, the best so far, 320 examples/s, 1.0 s so far, at most 19.0 s left",
        "epoch 4/20: loss 0.2500, validation loss 0.5000, best so far: epoch 1, 320 examples/s, 4.0 s so far, at most 16.0 s left",
        "epoch 7/20: loss 0.2500, validation loss 0.5000, best so far: epoch 1, 320 examples/s, 7.0 s so far, at most 13.0 s left",
        "epoch 10/20: loss 0.2500, validation loss 0.5000, best so far: epoch 1, 320 examples/s, 10.0 s so far, at most 10.0 s left",
    ]
    assert progress.epochs == 10


def test_metrics_are_the_validation_ones_where_there_are() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(open_console(stream), clock=clock)
    progress.on_train_begin(a_trainer())
    progress.on_progress(a_trainer(), at_batch(1, 1))
    progress.on_epoch_end(a_trainer(), at_epoch(1, val_loss=0.5, accuracy=0.9, val_accuracy=0.8, r2=0.3))
    words = stream.getvalue()
    assert "loss 0.2500, validation loss 0.5000, validation accuracy 80.0 %, R² 0.300" in words
    assert "learning" not in words
    assert "gradient" not in words


def test_without_early_stopping_the_time_left_is_no_bound() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(open_console(stream), clock=clock)
    progress.on_train_begin(a_trainer())
    train(progress, clock, a_trainer(), range(1, 2), 0.1)
    assert "about 19.0 s left" in stream.getvalue()


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream, clock = Screen(), Clock()
    progress = Progress(Console(file=stream, force_terminal=True, no_color=True), clock=clock)
    progress.on_train_begin(a_trainer())
    train(progress, clock, a_trainer(), range(1, 3), 0.1)
    progress.on_train_end(a_trainer())
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().startswith("epoch 1/20: loss 0.2500")


def test_nothing_is_drawn_without_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    progress, clock = Progress(None), Clock()
    progress.on_train_begin(a_trainer())
    train(progress, clock, a_trainer(), range(1, 3), 0.1)
    progress.on_train_end(a_trainer(stop_reason="interrupted"))
    assert capsys.readouterr() == ("", "")
    assert progress.interrupted


# --- on a terminal ----------------------------------------------------------------------------------------------------


def a_screen(width: int = 80) -> tuple[Console, io.StringIO]:
    stream = Screen()
    return Console(file=stream, force_terminal=True, width=width, no_color=True, legacy_windows=False), stream


def frames(stream: io.StringIO) -> list[str]:
    """What was drawn, one text a drawing: between them the cursor goes back to the beginning of the lines."""
    drawn = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", stream.getvalue()).split("\r")
    return [frame.strip("\n") for frame in drawn if "epoch" in frame]


def test_the_screen_shows_where_training_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console, stream = a_screen()
    clock = Clock()
    progress = Progress(console, patience=7, clock=clock)
    trainer = a_trainer(best_epoch=2)
    progress.on_train_begin(trainer)
    train(progress, clock, trainer, range(1, 4), 0.5, val_loss=0.5)
    clock.now += 1.0
    progress.on_progress(trainer, at_batch(4, 5))
    shown = frames(stream)[-1].splitlines()
    progress.on_train_end(trainer)
    assert shown[0].startswith("epoch 4 of at most 20  ━━━")
    assert shown[0].rstrip().endswith("18 %")
    assert shown[1].startswith("batch 5 of 10          ━━━")
    assert shown[1].rstrip().endswith("50 %")
    assert shown[2] == "loss 0.2500 · validation loss 0.5000"
    assert shown[3] == "best so far: epoch 2; stops after 6 more epochs without a better one"
    assert shown[4].endswith(" examples/s · 16.0 s so far · at most 1 min 22 s left")
    assert all(len(line.rstrip()) <= 80 for line in shown)


def test_fast_epochs_have_no_bar_for_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console, stream = a_screen()
    clock = Clock()
    progress = Progress(console, clock=clock)
    progress.on_train_begin(a_trainer())
    train(progress, clock, a_trainer(), range(1, 5), 0.02)
    assert len(frames(stream)) > 3
    assert not any("batch" in frame for frame in frames(stream))
    progress.close()


def test_the_screen_is_not_drawn_for_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console, stream = a_screen()
    clock = Clock()
    progress = Progress(console, clock=clock)
    progress.on_train_begin(a_trainer())
    train(progress, clock, a_trainer(), range(1, 11), 0.001)
    assert 1 <= len(frames(stream)) <= 2
    progress.close()


@pytest.mark.parametrize("terminal", [True, False])
def test_training_goes_on_when_the_output_is_closed(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    class Closed(io.StringIO):
        broken = False

        def isatty(self) -> bool:
            return terminal

        def write(self, text: str) -> int:
            if self.broken:
                raise BrokenPipeError
            return super().write(text)

    stream, clock = Closed(), Clock()
    console = open_console(stream)
    progress = Progress(console, clock=clock)
    progress.on_train_begin(a_trainer())
    train(progress, clock, a_trainer(), range(1, 2), 0.1)
    stream.broken = True
    train(progress, clock, a_trainer(), range(2, 10), 1.0)
    progress.on_train_end(a_trainer(stop_reason="all epochs are done"))
    assert progress.console is None
    assert progress.epochs == 9


def test_what_comes_before_and_after_training_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    console, stream = a_screen()
    progress, clock = Progress(console), Clock()
    progress.phase("reading the table …")
    progress.close()
    progress.on_train_begin(a_trainer())
    train(progress, clock, a_trainer(), range(1, 2), 0.1)
    progress.on_train_end(a_trainer(stop_reason="all epochs are done"))
    drawn = stream.getvalue()
    assert drawn.index("reading the table …") < drawn.index("epoch 1 of 20") < drawn.index("scoring the held-out rows")
    progress.close()
    assert stream.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is shown, and the line is gone


def test_a_second_training_starts_afresh() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(open_console(stream), clock=clock)
    for _ in range(2):
        progress.on_train_begin(a_trainer())
        train(progress, clock, a_trainer(), range(1, 2), 0.1)
        progress.on_train_end(a_trainer())
    assert [line.split(":")[0] for line in stream.getvalue().splitlines()] == ["epoch 1/20"] * 2
    assert stream.getvalue().count("1.0 s so far") == 2


def test_a_progress_leaves_nothing_in_a_checkpoint() -> None:
    progress: Any = Progress(None)
    assert progress.state() == {}
    assert progress.arrays() == {}
