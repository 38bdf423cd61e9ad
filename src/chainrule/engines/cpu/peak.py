"""What this machine can do at most with the threads in use, measured once and kept beside the compiled code.

Arithmetic: chains of fused multiplications and additions in registers, as many vectors wide as hide their latency. Memory:
``a[i] = b[i] + c·d[i]`` over arrays that no cache holds (the triad of McCalpin's STREAM benchmark, 1995), counted as three arrays
moved. Both are the best of several runs.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

from chainrule.engines.cpu.cache import entry_key, open_cache
from chainrule.engines.cpu.loading import load_library, load_runtime
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.toolchain import Toolchain
from chainrule.engines.profile import Peak

# Vectors in flight: more than latency times units (8 on common processors), fewer than the registers.
_CHAINS = 12
_STEPS = 100_000
_ARRAY = 1 << 26  # bytes
_RUNS = 16


def measured_peak(toolchain: Toolchain) -> Peak:
    """The peak of this machine with the present number of threads: the best of what was seen now and before.

    Measuring takes about a third of a second. It is done every time, because the machine may have been busy with something else.
    """
    threads = load_runtime().threads
    source = _source(toolchain.vector_bytes)
    key = entry_key("peak", source, toolchain.identity, str(threads))
    peak = _measure(source, toolchain, threads)

    def make(path: Path) -> None:
        path.write_text(json.dumps({"flops": peak.flops, "bytes": peak.bytes}), encoding="utf-8")

    try:
        cache = open_cache()[0]
        before: dict[str, Any] = json.loads(cache.obtain(key, ".json", make).read_bytes())
        flops = {dtype: max(rate, before["flops"][dtype]) for dtype, rate in peak.flops.items()}
        peak = Peak(threads, flops, max(peak.bytes, before["bytes"]))
        if (peak.flops, peak.bytes) != (before["flops"], before["bytes"]):
            cache.discard(key, ".json")
            cache.obtain(key, ".json", make)
    except OSError:
        pass  # then only what was seen now counts
    return peak


def _measure(source: str, toolchain: Toolchain, threads: int) -> Peak:
    library = load_library(source, name="peak", toolchain=toolchain)
    for name in ("float32", "float64"):
        function = getattr(library, f"cr_peak_{name}")
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_long]
    library.cr_peak_memory.restype, library.cr_peak_memory.argtypes = ctypes.c_double, [ctypes.c_long]
    flops = {
        name: max(getattr(library, f"cr_peak_{name}")(threads) for _ in range(_RUNS)) for name in ("float32", "float64")
    }
    return Peak(threads, flops, library.cr_peak_memory(_RUNS))


def _source(vector_bytes: int) -> str:
    return _HEAD + "".join(_chains(dtype, vector_bytes) for dtype in ("float32", "float64")) + _MEMORY


_HEAD = """
#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
"""


def _chains(dtype: str, vector_bytes: int) -> str:
    type = C_TYPES[dtype]
    names = [f"c{k}" for k in range(_CHAINS)]
    body = "\n        ".join(f"{name} = {name} * factor + term;" for name in names)
    flops = 2 * _CHAINS * _STEPS * (vector_bytes // BYTES[dtype])
    return f"""
typedef {type} {dtype}_vector __attribute__((vector_size({vector_bytes})));

/* Every chain tends to term / (1 - factor), so that no number grows or vanishes. */
static void chains_{dtype}(void *context, long index) {{
    {dtype}_vector {", ".join(f"{name} = {{{k}}}" for k, name in enumerate(names))};
    const {type} factor = ({type})0.5, term = ({type})(1 + index);
    for (long step = 0; step < {_STEPS}; step++) {{
        {body}
    }}
    const {dtype}_vector sum = {" + ".join(names)};
    (({type} *)context)[index % 64] = sum[0];
}}

CR_EXPORT double cr_peak_{dtype}(long threads) {{
    static {type} kept[64];
    const uint64_t state = cr_begin();
    const double begun = seconds();
    cr_parallel(chains_{dtype}, kept, 4 * threads);
    const double taken = seconds() - begun;
    cr_end(state);
    return {flops}.0 * 4 * threads / taken;
}}
"""


_MEMORY = f"""
static void triad(void *context, long index) {{
    float *restrict const a = context, *restrict const b = a + {_ARRAY // 4}, *restrict const d = b + {_ARRAY // 4};
    const long size = {_ARRAY // 4} / 64;
    _Pragma("GCC ivdep")
    for (long k = index * size; k < (index + 1) * size; k++) a[k] = b[k] + 0.5f * d[k];
}}

CR_EXPORT double cr_peak_memory(long runs) {{
    char *const memory = malloc(3L * {_ARRAY} + 64);
    if (!memory) return 0;
    char *const aligned = memory + (-(uintptr_t)memory % 64);
    memset(aligned, 0, 3L * {_ARRAY});
    double best = 0;
    for (long run = 0; run < runs; run++) {{
        const double begun = seconds();
        cr_parallel(triad, aligned, 64);
        const double rate = 3.0 * {_ARRAY} / (seconds() - begun);
        if (rate > best) best = rate;
    }}
    free(memory);
    return best;
}}
"""
