"""Horizontal bars with error bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.report.formats import amount
from chainrule.report.markup import Child, Markup, element, fragment, shorten
from chainrule.report.scale import make_scale
from chainrule.report.svg import WIDTH, Box, drawing, fitted, label_width, line, text, tooltip

_ROW = 20.0
_BAR = 11.0
_WIDEST_NAME = 140.0


@dataclass(frozen=True)
class Bar:
    """A name, a value and the standard deviation of that value (0 for none)."""

    name: str
    value: float
    deviation: float = 0.0


def bar_chart(bars: Sequence[Bar], *, title: str, x_label: str = "") -> Markup:
    """Bars from the zero line in the given order, a whisker of ± one standard deviation, the value at the right."""
    names = [fitted(bar.name, _WIDEST_NAME) for bar in bars]
    values = [amount(bar.value, 3) for bar in bars]
    ends = [end for bar in bars for end in (bar.value, bar.value - bar.deviation, bar.value + bar.deviation)]
    top, bottom = 6.0, 6.0 + _ROW * len(bars)
    left = max(label_width(names) + 10.0, 30.0)  # the first tick needs room as well
    right = WIDTH - label_width(values) - 14.0
    box = Box(left, top, right, bottom)
    x = make_scale(ends, left, right, zero=True, most_ticks=6)
    parts: list[Child] = []
    for tick, label in zip(x.ticks, x.labels, strict=True):
        parts.append(line(x(tick), box.top, x(tick), box.bottom, "axis" if tick == 0 else "grid"))
        parts.append(text(x(tick), box.bottom + 14, label, anchor="middle", class_="tick"))
    for place, bar in enumerate(bars):
        middle = top + _ROW * (place + 0.5)
        parts.append(text(left - 7, middle + 3.8, names[place], anchor="end", class_="name"))
        parts.append(text(WIDTH - 4, middle + 3.8, values[place], anchor="end", class_="tick"))
        if math.isfinite(bar.value):
            parts.append(
                _bar(bar, middle, x(0.0), x(bar.value), x(bar.value - bar.deviation), x(bar.value + bar.deviation))
            )
    if x_label:
        parts.append(text((left + right) / 2, box.bottom + 30, x_label, anchor="middle", class_="label"))
    height = box.bottom + (37.0 if x_label else 20.0)
    best = f"Largest: {shorten(bars[0].name, 40)} with {values[0]}" if bars else ""
    return drawing(title, height, parts, description=best)


def _bar(bar: Bar, middle: float, zero: float, end: float, low: float, high: float) -> Markup:
    words = f"{shorten(bar.name, 60)}: {amount(bar.value)}"
    whisker: Child = None
    if math.isfinite(bar.deviation) and bar.deviation > 0.0:
        words += f" ± {amount(bar.deviation, 2)}"
        whisker = fragment(
            line(low, middle, high, middle, "whisker"),
            line(low, middle - 3, low, middle + 3, "whisker"),
            line(high, middle - 3, high, middle + 3, "whisker"),
        )
    rectangle = element(
        "rect",
        x=min(zero, end),
        y=middle - _BAR / 2,
        width=abs(end - zero),
        height=_BAR,
        class_="bar" if bar.value >= 0 else "bar negative",
    )
    return element("g", rectangle, whisker, tooltip(words))
