"""The machine's peak: multiplications and additions of vectors that stay in registers, on every processor this process may use."""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from pathlib import Path

from bench.steps import Contestant
from bench.workloads import COMPARED, Product, Workload
from chainrule.engines.cpu.toolchain import NoToolchain, find_toolchain

# Enough independent sums to hide the latency of an addition on two pipelines.
_SUMS = 16
_ROUNDS = 2_000_000

_SOURCE = """
#include <pthread.h>
typedef float vector __attribute__((vector_size(BYTES)));
static void *work(void *where) {
    vector SUMS, factor, term;
    for (int k = 0; k < (int)(BYTES / sizeof(float)); k++) factor[k] = 0.999f, term[k] = 1e-3f;
    START
    for (long n = 0; n < ROUNDS; n++) {
        BODY
    }
    *(float *)where = TOTAL;
    return 0;
}
__attribute__((visibility("default"))) float run(int threads) {
    pthread_t started[256];
    float totals[256], total = 0;
    for (int k = 1; k < threads; k++)
        if (pthread_create(&started[k], 0, work, &totals[k])) return -1;
    work(&totals[0]);
    for (int k = 1; k < threads; k++) pthread_join(started[k], 0);
    for (int k = 0; k < threads; k++) total += totals[k];
    return total;
}
"""


def _source(width: int, register: str) -> str:
    """The loop for vectors of so many bytes; an empty assembly statement keeps each sum in a register of its own."""
    sums = [f"s{k}" for k in range(_SUMS)]
    step = '{0} = {0} * factor + term; __asm__ volatile("" : "+{1}"({0}));'
    parts = {
        "BYTES": str(width),
        "SUMS": ", ".join(sums),
        "START": " ".join(f"{s} = term * {k}.0f;" for k, s in enumerate(sums)),
        "ROUNDS": f"{_ROUNDS}L",
        "BODY": "\n        ".join(step.format(s, register) for s in sums),
        "TOTAL": " + ".join(f"{s}[0]" for s in sums),
    }
    source = _SOURCE
    for name, text in parts.items():
        source = source.replace(name, text)
    return source


class Peak:
    """A call makes ``flops`` operations; ``gflops`` of its fastest call so far is the peak."""

    steps = 1

    def __init__(self) -> None:
        found = find_toolchain()
        if isinstance(found, NoToolchain):
            raise RuntimeError(found.reason)
        width = found.vector_bytes
        register = "v" if "avx512" in found.features else "x" if "sse2" in found.features else "w"
        with tempfile.TemporaryDirectory(prefix="chainrule-") as folder:
            library = Path(folder) / "peak.so"
            found.compile(_source(width, register), library, name="the loop that measures the peak")
            self._run = ctypes.CDLL(str(library)).run
        self._run.restype = ctypes.c_float
        self.threads = min(256, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        self.flops = 2.0 * self.threads * _SUMS * _ROUNDS * (width // 4)
        self.gflops = 0.0

    def call(self) -> None:
        began = time.perf_counter()
        if self._run(self.threads) < 0:
            raise RuntimeError("a thread could not be started")
        self.gflops = max(self.gflops, 1e-9 * self.flops / (time.perf_counter() - began))

    def compared(self) -> list[float]:
        """The operations of a call, for whoever divides them by its time."""
        return [self.flops] * COMPARED


def build(workload: Workload | Product, form: str) -> Contestant:
    return Peak()


if __name__ == "__main__":
    peak = Peak()
    for _ in range(5):
        peak.call()
    print(f"{peak.gflops:.0f} GFLOP/s of float32 on {peak.threads} threads")
