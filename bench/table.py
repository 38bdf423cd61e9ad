"""Results as a table in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.race import AGREEMENT, Result

_COLUMNS = (
    "workload", "ours, ms", "best peer, ms", "ratio", "GFLOP/s", "of peak", "memory, MB", "peer's", "compiling, s cold / warm",
    "loss gap", "all peers, ms",
)  # fmt: skip


def table_of(results: Sequence[Result]) -> str:
    """One row per workload; the ratio is that of the best peer to ours, above 1 where ours is faster."""
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *(_line(_row(result)) for result in results)]
    return "\n".join(lines)


def _row(result: Result) -> list[str]:
    best = result.best_peer
    others = ", ".join(
        f"{name} {_number(ms)}" for name, ms in sorted(result.peers_ms.items(), key=lambda pair: pair[1])
    )
    return [
        result.workload,
        _number(result.ours_ms),
        "–" if best is None else f"{_number(result.peers_ms[best])} ({best})",
        "–" if result.ratio is None else f"{result.ratio:.2f}",
        _number(result.gflops),
        "–" if result.peak_share is None else f"{100 * result.peak_share:.0f} %",
        f"{result.peak_memory_mb:.0f}",
        "–" if best is None else f"{result.peers_memory_mb[best]:.0f}",
        f"{_seconds(result.compile_cold_s)} / {_seconds(result.compile_warm_s)}",
        "–" if result.loss_gap is None else f"{result.loss_gap:.0e}" + (" ✗" if disagrees(result) else ""),
        others or "–",
    ]


def disagrees(result: Result) -> bool:
    """Whether ours computes something else than PyTorch: a fast wrong step is not a result."""
    return result.loss_gap is not None and not result.loss_gap <= AGREEMENT


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Three significant digits, without powers of ten."""
    if not math.isfinite(value) or value == 0:
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 7)}f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
