"""A clock around every loop nest, for the builds that profiles are made with, and the profile itself."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.work import Work
from chainrule.engines.profile import Peak, Profile, Row
from chainrule.ir.sizes import at

NDArray = np.ndarray[Any, Any]

_WARMING = 3


def timing_text(count: int) -> str:
    """The C that keeps the time of ``count`` loop nests, and the function that hands it over and starts again from nothing."""
    return f"""
#include <time.h>

static struct {{
    double seconds;
    long calls;
}} cr_nests[{max(1, count)}];

/* In slabs, on all threads together: the time, and the calls, each for its part of the rows. */
static struct {{
    long nanoseconds, portions;
}} cr_in_slabs[{max(1, count)}];

#define CR_ALL_ROWS (1L << 24)
static _Thread_local long cr_portion; /* of the rows: those of the slab that this thread is in; 0 outside */

static inline double cr_now(void) {{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}}

static inline void cr_note(int nest, double begun) {{
    const double taken = cr_now() - begun;
    if (cr_portion) {{
        __atomic_fetch_add(&cr_in_slabs[nest].nanoseconds, (long)(1e9 * taken), __ATOMIC_RELAXED);
        __atomic_fetch_add(&cr_in_slabs[nest].portions, cr_portion, __ATOMIC_RELAXED);
    }} else {{
        cr_nests[nest].seconds += taken;
        cr_nests[nest].calls++;
    }}
}}

/* Returns the portion to go back to. */
static inline __attribute__((unused)) long cr_enter_slab(long rows, long all) {{
    const long outside = cr_portion;
    cr_portion = (outside ? outside : CR_ALL_ROWS) * rows / all;
    return outside;
}}

/* Divides the time that slabs took among their nests. */
static inline __attribute__((unused)) void cr_share_out(double seconds) {{
    if (cr_portion) return;
    long total = 1;
    for (int k = 0; k < {count}; k++) total += cr_in_slabs[k].nanoseconds;
    for (int k = 0; k < {count}; k++) {{
        cr_nests[k].seconds += seconds * (double)cr_in_slabs[k].nanoseconds / (double)total;
        cr_nests[k].calls += (cr_in_slabs[k].portions + CR_ALL_ROWS / 2) / CR_ALL_ROWS;
    }}
    memset(cr_in_slabs, 0, sizeof cr_in_slabs);
}}

CR_EXPORT void cr_take_times(double *seconds, long *calls) {{
    for (int k = 0; k < {count}; k++) seconds[k] = cr_nests[k].seconds, calls[k] = cr_nests[k].calls;
    memset(cr_nests, 0, sizeof cr_nests);
}}
"""


@contextmanager
def timed(writer: Writer, number: int) -> Iterator[None]:
    """What is written inside counts as the time of this nest."""
    with writer.block(""):
        writer.line("const double begun = cr_now();")
        yield
        writer.line(f"cr_note({number}, begun);")


@contextmanager
def shared_out(writer: Writer) -> Iterator[None]:
    """What is written inside are slabs: the time until the last is done is that of the nests in them, in proportion to the time that
    all threads spend in each."""
    with writer.block(""):
        writer.line("const double begun = cr_now();")
        yield
        writer.line("cr_share_out(cr_now() - begun);")


def profile_of(
    name: str,
    run: Callable[[Sequence[NDArray]], object],
    library: ctypes.CDLL,
    work: Sequence[Work],
    arrays: Sequence[NDArray],
    batch: int,
    repeats: int,
    peak: Peak,
) -> Profile:
    """Run a program with clocks on copies of these arrays, the same in every run, after a few runs that only warm the caches."""
    copies = [np.array(array) for array in arrays]
    seconds = np.zeros((repeats, len(work)))
    calls = np.zeros(len(work), np.dtype(ctypes.c_long))
    whole = np.zeros(repeats)
    library.cr_take_times.restype = None
    library.cr_take_times.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    for number in range(-_WARMING, repeats):
        for copy, array in zip(copies, arrays, strict=True):
            np.copyto(copy, array)
        begun = time.perf_counter()
        run(copies)
        whole[max(0, number)] = time.perf_counter() - begun
        library.cr_take_times(seconds[max(0, number)].ctypes.data, calls.ctypes.data)
    # Medians of nests would not add up: every nest is slow in other runs.
    middle = np.argsort(whole)[repeats // 4 : repeats - repeats // 4]
    rows = [
        _row(entry, batch, int(count), float(time_taken), peak)
        for entry, count, time_taken in zip(work, calls, seconds[middle].mean(axis=0), strict=True)
    ]
    return Profile(name, repeats, float(whole[middle].mean()), peak, tuple(rows))


def _row(work: Work, batch: int, calls: int, seconds: float, peak: Peak) -> Row:
    flops, traffic = calls * at(work.flops, batch), calls * at(work.bytes, batch)
    most = peak.flops.get(work.dtype, max(peak.flops.values()))
    least = max(flops / most, traffic / peak.bytes) if peak.bytes else flops / most
    share = least / seconds if seconds else 0.0
    return Row(work.layer, work.phase, work.what, work.dtype, calls, seconds, flops, traffic, share)
