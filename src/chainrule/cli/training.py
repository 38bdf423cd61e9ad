"""What the three commands that train have in common: the introduction, progress, Ctrl-C, the verdict, JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from chainrule.cli.failures import EXIT_INTERRUPTED
from chainrule.cli.introduction import show_introduction
from chainrule.cli.outcome import run_as_json, show_run, show_training
from chainrule.cli.progress import Progress
from chainrule.cli.terminal import Terminal
from chainrule.core.errors import NonFiniteError
from chainrule.core.notices import shown_by
from chainrule.tabular import Preparation, Run
from chainrule.train import Callback


class Training(Protocol):
    """A call of the library with everything but what watches it."""

    def __call__(
        self, *, callbacks: list[Callback], on_prepared: Callable[[Preparation], object], notices: list[str]
    ) -> Run: ...


def run_training(terminal: Terminal, train: Training, folder: Path) -> int:
    """Calls ``train``, shows how it goes, tells what came of it in ``folder``, and returns the exit code."""
    progress = Progress(None if terminal.quiet else terminal.errors)
    terminal.may_close = True  # what is learned counts, not what is said about it
    notices: list[str] = []
    told: list[str] = []

    def on_prepared(preparation: Preparation) -> None:
        progress.close()
        plan = preparation.plan
        progress.patience = plan.patience if plan.patience and preparation.rows.get("validation") else None
        show_introduction(terminal, preparation.report)
        told.extend(notices)

    resume = f"chainrule resume {shlex.quote(str(folder))}"
    try:
        progress.phase("reading the table …")
        with shown_by(terminal.warn):
            run = train(callbacks=[progress], on_prepared=on_prepared, notices=notices)
    except BaseException as error:
        progress.close()
        notes = getattr(error, "__notes__", [])  # of a run that did not take the place of another
        if not notes and isinstance(error, KeyboardInterrupt) and progress.begun:
            notes = [f"to go on where training stopped: {resume}"]
        elif not notes and isinstance(error, NonFiniteError):
            notes = [f"the last good weights and the report are in {folder}"]
        for note in notes:
            terminal.warn(note)
        raise
    finally:
        progress.close()
    _show_outcome(terminal, run, progress, [notice for notice in notices if notice not in told])
    terminal.result(run_as_json(run))
    if progress.interrupted:
        terminal.warn(f"training was interrupted; what was learned by then is kept, and to go on: {resume}")
        return EXIT_INTERRUPTED
    if terminal.closed:
        raise BrokenPipeError
    return 0


def _show_outcome(terminal: Terminal, run: Run, progress: Progress, notices: list[str]) -> None:
    if progress.begun:
        show_training(terminal, run)
    for notice in notices:
        terminal.warn(notice)
    show_run(terminal, run)
