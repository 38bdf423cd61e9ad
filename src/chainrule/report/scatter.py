"""Clouds of points (predicted against true, residuals) and the reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from chainrule.report.formats import amount, count, percent
from chainrule.report.markup import Child, Markup, coordinate, element
from chainrule.report.scale import Scale, make_scale
from chainrule.report.svg import WIDTH, Box, axes, drawing, label_width, line, tooltip

_MOST_POINTS = 1000
Points = Sequence[tuple[float, float]]


def agreement_chart(points: Points, *, title: str, x_label: str = "true", y_label: str = "predicted") -> Markup:
    """Predicted against true on equal axes, with the diagonal on which both are the same."""
    finite = finite_points(points)
    values = [value for point in finite for value in point]
    top, bottom = 10.0, 290.0
    y = make_scale(values, bottom, top, most_ticks=7)
    left = label_width(y.labels) + 28.0
    right = min(WIDTH - 10.0, left + (bottom - top) * 1.18)
    box = Box(left, top, right, bottom)
    x = make_scale(values, left, right, most_ticks=7)
    return drawing(
        title,
        bottom + 38.0,
        axes(box, x, y, x_label=x_label, y_label=y_label),
        line(x(x.low), y(x.low), x(x.high), y(x.high), "marker"),
        _cloud(finite, x, y),
        description=f"{count(len(finite))} rows",
    )


def residual_chart(
    points: Points, *, title: str, x_label: str = "predicted", y_label: str = "true − predicted"
) -> Markup:
    """Residual against prediction, with the line on which a prediction is right."""
    finite = [(predicted, true - predicted) for true, predicted in finite_points(points)]
    top, bottom = 10.0, 290.0
    y = make_scale([residual for _, residual in finite], bottom, top, zero=True, most_ticks=7)
    left = label_width(y.labels) + 28.0
    box = Box(left, top, WIDTH - 10.0, bottom)
    x = make_scale([predicted for predicted, _ in finite], box.left, box.right, most_ticks=7)
    return drawing(
        title,
        bottom + 38.0,
        axes(box, x, y, x_label=x_label, y_label=y_label),
        line(box.left, y(0.0), box.right, y(0.0), "marker"),
        _cloud(finite, x, y),
        description=f"{count(len(finite))} rows",
    )


def calibration_chart(bins: Sequence[Mapping[str, float]], *, title: str, x_label: str, y_label: str) -> Markup:
    """Observed share against predicted probability, with 95 % Wilson intervals, over the share of rows in each bin."""
    top, bottom = 10.0, 250.0
    strip_top, strip_bottom = 262.0, 302.0
    y = make_scale([0.0, 1.0], bottom, top, most_ticks=6)
    left = label_width(y.labels) + 28.0
    box = Box(left, top, WIDTH - 10.0, bottom)
    x = make_scale([0.0, 1.0], box.left, box.right, most_ticks=6)
    strip = Box(box.left, strip_top, box.right, strip_bottom)
    usable = sorted(
        (one for one in bins if math.isfinite(one["predicted"]) and math.isfinite(one["observed"])),
        key=lambda one: one["predicted"],
    )
    largest = max((one["count"] for one in usable), default=0.0) or 1.0
    parts: list[Child] = [
        axes(box, None, y, y_label=y_label),
        axes(strip, x, None, x_label=x_label),
        line(x(0.0), y(0.0), x(1.0), y(1.0), "marker"),
    ]
    for one in usable:
        low, high = wilson_interval(one["observed"], one["count"])
        place = x(one["predicted"])
        parts.append(line(place, y(low), place, y(high), "whisker thin"))
        bar = 40.0 * one["count"] / largest
        start, end = x(one["lower"]) + 0.75, x(one["upper"]) - 0.75
        parts.append(
            element("rect", x=start, y=strip_bottom - bar, width=max(1.0, end - start), height=bar, class_="bar quiet")
        )
    path = "".join(
        f"{'L' if place else 'M'}{coordinate(x(one['predicted']))} {coordinate(y(one['observed']))}"
        for place, one in enumerate(usable)
    )
    parts.append(element("path", d=path or None, class_="curve s0"))
    for one in usable:
        words = (
            f"predicted {percent(one['predicted'])}, observed {percent(one['observed'])}, {count(one['count'])} rows"
        )
        parts.append(
            element(
                "circle",
                tooltip(words),
                cx=x(one["predicted"]),
                cy=y(one["observed"]),
                r=2.5 + 3.0 * math.sqrt(one["count"] / largest),
                class_="dot s0",
            )
        )
    return drawing(title, strip_bottom + 38.0, parts, description=f"{len(usable)} bins")


def wilson_interval(share: float, rows: float) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) for a share that was observed in ``rows`` independent rows."""
    if not math.isfinite(share) or rows <= 0:
        return 0.0, 1.0
    z = 1.959963984540054
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(max(0.0, share * (1 - share)) / rows + (z / (2 * rows)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


def finite_points(points: Points) -> list[tuple[float, float]]:
    """The points that can be drawn, at most a thousand of them, evenly spaced in their order."""
    finite = [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)]
    if len(finite) <= _MOST_POINTS:
        return finite
    return [finite[place * len(finite) // _MOST_POINTS] for place in range(_MOST_POINTS)]


def _cloud(points: Points, x: Scale, y: Scale) -> Markup:
    dense = "dense" if len(points) > 300 else None
    return element(
        "g",
        (element("circle", tooltip(f"{amount(a)}, {amount(b)}"), cx=x(a), cy=y(b), r=2.4) for a, b in points),
        class_="cloud" if dense is None else "cloud dense",
    )
