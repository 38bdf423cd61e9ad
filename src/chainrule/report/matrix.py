"""The confusion matrix as a table of shaded cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chainrule.report.formats import SPACE, count, percent, text_width
from chainrule.report.markup import Child, Markup, coordinate, element
from chainrule.report.svg import WIDTH, drawing, fitted, label_width, text, tooltip

_LARGEST_CELL = 92.0
_ROOM_FOR_PERCENT = 40.0
_WIDEST_NAME = 96.0
_ROOM_FOR_COUNT = 15.0
_ROOM_FOR_SLANT = 16.0
_ROOM_FOR_NAME = 8.5


def confusion_chart(matrix: Sequence[Sequence[float]], classes: Sequence[str], *, title: str) -> Markup:
    """Rows are true classes, columns predicted ones.

    A cell shows its count and, where it is large enough, its share of the true class; the darker, the larger that
    share, in one colour on the diagonal and another off it.
    """
    size = len(matrix)
    names = [fitted(name, _WIDEST_NAME) for name in classes]
    widest = label_width(names)
    gutter = 20.0 + widest + 8.0
    cell = min(_LARGEST_CELL, (WIDTH - gutter - 6.0) / max(1, size))
    turn = None if widest <= cell - 4.0 else -45.0 if cell >= _ROOM_FOR_SLANT else -90.0
    labelled = cell >= _ROOM_FOR_NAME
    rise = widest * {None: 0.0, -45.0: 0.72, -90.0: 1.0}[turn] + (16.0 if turn is None else 10.0)
    head = 20.0 + (rise if labelled else 4.0)
    side = cell * size
    parts: list[Child] = [
        text(gutter + side / 2, 11, "predicted", anchor="middle", class_="label"),
        text(11, head + side / 2, "true", anchor="middle", class_="label", turn=-90),
    ]
    style = "name" if cell >= 12.0 else "name small"
    for place, name in enumerate(names if labelled else ()):
        middle = (place + 0.5) * cell
        parts.append(text(gutter - 7, head + middle + 3.8, name, anchor="end", class_=style))
        anchor = "middle" if turn is None else "start"
        aside = 0.0 if turn is None else 3.6 if turn == -90.0 else -1.0
        parts.append(text(gutter + middle + aside, head - 7, name, anchor=anchor, class_=style, turn=turn))
    for row, counts in enumerate(matrix):
        total = sum(value for value in counts if math.isfinite(value))
        for column, value in enumerate(counts):
            share = value / total if total > 0 else 0.0
            words = f"true {classes[row]}, predicted {classes[column]}: {count(value)} ({percent(share)} of the class)"
            parts.append(_cell(gutter + column * cell, head + row * cell, cell, value, share, row == column, words))
    width = max(WIDTH if size > 2 else 0.0, gutter + side + 6.0)
    right = sum(matrix[place][place] for place in range(size))
    whole = sum(sum(counts) for counts in matrix)
    return drawing(
        title, head + side + 6.0, parts, width=max(width, 320.0), description=f"{count(right)} of {count(whole)} right"
    )


def _cell(x: float, y: float, size: float, value: float, share: float, hit: bool, words: str) -> Markup:
    gap = 1.5 if size > 20 else 0.5
    shade = 0.0 if value == 0 or not math.isfinite(share) else 0.1 + 0.9 * share
    rectangle = element(
        "rect",
        x=x,
        y=y,
        width=size - gap,
        height=size - gap,
        class_="cell " + ("hit-cell" if hit else "miss-cell"),
        fill_opacity=coordinate(shade),
    )
    ink = "on-dark" if shade > 0.55 else ("faint" if value == 0 else None)
    middle, centre = x + (size - gap) / 2, y + (size - gap) / 2
    figures: list[Child] = []
    written = count(value)
    if size >= _ROOM_FOR_PERCENT:
        figures = [
            text(middle, centre + 1, written, anchor="middle", class_=f"figure {ink or ''}".strip()),
            text(
                middle,
                centre + 15,
                percent(share).replace(SPACE, "\u202f"),
                anchor="middle",
                class_=f"tick {ink or ''}",
            ),
        ]
    elif size >= _ROOM_FOR_COUNT and text_width(written, 11.0) < size:
        figures = [text(middle, centre + 3.8, written, anchor="middle", class_=f"tick {ink or ''}".strip())]
    frame = element("rect", x=x, y=y, width=size - gap, height=size - gap, class_="cell-frame")
    return element("g", frame, rectangle, figures, tooltip(words))
