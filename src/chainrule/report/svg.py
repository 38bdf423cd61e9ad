"""The parts that all charts share: the drawing, axes with ticks, and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.report.formats import text_width
from chainrule.report.markup import Child, Markup, coordinate, element, escape, fragment, shorten
from chainrule.report.scale import Scale

WIDTH = 400.0
"""All charts are this wide, in units of which one is about a pixel; a page shows two side by side."""

FONT = 11.0
COLOURS = 8
"""How many colours a series can have; the style sheet gives them their values for light and dark."""


@dataclass(frozen=True)
class Box:
    """The plotting area inside the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


def drawing(title: str, height: float, *children: Child, width: float = WIDTH, description: str = "") -> Markup:
    """A complete ``<svg>`` that scales with its column and tells a screen reader its title and description."""
    label = f"{title}. {description}" if description else title
    return element(
        "svg",
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        class_="chart",
        role="img",
        aria_label=label,
        style=f"max-width:{coordinate(width * 1.2)}px",
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "start", class_: str | None = None, turn: float | None = None
) -> Markup:
    """A line of text; ``turn`` rotates it around its anchor by degrees."""
    rotation = None if turn is None else f"rotate({coordinate(turn)} {coordinate(x)} {coordinate(y)})"
    return element(
        "text",
        words,
        x=float(x),
        y=float(y),
        text_anchor=None if anchor == "start" else anchor,
        class_=class_,
        transform=rotation,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def tooltip(words: str) -> Markup:
    """The text a pointer shows over the element that holds this."""
    return element("title", words)


def label_width(labels: Sequence[str], size: float = FONT) -> float:
    """The width of the widest label."""
    return max((text_width(label, size) for label in labels), default=0.0)


def fitted(name: str, width: float) -> str:
    """``name``, shortened in the middle until it is no wider than ``width``."""
    limit = min(len(name), int(width / (0.3 * FONT)))
    while limit > 2 and text_width(shorten(name, limit), FONT) > width:
        limit -= 1
    return shorten(name, limit)


def axes(
    box: Box,
    x: Scale | None = None,
    y: Scale | None = None,
    *,
    x_label: str = "",
    y_label: str = "",
    grid: bool = True,
) -> Markup:
    """Horizontal grid lines with their labels, a base line with ticks, and the names of both axes."""
    parts: list[Child] = []
    if y is not None:
        for tick, label in zip(y.ticks, y.labels, strict=True):
            at = y(tick)
            if grid:
                parts.append(line(box.left, at, box.right, at, "grid"))
            parts.append(text(box.left - 6, at + 3.6, label, anchor="end", class_="tick"))
    if x is not None:
        parts.append(line(box.left, box.bottom, box.right, box.bottom, "axis"))
        for tick, label in zip(x.ticks, x.labels, strict=True):
            at = x(tick)
            parts.append(line(at, box.bottom, at, box.bottom + 4, "axis"))
            parts.append(text(at, box.bottom + 15.5, label, anchor="middle", class_="tick"))
    if x_label:
        parts.append(text((box.left + box.right) / 2, box.bottom + 31, x_label, anchor="middle", class_="label"))
    if y_label:
        parts.append(text(11, (box.top + box.bottom) / 2, y_label, anchor="middle", class_="label", turn=-90))
    return fragment(parts)


def legend(names: Sequence[str], styles: Sequence[str]) -> Markup:
    """A legend in HTML, which wraps where a drawing cannot: a short sample of each line and its name."""
    entries = [
        element(
            "li",
            element(
                "svg",
                line(0, 5, 20, 5, style),
                viewBox="0 0 20 10",
                width="20",
                height="10",
                aria_hidden="true",
            ),
            element("span", escape(name)),
        )
        for name, style in zip(names, styles, strict=True)
    ]
    return element("ul", entries, class_="legend")
