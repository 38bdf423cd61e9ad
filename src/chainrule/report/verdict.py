"""The result in plain words: what the network reached, what a constant answer would reach, what to make of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chainrule.metrics import describe_metric
from chainrule.report.formats import amount, count, percent, score
from chainrule.report.markup import shorten
from chainrule.report.record import Report
from chainrule.report.scatter import wilson_interval


@dataclass(frozen=True)
class Verdict:
    """A headline whose middle part, ``figure``, is set in bold, and a sentence that judges it.

    ``poor`` says that the network is no better than its baseline.
    """

    before: str
    figure: str
    after: str
    judgement: str = ""
    poor: bool = False


def verdict(report: Report) -> Verdict | None:
    """The verdict on the held-out rows, or None when there are no scores to speak of."""
    return _regression(report) if report.task == "regression" else _classification(report)


def metric_value(scores: Mapping[str, Any], name: str) -> float:
    """The score called ``name``, under that name or a usual short form of it; NaN when it is not there."""
    for key, value in scores.items():
        if describe_metric(key).name == name:
            return as_number(value)
    return math.nan


def as_number(value: Any) -> float:
    """A number from a report that somebody may have edited: NaN for anything else.

    Beyond 10^±100 a number counts as infinite or zero, so that what is computed for a drawing stays finite.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.nan
    if abs(value) > 1e100:
        return math.inf if value > 0 else -math.inf
    return 0.0 if abs(value) < 1e-100 else float(value)


def confusion_counts(report: Report) -> list[list[float]]:
    """The confusion matrix with nothing but counts in it; empty when there is none."""
    cells = [[as_number(value) for value in row] for row in report.confusion or ()]
    return [[value if math.isfinite(value) and value > 0.0 else 0.0 for value in row] for row in cells]


def write_metric(name: str, value: float) -> str:
    """A score as people write that metric."""
    form = describe_metric(name).form
    return (
        percent(value)
        if form == "percent"
        else score(value)
        if form == "score"
        else amount(value, 3 if abs(value) < 1 else 4)
    )


def held_out_rows(report: Report) -> int:
    """How many rows the scores are about; 0 when that is not recorded."""
    for part in ("test", "validation"):
        rows = as_number(report.rows.get(part, 0))
        if math.isfinite(rows) and rows > 0:
            return int(rows)
    if report.confusion:
        return int(sum(sum(row) for row in confusion_counts(report)))
    return len(report.residuals or ())


def _classification(report: Report) -> Verdict | None:
    reached, trivial = metric_value(report.metrics, "accuracy"), metric_value(report.baseline, "accuracy")
    if not math.isfinite(reached):
        return None
    rows = held_out_rows(report)
    headline = (
        f" of {count(rows)} held-out rows classified correctly" if rows else " of held-out rows classified correctly"
    )
    if math.isfinite(trivial):
        headline += f"; always answering {_constant_answer(report, trivial)} would reach {percent(trivial)}"
    poor = math.isfinite(trivial) and reached <= trivial
    return Verdict(
        "", percent(reached), headline + ".", _classification_judgement(report, reached, trivial, rows), poor
    )


def _classification_judgement(report: Report, reached: float, trivial: float, rows: int) -> str:
    if not math.isfinite(trivial):
        return ""
    if reached <= trivial:
        area = metric_value(report.metrics, "roc_auc")
        if area >= 0.65:
            return (
                "By this count the network is no better than a constant answer, yet it ranks the rows better than "
                f"chance (area under the ROC curve {score(area)}): another decision threshold, or class weights, may "
                "serve."
            )
        return (
            "The network is no better than a constant answer: the columns may say little about "
            f"“{shorten(report.target, 40)}”, or the training needs other settings."
        )
    if rows <= 0 or not _counts_rows(report, reached):
        return ""
    low, high = wilson_interval(reached, rows)
    between = f"between {percent(low)} and {percent(high)} (95{chr(160)}% interval)"
    if low > trivial:
        return f"With this many rows, the accuracy on new data of the same kind is likely {between}."
    return f"With so few rows this may be luck: the accuracy on new data of the same kind is likely {between}."


def _counts_rows(report: Report, reached: float) -> bool:
    """Whether the accuracy is a plain share of rows; with sample weights an interval for a share would be wrong."""
    matrix = confusion_counts(report)
    right, whole = sum(row[place] for place, row in enumerate(matrix)), sum(sum(row) for row in matrix)
    return whole > 0 and abs(right / whole - reached) < 1e-6 and whole == round(whole)


def _constant_answer(report: Report, trivial: float) -> str:
    answer = report.baseline_answer
    if answer is None and report.confusion and len(report.classes) == len(report.confusion):
        totals = [sum(row) for row in confusion_counts(report)]
        shares = [total / (sum(totals) or 1.0) for total in totals]
        nearest = min(range(len(shares)), key=lambda place: abs(shares[place] - trivial))
        if abs(shares[nearest] - trivial) < 1e-6:
            answer = report.classes[nearest]
    return "the most frequent class" if answer is None else f"“{shorten(str(answer), 40)}”"


def _regression(report: Report) -> Verdict | None:
    missed, trivial = (metric_value(scores, "mean_absolute_error") for scores in (report.metrics, report.baseline))
    if not math.isfinite(missed):
        return None
    rows = held_out_rows(report)
    before = f"Predictions of “{shorten(report.target, 40)}” are off by "
    headline = f" on average over {count(rows)} held-out rows" if rows else " on average over the held-out rows"
    if math.isfinite(trivial):
        answer = as_number(report.baseline_answer)
        constant = f"{amount(answer)}" if math.isfinite(answer) else "the mean of the training part"
        headline += f"; always answering {constant} would be off by {amount(trivial)}"
    explained = metric_value(report.metrics, "r2")
    poor = math.isfinite(trivial) and missed >= trivial
    if poor:
        judgement = (
            "The network is no better than a constant answer: the columns may say little about the target, or the "
            "training needs other settings."
        )
    elif explained > 0:
        judgement = f"The network explains {percent(explained, 0)} of the target’s variance (R² {score(explained)})."
    else:
        judgement = ""
    return Verdict(before, amount(missed), headline + ".", judgement, poor)
