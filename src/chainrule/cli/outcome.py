"""What is said after training or evaluating: the verdict in words, the scores, and what to type next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chainrule.cli.terminal import Terminal, in_sentence, joined, listing, safe
from chainrule.metrics import describe_metric
from chainrule.report import Report
from chainrule.report.formats import amount, count, duration
from chainrule.report.markup import shorten
from chainrule.report.verdict import as_number, verdict, write_metric
from chainrule.tabular import Evaluation, Run

_MOST_IMPORTANCES = 5
_LONGEST_NAME = 40
_ROWS_OF = {"test": "held-out rows", "validation": "validation rows", "train": "training rows"}


def show_training(terminal: Terminal, run: Run) -> None:
    """How long it took, why it ended, and which weights were kept."""
    epochs = len(run.history)
    words = f"Trained {count(epochs)} epoch{'s' * (epochs != 1)} in {duration(run.seconds)}"
    if run.history.stop_reason:
        words += f" ({run.history.stop_reason.replace('val_loss', 'the validation loss')})"
    if run.history.best_epoch is not None:
        words += f"; kept the weights of epoch {count(run.history.best_epoch)}"
    terminal.say(words + ".")
    if run.history.engine:
        terminal.say(f"The {run.history.engine} engine ran the steps: {run.history.engine_reason}.")
    terminal.say()


def show_run(terminal: Terminal, run: Run) -> None:
    """The scores of a run that has been evaluated, where everything is, and commands to copy."""
    if run.evaluation is None:
        return
    show_evaluation(terminal, run.evaluation)
    shown = shlex.quote(str(run.folder))
    terminal.say()
    terminal.line(("Report   ", "bold"), str(run.folder / "report.html"))
    terminal.line(("Run      ", "bold"), str(run.folder))
    terminal.line(("Next     ", "bold"), (f"chainrule predict {shown} NEW.csv -o predictions.csv", "cyan"))
    terminal.line((f"chainrule evaluate {shown} NEW.csv", "cyan"), indent=9)


def show_evaluation(terminal: Terminal, evaluation: Evaluation) -> None:
    """The verdict, the scores, and the columns that matter most."""
    report = evaluation_report(evaluation)
    show_verdict(terminal, report, evaluation.part)
    show_scores(terminal, report.metrics, report.baseline)
    show_positive_class(terminal, report)
    show_importances(terminal, report)


def show_verdict(terminal: Terminal, report: Report, part: str = "test") -> None:
    """How good the network is, beside an answer that looks at nothing; ``part`` says which rows this was judged by."""
    found = verdict(report)
    if found is None:
        return
    after = found.after.replace("held-out rows", _ROWS_OF.get(part, "rows"), 1)
    terminal.say(joined(found.before, (found.figure, "bold red" if found.poor else "bold green"), after))
    if found.judgement and part != "train":  # scores of rows that were learned say nothing about others
        terminal.say(found.judgement)


def show_scores(terminal: Terminal, metrics: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    """The scores as a table, with the baseline's where there are any."""
    if not metrics:
        return
    head = ["Score", "Network", *(["Baseline"] if baseline else []), ""]
    table = listing(head, numeric=range(1, len(head) - 1), wrapped=(0, len(head) - 1))
    for name, value in metrics.items():
        metric = describe_metric(name)
        cells = [metric.title, write_metric(name, as_number(value))]
        if baseline:
            cells.append(write_metric(name, as_number(baseline.get(name, math.nan))))
        table.add_row(*(safe(cell) for cell in cells), f"{metric.better} is better")
    terminal.say()
    terminal.table(table)


def show_positive_class(terminal: Terminal, report: Report) -> None:
    """Which of two classes precision, recall and F1 are about."""
    if report.task == "binary" and len(report.classes) == 2 and "precision" in report.metrics:
        terminal.say(f"Precision, recall and F1 are about “{shorten(report.classes[1], _LONGEST_NAME)}”.", indent=2)


def show_importances(terminal: Terminal, report: Report) -> None:
    """The columns on which the predictions depend most."""
    found = [(str(name), as_number(mean), as_number(deviation)) for name, mean, deviation in report.importances]
    entries = [(name, mean) for name, mean, deviation in found if mean > max(deviation, 0.0)]
    entries = sorted(entries, key=lambda entry: -entry[1])[:_MOST_IMPORTANCES]
    if not entries:
        return
    metric = describe_metric(report.importance_score) if report.importance_score else None
    falls = "rises" if metric and metric.better == "lower" else "falls"
    what = in_sentence(metric.title) if metric else "score"
    listed = ", ".join(f"{shorten(name, _LONGEST_NAME)} ({amount(mean, 2)})" for name, mean in entries)
    terminal.say()
    terminal.say(f"Most important columns, by how much the {what} {falls} when they are shuffled: {listed}.")


def evaluation_report(evaluation: Evaluation) -> Report:
    """The part of a report that an evaluation fills."""
    return Report(
        title=evaluation.target,
        task=evaluation.task,
        target=evaluation.target,
        classes=evaluation.classes,
        rows={"test": evaluation.rows},
        metrics=evaluation.metrics,
        baseline=evaluation.baseline,
        baseline_answer=evaluation.baseline_answer,
        confusion=evaluation.confusion,
        importances=evaluation.importances,
        importance_score=evaluation.importance_score,
    )


def evaluation_as_json(folder: Path, evaluation: Evaluation) -> dict[str, Any]:
    """What ``--json`` says about scores."""
    return {
        "run": str(folder),
        "task": evaluation.task,
        "target": evaluation.target,
        "classes": list(evaluation.classes),
        "source": evaluation.source,
        "part": evaluation.part,
        "rows": evaluation.rows,
        "metrics": evaluation.metrics,
        "baseline": evaluation.baseline,
        "baseline_answer": evaluation.baseline_answer,
        "confusion": evaluation.confusion,
        "importance_score": evaluation.importance_score,
        "importances": [{"column": name, "mean": mean, "std": std} for name, mean, std in evaluation.importances],
        "notices": list(evaluation.notices),
    }


def run_as_json(run: Run) -> dict[str, Any]:
    """What ``--json`` says about a run: the same, and how it came about."""
    scores = {} if run.evaluation is None else evaluation_as_json(run.folder, run.evaluation)
    return {
        **scores,
        "run": str(run.folder),
        "status": run.status,
        "task": run.target.task,
        "target": run.target.name,
        "source": run.record.data.source,
        "parts": run.rows,
        "epochs": len(run.history),
        "best_epoch": run.history.best_epoch,
        "stop_reason": run.history.stop_reason,
        "seconds": run.seconds,
        "plan": run.plan.to_json(),
        "settings": run.settings.changed(),
        "notices": list(run.notices),
        "report": str(run.folder / "report.html"),
    }
