"""What the three commands that train have in common: progress, Ctrl-C, the verdict, JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from chainrule.cli.failures import EXIT_INTERRUPTED
from chainrule.cli.introduction import show_introduction
from chainrule.cli.outcome import run_as_json, show_importances, show_next_steps, show_scores, show_verdict
from chainrule.cli.progress import Progress
from chainrule.cli.terminal import Terminal, safe
from chainrule.core.names import shown_path
from chainrule.report import Report
from chainrule.report.formats import count, duration
from chainrule.tabular import Run
from chainrule.train import Callback


class Announcement(Callback):
    """Shows what was recognised in the table, when that is known and training is about to begin."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def on_plan(self, plan: Report) -> None:
        show_introduction(self.terminal, plan)


def run_training(terminal: Terminal, train: Callable[[Sequence[Callback]], Run], folder: Path) -> int:
    """Calls ``train`` with callbacks that show how it goes, tells what came of it, and returns the exit code."""
    progress = Progress(None if terminal.quiet else terminal.errors)
    try:
        run = train([Announcement(terminal), progress])
    except KeyboardInterrupt:
        if not folder.exists():
            raise
        raise KeyboardInterrupt(f"go on with: chainrule resume {shlex.quote(str(folder))}") from None
    finally:
        progress.close()
    report = run.report
    _show_training(terminal, progress, report)
    show_verdict(terminal, report)
    show_scores(terminal, report.metrics, report.baseline)
    show_importances(terminal, report)
    show_next_steps(terminal, run.folder)
    terminal.result(run_as_json(run.folder, report))
    if not progress.interrupted:
        return 0
    resume = f"chainrule resume {shlex.quote(str(run.folder))}"
    terminal.warn(
        f"training was interrupted; what it had learned by then is in {shown_path(run.folder)}, and {resume} goes on"
    )
    return EXIT_INTERRUPTED


def _show_training(terminal: Terminal, progress: Progress, report: Report) -> None:
    words = f"Trained {count(progress.epochs)} epoch{'s' * (progress.epochs != 1)} in {duration(progress.seconds)}"
    if report.stop_reason:
        words += f" ({report.stop_reason})"
    if report.best_epoch is not None:
        words += f"; kept the weights of epoch {count(report.best_epoch)}"
    terminal.say()
    terminal.say(safe(words) + ".")
    terminal.say()
