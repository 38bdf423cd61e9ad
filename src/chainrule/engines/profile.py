"""What a profile says: for every loop nest of a program how often it ran, how long, how much it did, and how near that is to the
machine's own measured peak."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

NDArray = np.ndarray[Any, Any]

_LONGEST = 72


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that a machine was seen to do with so many threads: arithmetic by type, and memory traffic; per second."""

    threads: int
    flops: dict[str, float]
    bytes: float


@dataclass(frozen=True, slots=True)
class Row:
    """One loop nest.

    ``seconds`` is the time of all its ``calls`` in a run, the mean of the same runs as for the whole. ``flops`` counts every
    elementwise operation as one and every multiplication with its addition as two; ``bytes`` is the size of everything that the nest
    reads and writes, each array once per call. ``share`` is the time that the peak would need (for the arithmetic or for the memory,
    whichever is longer) over the time taken; it exceeds 1 where the data were in a cache, which is faster than memory, and where
    a convolution takes fewer multiplications than its definition, whose operations are counted.
    """

    layer: str
    phase: str
    what: str
    dtype: str
    calls: int
    seconds: float
    flops: float
    bytes: float
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """The loop nests of one program in the order in which they run. ``str(profile)`` is a table of them by time.

    ``seconds`` is the time of a whole run with its clock readings, the mean of the middle half of all ``repeats`` runs; what the
    rows do not add up to is spent between the nests.
    """

    name: str
    repeats: int
    seconds: float
    peak: Peak
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """Everything as one JSON object; times are in seconds, work in operations and bytes per run."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        rows = sorted(self.rows, key=lambda row: -row.seconds)
        table = [("time", "share", "calls", "GFLOP/s", "GB/s", "of peak", "phase", "layer", "what it computes")]
        table += [
            (
                _time(row.seconds),
                _percent(row.seconds, self.seconds),
                str(row.calls),
                _rate(row.flops, row.seconds),
                _rate(row.bytes, row.seconds),
                f"{100 * row.share:.0f} %",
                row.phase,
                row.layer,
                row.what if len(row.what) <= _LONGEST else f"{row.what[: _LONGEST - 1]}…",
            )
            for row in rows
        ]
        inside = sum(row.seconds for row in rows)
        rest = max(0.0, self.seconds - inside)
        total = (
            _time(inside),
            _percent(inside, self.seconds),
            str(sum(row.calls for row in rows)),
            _rate(sum(row.flops for row in rows), inside),
            _rate(sum(row.bytes for row in rows), inside),
            "",
            "",
            "",
            "all nests",
        )
        between = (_time(rest), _percent(rest, self.seconds), "", "", "", "", "", "", "between the nests")
        lines = _aligned([*table, total, between])
        line = "-" * max(map(len, lines))
        fastest = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in self.peak.flops.items())
        threads = "1 thread" if self.peak.threads == 1 else f"{self.peak.threads} threads"
        head = [
            f"{self.name}: {_time(self.seconds)} per run, the mean of the middle half of {self.repeats}, on {threads}",
            f"The most this machine was seen to do: {fastest}, {self.peak.bytes / 1e9:.0f} GB/s",
            "",
        ]
        return "\n".join([*head, lines[0], line, *lines[1:-2], line, *lines[-2:]])


@runtime_checkable
class Profiling(Protocol):
    """A program that can say where its time goes."""

    def profile(self, arrays: Sequence[NDArray], repeats: int) -> Profile: ...


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _rate(amount: float, seconds: float) -> str:
    return f"{amount / seconds / 1e9:.1f}" if amount and seconds else "-"


def _aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of numbers to the right, the last three to the left."""
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    words = len(widths) - 3
    return [
        "  ".join(
            cell.ljust(w) if k >= words else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    ]
