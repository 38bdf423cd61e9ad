"""The reference engine against straightforward hand-written NumPy: one training step of 784-512-512-10, batch 128, Adam.

Run with ``python -m bench.numpy_step``. Both compute the same step in float32 from the same weights (the losses of the first steps are
compared), in turns, and the medians are reported as a ratio: ours / NumPy, at most 1.5 wanted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import chainrule as cr
from chainrule import nn, optim
from chainrule.train.step import make_step, trainable

Arrays = dict[str, np.ndarray[Any, Any]]
SIZES = (784, 512, 512, 10)
BATCH = 128
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


def numpy_step(p: Arrays, m: Arrays, v: Arrays, t: int, x: Any, labels: Any) -> float:
    """What a person writes by hand: forward, backward, Adam, updating the dicts in place."""
    z1 = x @ p["w1"] + p["b1"]
    h1 = np.maximum(z1, 0)
    z2 = h1 @ p["w2"] + p["b2"]
    h2 = np.maximum(z2, 0)
    z3 = h2 @ p["w3"] + p["b3"]
    shifted = z3 - z3.max(1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(1, keepdims=True)
    rows = np.arange(len(x))
    loss = float(-(shifted[rows, labels] - np.log(total[:, 0])).mean())
    d3 = exp / total
    d3[rows, labels] -= 1
    d3 /= len(x)
    g = {"w3": h2.T @ d3, "b3": d3.sum(0)}
    d2 = (d3 @ p["w3"].T) * (z2 > 0)
    g |= {"w2": h1.T @ d2, "b2": d2.sum(0)}
    d1 = (d2 @ p["w2"].T) * (z1 > 0)
    g |= {"w1": x.T @ d1, "b1": d1.sum(0)}
    for k in p:
        m[k] = BETA1 * m[k] + (1 - BETA1) * g[k]
        v[k] = BETA2 * v[k] + (1 - BETA2) * g[k] ** 2
        p[k] = p[k] - RATE * (m[k] / (1 - BETA1**t)) / (np.sqrt(v[k] / (1 - BETA2**t)) + EPSILON)
    return loss


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 60
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, SIZES[0])).astype(np.float32)
    y = rng.integers(0, SIZES[-1], BATCH)
    cr.seed(0)
    a, b, c, d = SIZES
    model = nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c), nn.ReLU(), nn.Linear(c, d))
    optimizer = optim.Adam(RATE)
    step = cr.compile(
        make_step(nn.losses.cross_entropy, optimizer, {}, cr.STANDARD),
        donate=("state",),
        engine="reference",
        batch=("x", "y"),
    )
    parameters = trainable(model)
    state: Any = {"model": model, "optimizer": optimizer.init(parameters), "step": np.asarray(0, np.int64)}
    key = cr.random.key(0)
    names = dict(zip(("w1", "b1", "w2", "b2", "w3", "b3"), parameters, strict=True))
    p = {short: np.array(parameters[path]) for short, path in names.items()}
    m, v = ({k: np.zeros_like(w) for k, w in p.items()} for _ in range(2))

    ours, theirs, gap = [], [], 0.0
    for t in range(1, rounds + 1):
        began = time.perf_counter()
        state, report = step(state, key, x, y, None)
        between = time.perf_counter()
        loss = numpy_step(p, m, v, t, x, y)
        ended = time.perf_counter()
        if t <= 20:
            gap = max(gap, abs(float(report["loss"]) - loss) / abs(loss))
        if t > 5:
            ours.append(between - began)
            theirs.append(ended - between)
    result = {
        "ours_ms": 1e3 * statistics.median(ours),
        "numpy_ms": 1e3 * statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "loss_gap_of_first_20_steps": gap,
        "rounds": rounds,
    }
    print(json.dumps(result, indent=2))
    if "--json" in sys.argv:
        Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
