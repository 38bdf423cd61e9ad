"""``chainrule show``: one run in full, or several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from chainrule import tabular
from chainrule.cli.introduction import show_introduction
from chainrule.cli.options import json_option
from chainrule.cli.outcome import run_as_json, show_run, show_training
from chainrule.cli.terminal import Terminal, in_sentence, listing, safe
from chainrule.core.errors import DataError, RunError
from chainrule.core.files import reason
from chainrule.core.names import shown_path
from chainrule.metrics import describe_metric
from chainrule.report import Report
from chainrule.report.formats import DASH, count, duration, setting
from chainrule.report.markup import shorten
from chainrule.report.verdict import as_number, write_metric
from chainrule.tabular import Run, RunSummary

_LONGEST_NAME = 30
_ROOM_FOR_SETTINGS = 110
_COMPARED = {
    "binary": ("accuracy", "f1", "roc_auc", "log_loss"),
    "multiclass": ("accuracy", "f1_macro", "roc_auc", "log_loss"),
    "regression": ("mean_absolute_error", "root_mean_squared_error", "r2"),
}
_SHORT_TITLES = {
    "f1_macro": "F1 (mean)",
    "roc_auc": "AUC",
    "mean_absolute_error": "MAE",
    "root_mean_squared_error": "RMSE",
}
_STATUS_WORDS = {
    "training": "not finished; to go on: chainrule resume",
    "interrupted": "interrupted; to go on: chainrule resume",
    "diverged": "stopped at a value that is not finite",
}
_EPILOG = """
\b
Examples:
  chainrule show runs/patients
  chainrule show runs/*
  chainrule show runs/patients runs/patients-2 --json
"""


@click.command(epilog=_EPILOG)
@click.argument("runs", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1, required=True)
@json_option
def show(runs: tuple[Path, ...], as_json: bool) -> None:
    """Show the run in a folder, or compare several.

    One run is shown as it was when its training ended. Several are compared in a table for each target, the best score
    of each kind marked with a star.
    """
    terminal = Terminal(json=as_json)
    if len(runs) == 1:
        _show_one(terminal, Run.read(runs[0]))
    else:
        _compare(terminal, tabular.compare_runs(runs))


def _show_one(terminal: Terminal, run: Run) -> None:
    facts = [("Run", str(run.folder)), ("Data", run.record.data.source), ("Created", _written_time(run.created))]
    if run.status in _STATUS_WORDS:
        folder = f" {run.folder}" if run.status != "diverged" else ""
        facts.append(("Status", _STATUS_WORDS[run.status] + folder))
    if run.record.problem:
        facts.append(("Problem", run.record.problem))
    terminal.facts(facts)
    terminal.say()
    report = _read_report(run.folder)
    if report is not None:
        show_introduction(terminal, report)
    if run.history.records:
        show_training(terminal, run)
    show_run(terminal, run)
    terminal.result(run_as_json(run))


def _written_time(iso: str) -> str:
    return iso.replace("T", " ").replace("+00:00", " UTC")


def _read_report(folder: Path) -> Report | None:
    """The report of a run, or None while it has none."""
    path = folder / "report.json"
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"cannot read {shown_path(path)}: {reason(error)}") from error
    except (UnicodeDecodeError, DataError) as error:
        raise RunError(f"{shown_path(path)} is damaged: {error}") from error


def _compare(terminal: Terminal, runs: Sequence[RunSummary]) -> None:
    groups: dict[tuple[str, str], list[RunSummary]] = {}
    for run in runs:
        groups.setdefault((run.task, run.target), []).append(run)
    for place, ((task, target), members) in enumerate(groups.items()):
        if place:
            terminal.say()
        terminal.say(f"{task} of “{shorten(target, _LONGEST_NAME)}”", style="bold")
        _show_group(terminal, _COMPARED[task], members)
    terminal.result({"runs": [{**asdict(run), "folder": str(run.folder)} for run in runs]})


def _show_group(terminal: Terminal, metrics: Sequence[str], runs: Sequence[RunSummary]) -> None:
    best = {name: _best(name, [run.metrics for run in runs]) for name in metrics}
    titles = [_SHORT_TITLES.get(name, describe_metric(name).title) for name in metrics]
    # Settings may be long: behind the scores only where there is room for them.
    beside = terminal.people.width >= _ROOM_FOR_SETTINGS
    head = ["Run", *titles, "Epochs", "Time", *(["Settings"] if beside else [])]
    table = listing(head, numeric=range(1, len(titles) + 3), wrapped=[len(titles) + 3])
    for run in runs:
        scores = [_score(name, as_number(run.metrics.get(name)), best[name]) for name in metrics]
        name = shorten(safe(run.folder), _LONGEST_NAME)
        settings = [safe(_settings(run))] if beside else []
        table.add_row(name, *scores, count(run.epochs), safe(duration(run.seconds)), *settings)
    baseline = runs[0].baseline
    same_rows = all(dict(run.baseline) == dict(baseline) for run in runs)
    if baseline and same_rows:
        scores = [_score(name, as_number(baseline.get(name)), math.nan) for name in metrics]
        table.add_row("constant answer", *scores, style="dim")
    terminal.table(table)
    if not same_rows:
        terminal.say("Not all were scored on the same rows, so small differences say little.", indent=2)
    if not beside:
        terminal.say()
        terminal.facts((shorten(str(run.folder), _LONGEST_NAME), _settings(run)) for run in runs)


def _score(name: str, value: float, best: float) -> str:
    if not math.isfinite(value):
        return DASH
    return safe(write_metric(name, value)) + (" *" if value == best else "  ")


def _best(name: str, scores: Sequence[Mapping[str, Any]]) -> float:
    """The best of at least two scores; NaN where there are not as many, or all are equal."""
    values = [value for entry in scores if math.isfinite(value := as_number(entry.get(name)))]
    if len(set(values)) < 2:
        return math.nan
    return max(values) if describe_metric(name).better == "higher" else min(values)


def _settings(run: RunSummary) -> str:
    changed = [f"{in_sentence(name.replace('_', ' '))} {setting(value)}" for name, value in run.settings.items()]
    status = [] if run.status == "finished" else [run.status]
    return ", ".join([*status, *changed]) or "defaults"
