"""The sections on what the network can do: scores, errors, calibration, importances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from chainrule.metrics import class_scores_from_confusion, describe_metric
from chainrule.report.bars import Bar, bar_chart
from chainrule.report.formats import DASH, amount, count, percent, score
from chainrule.report.markup import Child, Markup, element, fragment, shorten
from chainrule.report.matrix import confusion_chart
from chainrule.report.record import Report
from chainrule.report.scatter import agreement_chart, calibration_chart, finite_points, residual_chart
from chainrule.report.verdict import as_number, confusion_counts, held_out_rows, metric_value, write_metric

_MOST_BARS = 15
_MOST_CLASSES_DRAWN = 40
_LONGEST_NAME = 120


def section(heading: str, *children: Child, anchor: str) -> Markup:
    """A titled part of the page."""
    return element("section", element("h2", heading, id=anchor), children, aria_labelledby=anchor)


def figure(heading: str, chart: Child, *, note: Child = None, table: Child = None) -> Markup:
    """A chart under its title, with the numbers it shows as a table that opens on request."""
    caption = element("figcaption", element("h3", heading), element("p", note) if note else None)
    data = (
        element("details", element("summary", "Show as table"), element("div", table, class_="scroll"))
        if table
        else None
    )
    return element("figure", caption, chart, data)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    numeric: Sequence[int] = (),
    class_: str | None = None,
    foot: Sequence[Child] | None = None,
) -> Markup:
    """A table whose first column names its rows; ``numeric`` columns are set to the right."""

    def cell(place: int, value: Child, first: str) -> Markup:
        tag = first if place == 0 else "td"
        scope = "row" if tag == "th" else None
        return element(tag, value, class_="n" if place in numeric else None, scope=scope)

    titles = [
        element("th", title, scope="col", class_="n" if place in numeric else None) for place, title in enumerate(head)
    ]
    body = [element("tr", [cell(place, value, "th") for place, value in enumerate(row)]) for row in rows]
    end = (
        []
        if foot is None
        else [element("tfoot", element("tr", [cell(p, value, "th") for p, value in enumerate(foot)]))]
    )
    return element("table", element("thead", element("tr", titles)), element("tbody", body), end, class_=class_)


def name(text: Any, limit: int = _LONGEST_NAME) -> Markup:
    """A name somebody chose, kept apart from the text direction around it."""
    return element("bdi", shorten(str(text), limit))


def metrics_section(report: Report) -> Markup | None:
    """The scores beside those of the constant answer."""
    if not report.metrics:
        return None
    rows: list[list[Child]] = []
    for key in report.metrics:
        metric = describe_metric(key)
        mine, trivial = as_number(report.metrics[key]), as_number(report.baseline.get(key))
        written = write_metric(key, mine)
        arrow, spelled = ("↑", "higher") if metric.better == "higher" else ("↓", "lower")
        way = element("span", arrow, element("span", f" {spelled} is better", class_="spelled"), class_="soft")
        row: list[Child] = [metric.title, written]
        if report.baseline:
            row.append(element("span", write_metric(key, trivial), class_="soft"))
        rows.append([*row, way])
    head = ["Metric", "This network", *(["Baseline"] if report.baseline else []), ""]
    positive = ""
    if (
        report.task == "binary"
        and len(report.classes) == 2
        and any(key in report.metrics for key in ("precision", "recall", "f1"))
    ):
        positive = f" Precision, recall and F1 are about the class “{shorten(report.classes[1], 40)}”."
    rows_held = held_out_rows(report)
    counted = f"{count(rows_held)} rows" if rows_held else "rows"
    words = f"Scores on {counted} that took no part in training." + positive
    if report.baseline:
        words += " The baseline is a constant answer that looks at no column."
    listing = table(head, rows, numeric=range(1, len(head) - 1), class_="metrics")
    return section(
        "Scores on held-out rows", element("p", words), element("div", listing, class_="wide"), anchor="scores"
    )


def errors_section(report: Report) -> Markup | None:
    """Where predictions go wrong: the confusion matrix, or residuals of a regression."""
    if report.task == "regression":
        return _residuals_section(report)
    if not report.confusion:
        return None
    matrix = confusion_counts(report)
    classes = [str(one) for one in report.classes] or [str(place) for place in range(len(matrix))]
    scores = class_scores_from_confusion(matrix)
    per_class: list[list[Child]] = [
        [
            name(label),
            percent(scores.precision[k]),
            percent(scores.recall[k]),
            score(scores.f1[k]),
            count(scores.support[k]),
        ]
        for k, label in enumerate(classes)
    ]
    beside: list[Child] = [
        element("h3", "Each class"),
        element(
            "div",
            table(["Class", "Precision", "Recall", "F1", "Rows"], per_class, numeric=(1, 2, 3, 4)),
            class_="scroll",
        ),
    ]
    confusions = sorted(
        ((matrix[t][p], t, p) for t in range(len(matrix)) for p in range(len(matrix)) if t != p and matrix[t][p] > 0),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )[:5]
    if confusions:
        listed = [
            fragment(
                "; " if place else "", name(classes[t], 40), " taken for ", name(classes[p], 40), f" ({count(times)}×)"
            )
            for place, (times, t, p) in enumerate(confusions)
        ]
        beside.append(element("p", "Most frequent mistakes: ", listed, "."))
    else:
        beside.append(element("p", "There is not one mistake."))
    drawn: Child = None
    if len(matrix) <= _MOST_CLASSES_DRAWN:
        data = table(
            ["True class", *(shorten(one, 40) for one in classes)],
            [[name(classes[t]), *(count(value) for value in row)] for t, row in enumerate(matrix)],
            numeric=range(1, len(classes) + 1),
        )
        drawn = figure("Confusion matrix", confusion_chart(matrix, classes, title="Confusion matrix"), table=data)
    return section(
        "Where it is right and wrong",
        element("div", drawn, element("div", beside, class_="beside"), class_="charts"),
        anchor="errors",
    )


def _residuals_section(report: Report) -> Markup | None:
    points = [(as_number(true), as_number(predicted)) for true, predicted in report.residuals or ()]
    drawn = finite_points(points)
    if not drawn:
        return None
    rows = max(held_out_rows(report), len(points))
    shown = f"All {count(rows)} rows." if len(drawn) == rows else f"{count(len(drawn))} of {count(rows)} rows."
    target = shorten(report.target, 30)
    listing = table(
        ["True", "Predicted", "True − predicted"],
        [[amount(true), amount(predicted), amount(true - predicted)] for true, predicted in drawn[:200]],
        numeric=(0, 1, 2),
    )
    return section(
        "Where it is right and wrong",
        element(
            "div",
            figure(
                "Predicted against true",
                agreement_chart(
                    points, title="Predicted against true", x_label=f"true {target}", y_label=f"predicted {target}"
                ),
                note=f"On the dashed line a prediction is right. {shown}",
                table=listing,
            ),
            figure(
                "Residuals",
                residual_chart(points, title="Residuals against predictions", x_label=f"predicted {target}"),
                note="A trend or funnel here is structure that was not learned.",
            ),
            class_="charts",
        ),
        anchor="errors",
    )


def calibration_section(report: Report) -> Markup | None:
    """Whether the predicted probabilities come true."""
    keys = ("lower", "upper", "predicted", "observed", "count")
    bins = [{key: as_number(one.get(key)) for key in keys} for one in report.calibration or ()]
    bins = [one for one in bins if 1 <= one["count"] < math.inf and all(0.0 <= one[key] <= 1.0 for key in keys[:-1])]
    if not bins:
        return None
    if report.task == "binary":
        label = shorten(report.classes[1], 24) if len(report.classes) == 2 else "class 1"
        x_label, y_label = f"predicted probability of {label}", f"share that is {label}"
    else:
        x_label, y_label = "probability of the predicted class", "share that is right"
    error = metric_value(report.metrics, "expected_calibration_error")
    beside: list[Child] = [
        element("h3", "How to read it"),
        element(
            "p",
            "A well calibrated network lies on the dashed line: of the rows to which it gives 80 %, 80 % turn out so. "
            "Below the line it is too sure of itself, above it too cautious. The thin bars are 95 % intervals; the strip "
            "below shows how many rows fall into each bin.",
        ),
    ]
    if math.isfinite(error):
        beside.append(
            element(
                "p",
                f"On average over the rows, probability and outcome are {_points(error)} apart (expected calibration error).",
            )
        )
    data = table(
        ["Predicted between", "Mean prediction", "Observed", "Rows"],
        [
            [
                f"{percent(one['lower'], 0)} and {percent(one['upper'], 0)}",
                percent(one["predicted"]),
                percent(one["observed"]),
                count(one["count"]),
            ]
            for one in bins
        ],
        numeric=(1, 2, 3),
    )
    drawn = figure(
        "Reliability of the probabilities",
        calibration_chart(bins, title="Reliability diagram", x_label=x_label, y_label=y_label),
        table=data,
    )
    return section(
        "Can the probabilities be trusted?",
        element("div", drawn, element("div", beside, class_="beside"), class_="charts"),
        anchor="calibration",
    )


def _points(share: float) -> str:
    return f"{amount(100.0 * share, 2)} percentage points"


def importances_section(report: Report) -> Markup | None:
    """Which columns the predictions depend on."""
    entries = [(str(column), as_number(mean), as_number(std)) for column, mean, std in report.importances]
    entries.sort(key=lambda entry: (math.isnan(entry[1]), -entry[1] if math.isfinite(entry[1]) else 0.0))
    if not entries:
        return None
    shown = entries[:_MOST_BARS]
    metric = describe_metric(report.importance_score) if report.importance_score else None
    what = metric.title.lower() if metric else "score"
    moves, move = ("rises", "rise") if metric and metric.better == "lower" else ("falls", "drop")
    data = table(
        ["Column", f"Mean {move}", "Standard deviation"],
        [[name(column), amount(mean), amount(std, 2) if math.isfinite(std) else DASH] for column, mean, std in entries],
        numeric=(1, 2),
    )
    chart = bar_chart(
        [Bar(*entry) for entry in shown],
        title="Importance of the columns",
        x_label=f"{move} of the {what} when shuffled",
    )
    idle = [
        column
        for column, mean, std in entries
        if math.isfinite(mean) and mean <= max(0.0, std if math.isfinite(std) else 0.0)
    ]
    beside: list[Child] = [
        element("h3", "How to read it"),
        element(
            "p",
            f"Each column of the held-out rows is shuffled in turn; the bar is how much the {what} {moves}, the whisker "
            "one standard deviation over repeated shuffles. Columns that carry the same information share their "
            "importance, so that each of them may look dispensable.",
        ),
    ]
    if idle:
        beside.append(
            element(
                "p",
                f"For {count(len(idle))} of {count(len(entries))} columns that {move} is within one standard deviation of zero.",
            )
        )
    note = f"The {len(shown)} most important of {count(len(entries))} columns." if len(entries) > len(shown) else None
    return section(
        "Which columns matter",
        element(
            "div",
            figure("Importance by permutation", chart, note=note, table=data),
            element("div", beside, class_="beside"),
            class_="charts",
        ),
        anchor="importances",
    )
