"""One contestant in a process of its own: ``python -m bench.contestant MODULE:FORM WORKLOAD``.

It reads commands, one JSON object on each line of its standard input, and answers each with one on its standard output:

* ``{"do": "prepare"}`` builds it and answers ``{"compared": [numbers]}``;
* ``{"do": "run", "seconds": s}`` calls it again and again for as long, and answers ``{"ms": [milliseconds of each step]}``;
* ``{"do": "compile"}`` builds it, and answers ``{"seconds": the first call's, without one step}``;
* ``{"do": "end"}`` answers ``{"memory_mb": the most memory it held, above what it held after imports}`` and ends.

Before the first command it says ``{"ready": true}``. ``{"missing": ...}`` is said instead where the framework is not installed,
``{"failed": ...}`` where something cannot be done. What the frameworks print goes to the standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from bench.steps import Contestant, NotApplicableError, importer
from bench.workloads import ALL, Product, Workload

MOST_CALLS = 2000  # of one answer
_MIB = 2**20


class Memory:
    """The most memory this process held since now, above what it holds now."""

    def __init__(self) -> None:
        self.before = _resident("VmRSS")
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of the imports

    def peak_mb(self) -> float:
        return max(0.0, (_resident("VmHWM") - self.before) / _MIB)


def _resident(field: str) -> int:
    """Bytes of this process, now (``VmRSS``) or at most (``VmHWM``)."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


class Session:
    """Answers commands."""

    def __init__(self, build: Callable[[], Contestant]) -> None:
        self.build = build
        self.memory = Memory()
        self.contestant: Contestant | None = None

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"prepare": self._prepare, "run": self._run, "compile": self._compile, "end": self._end}[command["do"]](
            command
        )

    def _prepare(self, command: dict[str, Any]) -> dict[str, Any]:
        self.contestant = self.build()
        return {"compared": self.contestant.compared()}

    def _run(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.contestant is not None
        call, steps = self.contestant.call, self.contestant.steps
        clock = time.perf_counter
        times = []
        now = clock()
        end = now + command["seconds"]
        while now < end and len(times) < MOST_CALLS:
            began = clock()
            call()
            now = clock()
            times.append(1e3 * (now - began) / steps)
        return {"ms": times}

    def _compile(self, command: dict[str, Any]) -> dict[str, Any]:
        contestant = self.build()
        times = []
        while len(times) < 2 or (sum(times[1:]) < 1.0 and len(times) < 20):
            began = time.perf_counter()
            contestant.call()
            times.append(time.perf_counter() - began)
        return {"seconds": max(0.0, times[0] - statistics.median(times[1:]))}

    def _end(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"memory_mb": self.memory.peak_mb()}


def serve(source: str, workload: Workload | Product, commands: TextIO, answers: TextIO) -> None:
    """Answer commands until the last one."""

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        build = importer(source)
    except ImportError as error:
        say({"missing": str(error)})
        return
    session = Session(lambda: build(workload))
    say({"ready": True})
    for line in commands:
        command = json.loads(line)
        try:
            say(session.answer(command))
        except NotApplicableError as error:
            say({"failed": str(error)})
        except Exception as error:  # whatever a framework raises ends its part in the race, and not the race
            sys.excepthook(type(error), error, error.__traceback__)
            say({"failed": f"{type(error).__name__}: {_first_line(error)}"})
        if command["do"] == "end":
            return


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else ""


def _die_with_parent() -> None:
    """A stopped process would outlive a parent that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    source, workload = sys.argv[1:3]
    serve(source, ALL[workload], sys.stdin, answers)
    sys.stderr.flush()
    # Some frameworks hang or crash in their own last rites.
    os._exit(0)


if __name__ == "__main__":
    main()
