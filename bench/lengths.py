"""``python -m bench.lengths``: time, memory and compile time of a training step against the length of its sequences.

Every measurement is a process of its own with an empty cache, so that compiling is compiling, and memory is that of one program.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np

import chainrule as cr
from bench.processes import in_a_process, parser_of
from chainrule import nn
from chainrule.engines.cpu.engine import ENGINE

BATCH, FEATURES = 2, 128
LAYERS = {
    "attention": lambda: nn.MultiheadAttention(FEATURES, 4),
    "plain": lambda: nn.MultiheadAttention(FEATURES, 4, block=None),
    "causal": lambda: nn.MultiheadAttention(FEATURES, 4, causal=True),
    "causal plain": lambda: nn.MultiheadAttention(FEATURES, 4, causal=True, block=None),
    "lstm": lambda: nn.LSTM(FEATURES, FEATURES, return_state=False),
}


def measured(layer: str, length: int, seconds: float) -> dict[str, float]:
    """Seconds to trace and compile, seconds of a step (the least), and MB that the program works in besides operands and results."""
    cr.seed(0)
    model = LAYERS[layer]()
    x = np.random.default_rng(0).standard_normal((BATCH, length, FEATURES)).astype(np.float32)

    def step(model: Any, x: Any) -> Any:
        return cr.value_and_grad(lambda model, x: cr.square(model(x)).mean(), (0, 1))(model, x)

    cr.compile(lambda x: cr.exp(x), engine="cpu")(np.ones(3))  # the compiler is found, the threads are there
    begun = time.perf_counter()
    compiled = cr.compile(step, batch=("x",), engine="cpu")
    graph, _ = compiled.graph_and_arrays(model, x)
    program = ENGINE.load(graph)
    compile_time = time.perf_counter() - begun
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        compiled(model, x)
        times.append(time.perf_counter() - begun)
    arena, borrowed = program.working_bytes(BATCH)
    threads = int(os.environ.get("CHAINRULE_THREADS") or len(os.sched_getaffinity(0)))
    return {
        "compile": compile_time,
        "step": min(times[1:]),
        "works in": (arena + threads * borrowed) / 1e6,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bench.lengths", __doc__, "layer", list(LAYERS), 1.0)
    parser.add_argument("--lengths", default="128,256,512,1024,2048,4096", help="numbers with commas between them")
    options = parser.parse_args(arguments)
    lengths = [int(text) for text in options.lengths.split(",")]
    if options.one:
        print(json.dumps(measured(options.names[0], lengths[0], options.seconds)))
        return 0
    print("| layer | T | step, ms | works in, MB | trace and compile, s |")
    print("| --- | --- | --- | --- | --- |")
    for layer in options.names:
        for length in lengths:
            found = _in_a_process(layer, length, options.seconds)
            row = (f"{1e3 * found['step']:.3g}", *(f"{found[k]:.3g}" for k in ("works in", "compile")))
            print(f"| {layer} | {length} | {' | '.join(row)} |", flush=True)
    return 0


def _in_a_process(layer: str, length: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return in_a_process("bench.lengths", layer, ["--lengths", str(length), "--seconds", str(seconds)], folder)


if __name__ == "__main__":
    sys.exit(main())
