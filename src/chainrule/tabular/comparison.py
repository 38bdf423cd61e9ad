"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule.tabular.plan import make_network
from chainrule.tabular.reporting import parameters
from chainrule.tabular.run_folder import Run


@dataclass(frozen=True)
class RunSummary:
    """A run in the numbers that people compare. ``settings`` are those that differ from the defaults."""

    name: str
    folder: Path
    status: str
    created: str
    source: str
    target: str
    task: str
    rows: dict[str, int]
    epochs: int
    best_epoch: int | None
    stop_reason: str | None
    seconds: float
    parameters: int
    network: str
    part: str
    metrics: dict[str, float]
    baseline: dict[str, float]
    settings: dict[str, Any]


def compare_runs(folders: Iterable[Path | str]) -> list[RunSummary]:
    """A summary of every run, in the order given; raises RunError for a folder that is no run."""
    return [_summarise(Run.read(folder)) for folder in folders]


def _summarise(run: Run) -> RunSummary:
    evaluation = run.evaluation
    return RunSummary(
        name=run.folder.resolve().name,
        folder=run.folder,
        status=run.status,
        created=run.created,
        source=run.record.data.source,
        target=run.target.name,
        task=run.target.task,
        rows=run.rows,
        epochs=len(run.history),
        best_epoch=run.history.best_epoch,
        stop_reason=run.history.stop_reason,
        seconds=run.seconds,
        parameters=parameters(make_network(run.plan)),
        network=run.plan.describe(),
        part="" if evaluation is None else evaluation.part,
        metrics={} if evaluation is None else dict(evaluation.metrics),
        baseline={} if evaluation is None else dict(evaluation.baseline),
        settings={name: value for name, value in run.settings.changed().items() if name != "target"},
    )
