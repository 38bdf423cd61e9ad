"""Contestants in processes of their own take turns on one workload; all but the one that runs are stopped."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.steps import PEAK, gap
from bench.workloads import Product, Workload

AGREEMENT = 1e-3  # of the first losses of ours and PyTorch's, relative
FOLDER = Path(__file__).parents[1]


class ContestantError(Exception):
    """A contestant cannot go on; the message says why."""


class Process:
    """One contestant. It is stopped whenever it is not asked for something, so that its threads cannot spin."""

    def __init__(self, source: str, workload: str, environment: Mapping[str, str] | None = None) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        paths = [str(FOLDER), str(FOLDER / "src"), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.contestant", source, workload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(environment or {})},
            start_new_session=True,
        )
        self.unread = b""

    def start(self, seconds: float) -> None:
        """Wait until it has imported its framework, and stop it.

        Raises:
            ContestantError: where it cannot, or takes longer than this.
        """
        self._received(seconds)
        self._signal(signal.SIGSTOP)

    def ask(self, most: float, **command: Any) -> dict[str, Any]:
        """Let it run for one command, for so many seconds at most.

        Raises:
            ContestantError: where it says that it cannot, dies, or takes longer than this.
        """
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise ContestantError(self._last_words()) from None
        answer = self._received(most)
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                assert file is not None
                file.close()

    def _received(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise ContestantError(f"took longer than {seconds:.0f} s")
            received = os.read(descriptor, 1 << 16)
            if not received:
                raise ContestantError(self._last_words())
            self.unread += received
        line, _, self.unread = self.unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        for why in ("missing", "failed"):
            if why in answer:
                raise ContestantError(answer[why])
        return answer

    def _last_words(self) -> str:
        """The last line of what a process that died said."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"ended with status {code}" + (f": {lines[-1][:200]}" if lines else "")

    def _signal(self, number: int) -> None:
        """To the whole group: some frameworks have processes of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass(frozen=True)
class Budget:
    """How long things may take, in seconds: ``run`` is the time of each contestant, cut into rounds."""

    run: float = 6.0
    rounds: int = 6
    prepare: float = 120.0


@dataclass(frozen=True)
class Result:
    """What one workload came to. ``peers_*`` map names to numbers, and ``skipped`` names to reasons."""

    workload: str
    per: str
    ours_ms: float
    peers_ms: dict[str, float]
    ratio: float | None
    gflops: float
    peak_gflops: float | None
    peak_share: float | None
    peak_memory_mb: float
    peers_memory_mb: dict[str, float]
    compile_cold_s: float | None
    compile_warm_s: float | None
    loss_gap: float | None
    peers_loss_gap: dict[str, float]
    skipped: dict[str, str]

    @property
    def best_peer(self) -> str | None:
        return min(self.peers_ms, key=self.peers_ms.__getitem__, default=None)


@dataclass
class _Part:
    """What is known of one contestant."""

    process: Process
    compared: list[float]
    times: list[float]
    memory: float = 0.0


def race(
    workload: Workload | Product,
    contestants: Mapping[str, str],
    budget: Budget,
    *,
    compile_times: bool = True,
    say: Callable[[str], None] = print,
    before_timing: Callable[[], None] = lambda: None,
) -> Result:
    """Time ``"ours"`` and its peers, given as ``{name: "module:form"}``, on a workload.

    ``before_timing`` is called when everybody is ready. Raises :class:`ContestantError` where ours cannot run.
    """
    with tempfile.TemporaryDirectory(prefix="chainrule-bench-") as cache, contextlib.ExitStack() as stack:
        environment = {"CHAINRULE_CACHE": cache}
        cold = warm = None
        if compile_times and "ours" in contestants:
            cold, warm = (_compile_seconds(contestants["ours"], workload.name, environment, budget) for _ in range(2))
        parts: dict[str, _Part] = {}
        skipped: dict[str, str] = {}
        peaks = _peak(workload.name, budget, skipped)
        for name, source in contestants.items():
            process = Process(source, workload.name, environment)
            stack.callback(process.close)
            try:
                process.start(budget.prepare)
                compared = process.ask(budget.prepare, do="prepare")["compared"]
            except ContestantError as failure:
                process.close()
                skipped[name] = str(failure)
                say(f"{workload.name}: {name} is left out: {failure}")
            else:
                parts[name] = _Part(process, compared, [])
        if "ours" in contestants and "ours" not in parts:
            raise ContestantError(skipped["ours"])
        before_timing()
        for name, failure in _take_turns(parts, budget):
            skipped[name] = failure
            say(f"{workload.name}: {name} is left out: {failure}")
            if name == "ours":
                raise ContestantError(failure)
        for part in parts.values():
            with contextlib.suppress(ContestantError):
                part.memory = part.process.ask(budget.prepare, do="end")["memory_mb"]
        # Whatever disturbs a measurement of the peak makes it smaller.
        peaks += _peak(workload.name, budget, skipped)
    return _result(workload, parts, skipped, max(peaks, default=None), cold, warm)


def _compile_seconds(source: str, workload: str, environment: Mapping[str, str], budget: Budget) -> float:
    """How much longer the first step takes than the others, in a fresh process."""
    process = Process(source, workload, environment)
    try:
        process.start(budget.prepare)
        return float(process.ask(budget.prepare, do="compile")["seconds"])
    finally:
        process.close()


def _peak(workload: str, budget: Budget, skipped: dict[str, str]) -> list[float]:
    """The machine's peak in GFLOP/s, measured afresh; nothing where it cannot be."""
    with tempfile.TemporaryDirectory(prefix="chainrule-bench-") as cache:
        process = Process(PEAK, workload, {"CHAINRULE_CACHE": cache})
        try:
            process.start(budget.prepare)
            return list(process.ask(budget.prepare, do="prepare")["compared"])
        except ContestantError as error:
            skipped["peak"] = str(error)
            return []
        finally:
            process.close()


def _take_turns(parts: dict[str, _Part], budget: Budget) -> Iterator[tuple[str, str]]:
    """Run everybody in every round, the first of which is to warm up; yields who failed, and why."""
    for number in range(budget.rounds + 1):
        for name, part in list(parts.items()):
            seconds = (1.0 if number else 0.5) * budget.run / budget.rounds
            try:
                times = part.process.ask(budget.prepare, do="run", seconds=seconds)["ms"]
            except ContestantError as failure:
                parts.pop(name).process.close()
                yield name, str(failure)
            else:
                part.times.extend(times if number else [])


def _result(
    workload: Workload | Product,
    parts: Mapping[str, _Part],
    skipped: dict[str, str],
    peak: float | None,
    cold: float | None,
    warm: float | None,
) -> Result:
    medians = {name: statistics.median(part.times) for name, part in parts.items()}
    ours_ms = medians.get("ours", float("nan"))
    peers = {name: ms for name, ms in medians.items() if name != "ours"}
    gflops = 1e-6 * workload.flops / ours_ms
    reference = parts["torch"].compared if "torch" in parts else None
    gaps = {
        name: gap(part.compared, reference) for name, part in parts.items() if reference is not None and name != "torch"
    }
    epoch = isinstance(workload, Workload) and workload.epoch
    return Result(
        workload=workload.name,
        per="step, in epochs" if epoch else "product" if isinstance(workload, Product) else "step",
        ours_ms=ours_ms,
        peers_ms=peers,
        ratio=min(peers.values()) / ours_ms if peers else None,
        gflops=gflops,
        peak_gflops=peak,
        peak_share=gflops / peak if peak else None,
        peak_memory_mb=parts["ours"].memory if "ours" in parts else float("nan"),
        peers_memory_mb={name: parts[name].memory for name in peers},
        compile_cold_s=cold,
        compile_warm_s=warm,
        loss_gap=gaps.pop("ours", None),
        peers_loss_gap=gaps,
        skipped=skipped,
    )
