"""The sections on how the network came about: learning curves, columns, layers, settings, notices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chainrule.metrics import describe_metric
from chainrule.report.formats import DASH, amount, count, percent, power, setting
from chainrule.report.lines import Series, line_chart
from chainrule.report.markup import Child, Markup, element, fragment, shorten
from chainrule.report.outcome import figure, name, section, table
from chainrule.report.record import Report
from chainrule.report.verdict import as_number

_NOT_METRICS = frozenset({"epoch", "loss", "val_loss", "learning_rate", "seconds", "gradient_norms", "step", "steps"})
_MOST_METRIC_CHARTS = 3
_MOST_TABLE_ROWS = 60
_MOST_CURVES = 16
_MANY_COLUMNS = 40


def learning_section(report: Report) -> Markup | None:
    """Loss and metrics by epoch, with the epoch that was kept."""
    history = [epoch for epoch in report.history if math.isfinite(as_number(epoch.get("epoch")))]
    if not history:
        return None
    figures = [_curves_figure(report, history, "Loss", "loss", log=None)]
    metrics = _metric_names(history)
    figures += [
        _curves_figure(report, history, describe_metric(key).title, key, log=False)
        for key in metrics[:_MOST_METRIC_CHARTS]
    ]
    drawn = [one for one in figures if one is not None]
    if not drawn:
        return None
    return section(
        "How it learned",
        element("p", " ".join(_learning_words(report, history))),
        element("div", drawn, class_="charts"),
        anchor="learning",
    )


def steps_section(report: Report) -> Markup | None:
    """What made the steps large or small: the gradient norm of every layer, and a learning rate that changes."""
    history = [epoch for epoch in report.history if math.isfinite(as_number(epoch.get("epoch")))]
    series = _norm_series(history)
    rates = {rate for rate in _column(history, "learning_rate") if math.isfinite(rate)}
    rate = _curves_figure(report, history, "Learning rate", "learning_rate", log=None) if len(rates) > 1 else None
    if not series:
        return rate and section("The learning rate", element("div", rate, class_="charts"), anchor="gradients")
    words = _gradient_words(series)
    gradients = _gradients_figure(report, history, series)
    if rate is None:
        beside = element("div", element("h3", "How to read it"), words, class_="beside")
        return section(
            "How the gradients flowed", element("div", gradients, beside, class_="charts"), anchor="gradients"
        )
    return section(
        "Gradients and learning rate", words, element("div", gradients, rate, class_="charts"), anchor="gradients"
    )


def columns_section(report: Report) -> Markup | None:
    """The columns of the table and what was done to each before the network saw it."""
    if not report.columns:
        return None
    rows: list[list[Child]] = []
    for column in report.columns:
        missing = as_number(column.get("missing", column.get("missing_share", math.nan)))
        rows.append(
            [
                name(column.get("name", "")),
                str(column.get("kind") or DASH),
                str(column.get("treatment") or DASH),
                _missing_share(missing),
                element("span", str(column.get("note") or ""), class_="soft"),
            ]
        )
    noted = any(column.get("note") for column in report.columns)
    width = 5 if noted else 4
    listing = table(
        ["Column", "Kind", "Treatment", "Missing", "Note"][:width],
        [row[:width] for row in rows],
        numeric=(3,),
        class_="columns",
    )
    words = "How each column reaches the network. Every number that this needs was learned on the training part alone."
    return section(
        "Columns and preprocessing",
        element("p", words),
        element("div", listing, class_="wide tall" if len(rows) > _MANY_COLUMNS else "wide"),
        anchor="columns",
    )


def network_section(report: Report) -> Markup | None:
    """The layers with their output shapes and parameter counts."""
    if not report.network:
        return None
    sizes = [as_number(parameters) for _, _, parameters in report.network]
    total = sum(size for size in sizes if math.isfinite(size))
    rows: list[list[Child]] = [
        [element("span", name(layer), class_="code"), _shape(shape), count(size)]
        for (layer, shape, _), size in zip(report.network, sizes, strict=True)
    ]
    listing = table(["Layer", "Output shape", "Parameters"], rows, numeric=(2,), foot=["Total", "", count(total)])
    return section("The network", element("div", listing, class_="wide"), anchor="network")


def configuration_section(report: Report) -> Markup | None:
    """Every setting, grouped as it was given."""
    if not report.configuration:
        return None
    groups: dict[str, list[tuple[str, Any]]] = {}
    for key, value in report.configuration.items():
        if isinstance(value, Mapping) and value:
            groups.setdefault(str(key), []).extend(_leaves(value))
        else:
            groups.setdefault("", []).append((str(key), value))
    blocks = []
    for heading in sorted(groups, key=lambda key: key != ""):
        rows: list[list[Child]] = [
            [element("span", name(key), class_="code"), _setting(value)] for key, value in groups[heading]
        ]
        body = element(
            "table",
            element(
                "tbody", (element("tr", element("th", key, scope="row"), element("td", value)) for key, value in rows)
            ),
        )
        blocks.append(element("div", element("h3", name(heading)) if heading else None, body))
    return section("Configuration", element("div", blocks, class_="settings"), anchor="configuration")


def notices_section(report: Report) -> Markup | None:
    """What the program wants the reader to know about the data and the run."""
    if not report.notices:
        return None
    listed = element("ul", (element("li", str(notice)) for notice in report.notices), class_="notices")
    return section("Notices", listed, anchor="notices")


def training_seconds(report: Report) -> float:
    """Wall-clock seconds of all epochs; NaN when they were not recorded."""
    spans = [span for span in _column(report.history, "seconds") if math.isfinite(span)]
    return sum(spans) if spans else math.nan


def _norm_series(history: Sequence[Mapping[str, Any]]) -> list[Series]:
    epochs = _column(history, "epoch")
    layers = _first_seen(layer for epoch in history for layer in _norms(epoch))
    series = [_recorded(layer, epochs, [_norms(epoch).get(layer) for epoch in history]) for layer in layers]
    return [one for one in series if any(math.isfinite(value) and value > 0.0 for value in one.y)]


def _gradients_figure(report: Report, history: Sequence[Mapping[str, Any]], series: Sequence[Series]) -> Markup:
    drawn = _evenly(series, _MOST_CURVES)
    note = "From input to output, dark to light." if len(drawn) > 3 else None
    if len(drawn) < len(series):
        note = f"{len(drawn)} of {len(series)} layers, evenly chosen from input to output."
    chart = line_chart(
        drawn, title="Gradient norm of each layer", log=True, ordered=True, **_marker(report, _column(history, "epoch"))
    )
    data = _epoch_table(history, series, 3)
    return figure("Gradient norm of each layer (log scale)", chart, note=note, table=data)


def _curves_figure(
    report: Report, history: Sequence[Mapping[str, Any]], heading: str, key: str, *, log: bool | None
) -> Markup | None:
    epochs = _column(history, "epoch")
    pairs = [("train", key), ("validation", f"val_{key}")]
    series = [_recorded(label, epochs, [epoch.get(field) for epoch in history]) for label, field in pairs]
    series = [one for one in series if any(math.isfinite(value) for value in one.y)]
    if not series:
        return None
    # A schedule has no best epoch, and it is not a score on the training part.
    plain = key == "learning_rate"
    if plain:
        series = [Series("learning rate", one.x, one.y) for one in series]
    marker = {} if plain else _marker(report, epochs)
    chart = line_chart(series, title=f"{heading} by epoch", log=log, **marker)
    note = "On the validation part." if [one.name for one in series] == ["validation"] else None
    return figure(heading, chart, note=note, table=_epoch_table(history, series, 4))


def _recorded(label: str, epochs: Sequence[float], values: Sequence[Any]) -> Series:
    """A curve through the epochs that have a value, so that validating every fifth epoch draws a line, not dots.

    A value that was recorded as NaN stays: the curve has a gap there.
    """
    kept = [(epoch, as_number(value)) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    return Series(label, [epoch for epoch, _ in kept], [value for _, value in kept])


def _epoch_table(history: Sequence[Mapping[str, Any]], series: Sequence[Series], digits: int) -> Markup:
    by_epoch = [dict(zip(one.x, one.y, strict=True)) for one in series]
    rows = _evenly(_column(history, "epoch"), _MOST_TABLE_ROWS)
    return table(
        ["Epoch", *(shorten(one.name, 40) for one in series)],
        [[count(epoch), *(amount(values.get(epoch, math.nan), digits) for values in by_epoch)] for epoch in rows],
        numeric=range(len(series) + 1),
    )


def _marker(report: Report, epochs: Sequence[float]) -> dict[str, Any]:
    if report.best_epoch is None or report.best_epoch not in epochs or len(epochs) < 2:
        return {}
    return {"marker": float(report.best_epoch), "marker_label": f"kept: epoch {count(report.best_epoch)}"}


def _learning_words(report: Report, history: Sequence[Mapping[str, Any]]) -> list[str]:
    last = as_number(history[-1].get("epoch"))
    words = []
    kept = next((epoch for epoch in history if epoch.get("epoch") == report.best_epoch), None)
    if kept is not None:
        loss = as_number(kept.get("val_loss"))
        reached = f" (validation loss {amount(loss)})" if math.isfinite(loss) else ""
        words.append(f"The weights of epoch {count(as_number(kept.get('epoch')))} of {count(last)} were kept{reached}.")
    else:
        words.append(f"{count(last)} epochs." if last != 1 else "One epoch.")
    if report.stop_reason:
        words.append(f"Training stopped: {report.stop_reason.rstrip('.')}.")
    if kept is not None:
        words += _tendency(history, kept)
    return words


def _tendency(history: Sequence[Mapping[str, Any]], kept: Mapping[str, Any]) -> list[str]:
    """What the two loss curves do after the kept epoch, when that is something to act on."""
    validation, training = (
        [(as_number(epoch.get("epoch")), as_number(epoch.get(key))) for epoch in history]
        for key in ("val_loss", "loss")
    )
    best, at = as_number(kept.get("val_loss")), as_number(kept.get("epoch"))
    after = [value for epoch, value in validation if epoch > at and math.isfinite(value)]
    if not math.isfinite(best):
        return []
    if not after and len(history) >= 5:
        return ["The validation loss was lowest at the very end: more epochs may improve it."]
    trained, ended = as_number(kept.get("loss")), training[-1][1]
    if len(after) >= 3 and sum(after[-3:]) / 3 > 1.1 * best and ended < trained:
        return [
            "From there the validation loss rose while the training loss kept falling: the network began to overfit."
        ]
    return []


def _gradient_words(series: Sequence[Series]) -> Markup:
    typical = []
    for one in series:
        positive = sorted(value for value in one.y if math.isfinite(value) and value > 0.0)
        typical.append((positive[len(positive) // 2], one.name))
    low, high = min(typical), max(typical)
    words = element(
        "p",
        "The norm of the loss gradient with respect to the parameters of each layer, averaged over the steps of an "
        "epoch. Healthy curves stay within a few powers of ten of each other and sink slowly. A layer whose norm is "
        "many orders below the others hardly learns; one that shoots up asks for clipping or a lower learning rate.",
    )
    if len(series) < 2:
        return words
    ratio = high[0] / low[0]
    factor = f"10{power(round(math.log10(ratio)))}" if ratio >= 1e4 else amount(ratio, 2)
    judged = " – a sign of vanishing gradients." if ratio > 1e4 else "."
    return fragment(
        words,
        element("p", "Here the typical norm of ", name(high[1]), f" is {factor} times that of ", name(low[1]), judged),
    )


def _norms(epoch: Mapping[str, Any]) -> Mapping[str, Any]:
    norms = epoch.get("gradient_norms")
    return norms if isinstance(norms, Mapping) else {}


def _metric_names(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics of the history without their val_ forms, in the order in which they appear."""
    keys = (key for epoch in history for key, value in epoch.items() if math.isfinite(as_number(value)))
    return _first_seen(bare for key in keys if (bare := key.removeprefix("val_")) not in _NOT_METRICS and bare)


def _column(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [as_number(epoch.get(key)) for epoch in history]


def _first_seen(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(keys))


def _evenly(entries: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` entries at even distances, the first and the last among them."""
    if len(entries) <= most:
        return list(entries)
    return [entries[round(place * (len(entries) - 1) / (most - 1))] for place in range(most)]


def _missing_share(share: float) -> str:
    if not math.isfinite(share):
        return DASH
    if share == 0:
        return "none"
    return "< 0.1 %" if share < 0.001 else percent(share)


def _shape(shape: Any) -> str:
    return " × ".join(str(size) for size in shape) if isinstance(shape, list) else str(shape)


def _leaves(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        here = f"{path}.{key}" if path else str(key)
        leaves += _leaves(value, here) if isinstance(value, Mapping) and value else [(here, value)]
    return leaves


def _setting(value: Any) -> str:
    return "none" if isinstance(value, Mapping) else shorten(setting(value), 400)
