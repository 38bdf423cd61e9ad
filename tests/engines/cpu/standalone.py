"""Many programs compiled into one executable, with any flags: for sanitizers, and to build a lot with one call of the compiler.

The C of every program is what the engine would load. A small main function reads batch sizes and operands from a file, runs each
program, and writes the results to another. Under an address sanitizer every array and every place of the arena is a block of its
own, filled with bytes that are NaN as a number, so that reading one element too far or too early shows.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from chainrule.core.dtypes import to_numpy
from chainrule.engines.binding import bind_batch
from chainrule.engines.cpu.loading import prelude
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.cpu.prelude import PRELUDE
from chainrule.engines.cpu.toolchain import Toolchain
from chainrule.ir.graph import Graph
from chainrule.ir.sizes import shape_at

# Functions, but not their attributes.
DEFINED = re.compile(
    r"^(?:static|CR_EXPORT)\b[^=;\n]*?\b(?!__)(\w+)\((?=\s*(?:void|char|long|const|struct|float|double|cr_))",
    re.MULTILINE,
)

ALONE = """
static char *cr_alone(long bytes) {
    void *made;
    if (posix_memalign(&made, 64, bytes)) exit(7);
    memset(made, 255, bytes);
    return made;
}
"""

MAIN = r"""
typedef struct {
    void (*run)(char **, char *, long);
    long (*arena)(long);
} built;

static const built programs[] = {%(table)s};

static int64_t number(FILE *file) {
    int64_t found;
    if (fread(&found, sizeof found, 1, file) != 1) exit(3);
    return found;
}

int main(int count, char **arguments) {
    FILE *in = fopen(arguments[1], "rb"), *out = fopen(arguments[2], "wb");
    if (!in || !out) return 2;
    for (int64_t runs = number(in); runs > 0; runs--) {
        const built *program = &programs[number(in)];
        const int64_t B = number(in), arrays = number(in);
        char **objects = malloc((arrays + 1) * sizeof *objects);
        int64_t *bytes = malloc((arrays + 1) * sizeof *bytes), *is_result = malloc((arrays + 1) * sizeof *bytes);
        for (int64_t k = 0; k < arrays; k++) {
            bytes[k] = number(in), is_result[k] = number(in);
            const int64_t over = number(in);
            objects[k] = over >= 0 ? objects[over] : cr_alone(bytes[k]);
            if (!is_result[k] && bytes[k] && fread(objects[k], bytes[k], 1, in) != 1) return 4;
        }
        char *arena = malloc(program->arena(B) + 64);
        program->run(objects, arena, B);
        for (int64_t k = 0; k < arrays; k++)
            if (is_result[k] && bytes[k] && fwrite(objects[k], bytes[k], 1, out) != 1) return 5;
        free(arena);
    }
    return fclose(out) ? 6 : 0;
}
"""

WITH_THREADS = """
extern const cr_runtime *cr_start(void);
extern void cr_use_threads(int threads);
__attribute__((constructor)) static void begin(void) {
    cr_attach(cr_start());
    cr_use_threads(%d);
}
"""


@dataclass(eq=False)
class Job:
    """A program, and the operands of the runs to be made of it."""

    graph: Graph
    runs: list[list[np.ndarray]]
    donated: frozenset[int] = frozenset()
    name: str = ""


class FailedRunError(Exception):
    """The executable stopped: the message has what it, or the sanitizer in it, said."""


def run_jobs(
    jobs: Sequence[Job], toolchain: Toolchain, folder: Path, flags: Sequence[str] = (), *, threads: int = 0
) -> list[list[list[np.ndarray]]]:
    """The results of every run of every job, from one executable built with these flags more."""
    text, sources = [], []
    for number, job in enumerate(jobs):
        source = lower(job.graph, job.donated, toolchain.vector_bytes).source
        types, own = source.text.split(PRELUDE)
        text += [types + PRELUDE] if not number else []
        if any("address" in flag for flag in flags):
            own = re.sub(r"= (arena|top), \1 \+= cr_(?:round|apart)\((.*)\);", r"= cr_alone(\2);", own)
        names = "|".join(sorted(set(DEFINED.findall(own))))
        own = re.sub(rf"\b({names})\b", rf"p{number}_\1", own)
        # What nothing here calls need not be compiled.
        text.append(own.replace("CR_EXPORT ", "static __attribute__((unused)) "))
        sources.append(source)
    table = ", ".join(f"{{p{number}_cr_run, p{number}_cr_arena}}" for number in range(len(jobs)))
    start = WITH_THREADS % threads if threads else ""
    files = [folder / "programs.c"]
    files[0].write_text("\n".join([prelude(), ALONE, *text, start, MAIN % {"table": table}]), encoding="utf-8")
    if threads:
        parts = [(resources.files("chainrule.engines.cpu") / "c" / n).read_text() for n in ("runtime.h", "runtime.c")]
        files.append(folder / "runtime.c")
        files[1].write_text("#define CR_RUNTIME_ITSELF 1\n" + "\n".join(parts), encoding="utf-8")
    build(toolchain, files, folder / "programs", flags)
    _write_operands(folder / "operands", [(job, source.written_over) for job, source in zip(jobs, sources)], sources)
    # Where use after return is looked for, gcc 12 has locals in places of its own, which are not aligned as vectors have to be.
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    done = subprocess.run(
        [folder / "programs", folder / "operands", folder / "results"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    if done.returncode or done.stderr:
        raise FailedRunError(f"the executable ended with {done.returncode}: {done.stderr[:6000]}")
    return _read_results(folder / "results", jobs)


def build(toolchain: Toolchain, files: Sequence[Path], program: Path, flags: Sequence[str]) -> None:
    """Compile and link; the test is skipped where the compiler comes without the sanitizer that is asked for."""
    command = [*toolchain.command, *toolchain.flags, *flags, *map(str, files), "-o", str(program), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if any("sanitize" in flag for flag in flags) and ("cannot find" in done.stderr or "unsupported" in done.stderr):
        pytest.skip(f"this compiler comes without {flags}: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr[:4000]


def _write_operands(file: Path, jobs, sources) -> None:
    parts: list[bytes] = []

    def put(*numbers: int) -> None:
        parts.append(np.array(numbers, np.int64).tobytes())

    put(sum(len(job.runs) for job, _ in jobs))
    for number, ((job, written_over), source) in enumerate(zip(jobs, sources)):
        constants = [np.ascontiguousarray(source.arrays[v].attributes["value"]) for v in source.constants]
        for operands in job.runs:
            batch = bind_batch(job.graph, operands)
            results = [_empty(value, batch) for value in job.graph.outputs]
            put(number, batch, len(operands) + len(results) + len(constants))
            for array in operands:
                put(array.nbytes, 0, -1)
                parts.append(np.ascontiguousarray(array).tobytes())
            for place, array in enumerate(results):
                put(array.nbytes, 1, written_over.get(place, -1))
            for array in constants:
                put(array.nbytes, 0, -1)
                parts.append(array.tobytes())
    file.write_bytes(b"".join(parts))


def _empty(value, batch: int) -> np.ndarray:
    return np.empty(shape_at(value.shape, batch), to_numpy(value.dtype))


def _read_results(file: Path, jobs: Sequence[Job]) -> list[list[list[np.ndarray]]]:
    data = file.read_bytes()
    place = 0
    found = []
    for job in jobs:
        runs = []
        for operands in job.runs:
            results = [_empty(value, bind_batch(job.graph, operands)) for value in job.graph.outputs]
            for array in results:
                array[...] = np.frombuffer(data, array.dtype, array.size, place).reshape(array.shape)
                place += array.nbytes
            runs.append(results)
        found.append(runs)
    assert place == len(data)
    return found
