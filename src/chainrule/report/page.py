"""The whole page: one HTML file that needs nothing else, runs no script and loads nothing."""

from __future__ import annotations

import math

from chainrule.report.formats import SPACE, count, duration
from chainrule.report.markup import Child, Markup, element, fragment, shorten
from chainrule.report.outcome import calibration_section, errors_section, importances_section, metrics_section, name
from chainrule.report.process import (
    columns_section,
    configuration_section,
    learning_section,
    network_section,
    notices_section,
    steps_section,
    training_seconds,
)
from chainrule.report.record import Report
from chainrule.report.style import STYLE
from chainrule.report.verdict import as_number, metric_value, verdict, write_metric

# Should a name ever slip through unescaped, a browser still runs and fetches nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_TASKS = {
    "binary": "classification into two classes",
    "multiclass": "classification",
    "regression": "regression",
}


def render_report(report: Report) -> str:
    """``report`` as a self-contained HTML page.

    Works offline and without JavaScript, follows the light or dark setting of the reader, prints, and offers every
    chart as a table too. Parts of the report that are None or empty are left out; everything is escaped.
    """
    sections = (
        metrics_section,
        learning_section,
        steps_section,
        errors_section,
        calibration_section,
        importances_section,
        columns_section,
        network_section,
        configuration_section,
        notices_section,
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", shorten(report.title, 120)),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element("main", _header(report), (build(report) for build in sections)),
        element("footer", _environment(report)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _header(report: Report) -> Markup:
    task = _TASKS[report.task]
    if report.task == "multiclass" and report.classes:
        task += f" into {len(report.classes)} classes"
    about: list[Child] = ["Predicts ", name(report.target), f" – {task}"]
    if report.source:
        about += [" – from ", name(report.source)]
    if report.created:
        date = report.created[:10] if report.created[4:5] == "-" else report.created
        about += [" – ", element("time", date, datetime=shorten(report.created, 40))]
    judged = verdict(report)
    parts: list[Child] = [element("h1", name(report.title)), element("p", about, class_="about")]
    if judged is not None:
        parts.append(
            element(
                "p",
                judged.before,
                element("b", judged.figure),
                judged.after,
                class_="verdict poor" if judged.poor else "verdict",
            )
        )
        if judged.judgement:
            parts.append(element("p", judged.judgement, class_="judgement"))
    parts.append(_facts(report))
    if report.notices:
        number = len(report.notices)
        words = "There is one notice" if number == 1 else f"There are {count(number)} notices"
        parts.append(
            element(
                "p",
                f"{words} about the data or the run, ",
                element("a", "at the end", href="#notices"),
                ".",
                class_="pointer",
            )
        )
    return element("header", parts)


def _facts(report: Report) -> Markup | None:
    """The handful of numbers one looks up first."""
    facts: list[tuple[str, str]] = []
    key = {"binary": "roc_auc", "multiclass": "balanced_accuracy", "regression": "r2"}[report.task]
    value = metric_value(report.metrics, key)
    if math.isfinite(value):
        title = {"roc_auc": "Area under ROC", "balanced_accuracy": "Balanced accuracy", "r2": "R²"}[key]
        facts.append((title, write_metric(key, value)))
    for part in ("train", "validation", "test"):
        rows = as_number(report.rows.get(part))
        if math.isfinite(rows) and rows > 0:
            facts.append((f"{'Training' if part == 'train' else part.capitalize()} rows", count(rows)))
    sizes = [as_number(parameters) for _, _, parameters in report.network]
    if sizes:
        facts.append(("Parameters", count(sum(size for size in sizes if math.isfinite(size)))))
    if report.history:
        last = as_number(report.history[-1].get("epoch"))
        facts.append(("Epochs", count(last) if math.isfinite(last) else count(len(report.history))))
    seconds = training_seconds(report)
    if math.isfinite(seconds):
        facts.append(("Training time", duration(seconds)))
    if not facts:
        return None
    return element(
        "dl", (element("div", element("dt", term), element("dd", fact)) for term, fact in facts), class_="facts"
    )


def _environment(report: Report) -> Markup:
    versions = [f"{key}{SPACE}{value}" for key, value in report.environment.items()]
    written = fragment(
        " · ".join(shorten(version, 80) for version in versions) + ". " if versions else None,
        "Written by Chainrule; this page loads nothing and runs no script.",
    )
    return element("p", written)
