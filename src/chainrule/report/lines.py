"""Curves over the epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.report.formats import amount
from chainrule.report.markup import Child, Markup, coordinate, element, fragment, shorten
from chainrule.report.scale import Scale, make_scale
from chainrule.report.svg import COLOURS, WIDTH, Box, axes, drawing, label_width, legend, line, text, tooltip

HEIGHT = 232.0
_MOST_POINTS = 300
_MOST_HOVERS = 80
_MOST_DIRECT_LABELS = 4
_WIDEST_DIRECT_LABEL = 92.0
_LINE_HEIGHT = 13.0
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Series:
    """One curve: a name, and y over x. Points that are not finite are gaps."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "epoch",
    log: bool | None = None,
    marker: float | None = None,
    marker_label: str = "",
    zero: bool = False,
    ordered: bool = False,
) -> Markup:
    """Curves with direct labels at their ends (up to four) or a legend below.

    ``log=None`` takes a logarithmic axis when the values are positive and span more than a factor of 50.
    ``marker`` draws a vertical line with ``marker_label`` above it. ``ordered`` colours the curves along a ramp,
    for names that have an order (layers from input to output), instead of with unlike colours.
    """
    values = [value for one in series for value in one.y if math.isfinite(value)]
    logarithmic = _wants_log(values) if log is None else log and any(value > 0 for value in values)
    names = [shorten(one.name, _LONGEST_NAME) for one in series]
    styles = [_style(place, len(series), ordered) for place in range(len(series))]
    alone = len(series) == 1
    direct = not alone and len(series) <= _MOST_DIRECT_LABELS and label_width(names) <= _WIDEST_DIRECT_LABEL
    top = 24.0 if marker is not None else 12.0
    bottom = HEIGHT - 38.0
    y = make_scale(values, bottom, top, kind="log" if logarithmic else "linear", zero=zero, most_ticks=6)
    left = label_width(y.labels) + 10.0
    right = WIDTH - (label_width(names) + 14.0 if direct else 10.0)
    box = Box(left, top, right, bottom)
    positions = [value for one in series for value in one.x]
    x = make_scale(positions, left, right, kind="integer", tight=True, most_ticks=7)
    parts: list[Child] = [axes(box, x, y, x_label=x_label)]
    parts += [_curve(one, x, y, style) for one, style in zip(series, styles, strict=True)]
    if marker is not None:
        parts.append(_marker(marker, marker_label, x, box))
        parts += [_dot(one, marker, x, y, style) for one, style in zip(series, styles, strict=True)]
    if direct:
        parts.append(_end_labels(series, names, styles, y, box))
    parts.append(_hovers(series, names, x, box, x_label))
    svg = drawing(title, HEIGHT, parts, description=_describe(series))
    return svg if direct or alone else fragment(svg, legend(names, [f"curve {style}" for style in styles]))


def _wants_log(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0.0 and max(values) / min(values) > 50.0


def _style(place: int, count: int, ordered: bool) -> str:
    if ordered and count > 3:
        return f"r{round(place * (COLOURS - 1) / (count - 1))}" + _dash(place % 2 if count > COLOURS else 0)
    return f"s{place % COLOURS}" + _dash(place // COLOURS)


def _dash(lap: int) -> str:
    return "" if lap == 0 else f" d{min(lap, 2)}"


def _curve(one: Series, x: Scale, y: Scale, style: str) -> Markup:
    runs: list[list[str]] = [[]]
    for at, value in thinned(one.x, one.y):
        if math.isfinite(value) and (y.kind != "log" or value > 0.0):
            runs[-1].append(f"{coordinate(x(at))} {coordinate(y(value))}")
        elif runs[-1]:
            runs.append([])
    # A point between two gaps becomes a line of no length, which its round ends show as a dot.
    path = "".join("M" + "L".join(run) + ("h0" if len(run) == 1 else "") for run in runs if run)
    return element("path", d=path or None, class_=f"curve {style}")


def thinned(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """At most a few hundred points that keep the lowest and highest of every stretch they stand for."""
    points = list(zip(x, y, strict=True))
    if len(points) <= _MOST_POINTS:
        return points
    kept = []
    stretches = _MOST_POINTS // 2
    for place in range(stretches):
        stretch = points[place * len(points) // stretches : (place + 1) * len(points) // stretches]
        finite = [point for point in stretch if math.isfinite(point[1])]
        if not finite:
            kept.append(stretch[0])
            continue
        low, high = min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])
        kept += sorted({low, high})
    return [points[0], *kept, points[-1]]


def _marker(at: float, label: str, x: Scale, box: Box) -> Markup:
    place = x(at)
    half = label_width([label]) / 2
    centre = min(max(place, box.left + half), WIDTH - half - 2)
    return fragment(
        line(place, box.top - 6, place, box.bottom, "marker"),
        text(centre, box.top - 11, label, anchor="middle", class_="note"),
    )


def _dot(one: Series, at: float, x: Scale, y: Scale, style: str) -> Markup | None:
    for place, value in zip(one.x, one.y, strict=True):
        if place == at and math.isfinite(value) and (y.kind != "log" or value > 0):
            return element("circle", cx=x(place), cy=y(value), r=3.2, class_=f"dot {style}")
    return None


def _end_labels(series: Sequence[Series], names: Sequence[str], styles: Sequence[str], y: Scale, box: Box) -> Markup:
    ends = []
    for one, name, style in zip(series, names, styles, strict=True):
        drawn = [value for value in one.y if math.isfinite(value) and (y.kind != "log" or value > 0.0)]
        if drawn:
            ends.append((y(drawn[-1]), name, style))
    ends.sort()
    places = spread_apart([end[0] for end in ends], _LINE_HEIGHT, box.top, box.bottom)
    return fragment(
        text(box.right + 7, place + 3.6, name, class_=f"name {style}")
        for place, (_, name, style) in zip(places, ends, strict=True)
    )


def spread_apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted places moved as little as needed to be ``gap`` apart and inside low…high."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    limit = high
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    # Pushed apart in one direction only, labels drift away from their ends; take back half of a common shift.
    drift = sum(after - before for after, before in zip(moved, places, strict=True)) / (len(moved) or 1)
    shift = max(-drift, low - moved[0]) if drift > 0 and moved else 0.0
    return [place + shift for place in moved]


def _hovers(series: Sequence[Series], names: Sequence[str], x: Scale, box: Box, x_label: str) -> Markup:
    table: dict[float, list[str]] = {}
    for one, name in zip(series, names, strict=True):
        for at, value in zip(one.x, one.y, strict=True):
            table.setdefault(at, []).append(f"{name}: {amount(value)}")
    places = sorted(table)
    stride = math.ceil(len(places) / _MOST_HOVERS) or 1
    shown = places[::stride]
    strips = []
    for index, at in enumerate(shown):
        middle = x(at)
        start = (x(shown[index - 1]) + middle) / 2 if index else box.left
        end = (x(shown[index + 1]) + middle) / 2 if index + 1 < len(shown) else box.right
        words = "\n".join([f"{x_label} {coordinate(at)}", *table[at][:12]])
        strips.append(
            element(
                "g",
                element("rect", x=start, y=box.top, width=max(0.0, end - start), height=box.height),
                line(middle, box.top, middle, box.bottom, "guide"),
                tooltip(words),
                class_="hit",
            )
        )
    return fragment(strips)


def _describe(series: Sequence[Series]) -> str:
    words = []
    for one in series[:6]:
        drawn = [value for value in one.y if math.isfinite(value)]
        if drawn:
            words.append(f"{shorten(one.name, 40)} from {amount(drawn[0])} to {amount(drawn[-1])}")
    return "; ".join(words)
