"""``python -m bench.starts``: how long a training step takes to start when its program is in the cache.

Every measurement is a process of its own, with a cache that another has filled. A call of a compiled step begins with tracing, which
ends with a graph; what the engine does from there until the step has run once, less the time of one step, is the start.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import ours
from bench.processes import in_a_process, parser_of
from bench.workloads import WORKLOADS
from chainrule.engines.cpu.engine import ENGINE

COLUMNS = ("trace", "load", "first", "second", "step", "start")
HEADINGS = ("trace", "load", "first call from there", "second call", "step", "start")


def measured(workload: str, seconds: float) -> dict[str, float]:
    """Seconds of this process's first calls.

    ``trace`` runs until the engine has the recorded graph, ``load`` until there is a program, ``first`` until the first call has
    returned; ``second`` is the next call, in which the code for later calls is written, and ``step`` the median of those after it, for
    so many seconds. ``start`` is what the first call took from the graph on, less such a step.
    """
    contestant = ours.build(WORKLOADS[workload], "")
    with _loads() as loads:
        calls = [time.perf_counter()]
        while len(calls) < 6 or calls[-1] - calls[2] < seconds:
            contestant.call()
            calls.append(time.perf_counter())
    (began, loaded), *_ = loads
    first, second = calls[1] - loaded, calls[2] - calls[1]
    step = statistics.median(b - a for a, b in zip(calls[2:], calls[3:]))
    start = loaded - began + max(0.0, first - step)
    return dict(zip(COLUMNS, (began - calls[0], loaded - began, first, second, step, start), strict=True))


@contextmanager
def _loads() -> Iterator[list[tuple[float, float]]]:
    """When loads of the engine began and ended."""
    times: list[tuple[float, float]] = []
    load = ENGINE.load

    def timed(*given: object) -> object:
        began = time.perf_counter()
        program = load(*given)
        times.append((began, time.perf_counter()))
        return program

    ENGINE.load = timed
    try:
        yield times
    finally:
        del ENGINE.load


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bench.starts", __doc__, "workload", list(WORKLOADS), 0.3)
    parser.add_argument("--processes", type=int, default=5, help="measurements of each workload (5)")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measured(options.names[0], options.seconds)))
        return 0
    print("Milliseconds: medians, and of starts the least and the most.\n")
    print(f"| workload | {' | '.join(HEADINGS)} | least to most |\n| --- |{' --- |' * (len(HEADINGS) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        for workload in options.names:
            print(_row(workload, folder, max(1, options.processes), options.seconds), flush=True)
    return 0


def _row(workload: str, cache: str, processes: int, seconds: float) -> str:
    _in_a_process(workload, cache, 0.0)  # fills the cache
    found = [_in_a_process(workload, cache, seconds) for _ in range(processes)]
    medians = [f"{1e3 * statistics.median(each[column] for each in found):.3g}" for column in COLUMNS]
    starts = [1e3 * each["start"] for each in found]
    return f"| {workload} | {' | '.join(medians)} | {min(starts):.3g} to {max(starts):.3g} |"


def _in_a_process(workload: str, cache: str, seconds: float) -> dict[str, float]:
    return in_a_process("bench.starts", workload, ["--seconds", str(seconds)], cache)


if __name__ == "__main__":
    sys.exit(main())
