"""Axes: from data to drawing coordinates, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from chainrule.report.formats import MINUS, amount, count, power

_LARGEST = 1e150  # spans and squares of what is drawn stay finite

Kind = Literal["linear", "integer", "log"]


@dataclass(frozen=True)
class Scale:
    """A mapping of ``low … high`` onto ``start … end`` of the drawing, and the ticks on it."""

    kind: Kind
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def __call__(self, value: float) -> float:
        """The drawing coordinate of ``value``; values outside the scale stay at its ends."""
        low, high, at = self.low, self.high, value
        if self.kind == "log":
            low, high, at = math.log(low), math.log(high), math.log(max(value, 5e-324))
        share = (at - low) / (high - low)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))


def make_scale(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    kind: Kind = "linear",
    zero: bool = False,
    most_ticks: int = 6,
    tight: bool = False,
) -> Scale:
    """A scale that holds all finite ``values`` (and zero if asked), widened to round ticks unless ``tight``.

    A log scale ignores what is not positive, and every scale what is too large to draw. Without usable values the
    scale runs from 0 to 1 (log: 1 to 10).
    """
    usable = [float(v) for v in values if abs(v) < _LARGEST and (kind != "log" or v > 1.0 / _LARGEST)]
    if zero:
        usable.append(0.0)
    if not usable:
        usable = [1.0, 10.0] if kind == "log" else [0.0, 1.0]
    low, high = min(usable), max(usable)
    if kind == "log":
        return _log_scale(low, high, start, end, most_ticks)
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1.0 / _LARGEST):
        pad = 1.0 if kind == "integer" else (abs(low) * 0.1 or 1.0)
        low, high = (low - pad, high + pad) if not tight else (low, high + pad)
    step = tick_step(high - low, most_ticks, whole=kind == "integer")
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if tight:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        low, high = first * step, last * step
    ticks = tuple(place * step for place in range(first, last + 1))
    return Scale(kind, low, high, start, end, ticks, tick_labels(ticks, step))


def tick_step(span: float, most_ticks: int, *, whole: bool = False) -> float:
    """The smallest of 1, 2, 2.5, 5 × 10ⁿ that cuts ``span`` into fewer than ``most_ticks`` intervals."""
    raw = span / max(1, most_ticks - 1)
    exponent = math.floor(math.log10(raw)) if raw > 0 else 0
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0):
        step = factor * 10.0**exponent
        if step >= raw * (1 - 1e-9) and (not whole or step == round(step)):
            return max(step, 1.0) if whole else step
    return 1.0 if whole else 10.0 ** (exponent + 1)


def tick_labels(ticks: tuple[float, ...], step: float) -> tuple[str, ...]:
    """Labels that all have the same number of decimals, as many as the step needs."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest >= 1e6 or 0 < step < 1e-5:
        return tuple(amount(tick if abs(tick) > step / 2 else 0.0, 3) for tick in ticks)
    decimals = 0
    while decimals < 6 and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6 * step * 10**decimals:
        decimals += 1
    if decimals == 0:
        return tuple(count(tick) for tick in ticks)
    return tuple(f"{tick + 0.0:.{decimals}f}".replace("-", MINUS) for tick in ticks)


def _log_scale(low: float, high: float, start: float, end: float, most_ticks: int) -> Scale:
    if low == high:
        low, high = low / 2.0, high * 2.0
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    candidates = [_log_ticks(low, high, range(first, last + 1), factors) for factors in ((1.0, 2.0, 5.0), (1.0, 3.0))]
    candidates += [
        _log_ticks(low, high, range(first, last + 1, stride), (1.0,)) for stride in range(1, last - first + 2)
    ]
    ticks = next((ticks for ticks in candidates if len(ticks) <= most_ticks), candidates[-1])
    # The ends follow the data by less than a tick interval, so that a curve fills its axis.
    margin = (high / low) ** 0.04
    low, high = low / margin, high * margin
    kept = ticks or (math.sqrt(low * high),)
    return Scale("log", low, high, start, end, kept, tuple(_log_label(tick) for tick in kept))


def _log_ticks(low: float, high: float, exponents: range, factors: tuple[float, ...]) -> tuple[float, ...]:
    ticks = (factor * 10.0**exponent for exponent in exponents for factor in factors)
    return tuple(tick for tick in ticks if low * 0.97 <= tick <= high * 1.03)


def _log_label(tick: float) -> str:
    exponent = math.log10(tick)
    if -3.01 < exponent < 3.01:
        return f"{tick:.3g}"
    if abs(exponent - round(exponent)) < 1e-9:
        return f"10{power(round(exponent))}"
    return amount(tick, 1)
