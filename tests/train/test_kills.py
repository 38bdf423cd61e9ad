"""A `chainrule train` that is killed at any moment and resumed ends with the very weights of a run that was never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

# One thread each: several of these run side by side.
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def write_data(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6))
    kind = rng.choice(["red", "green", "blue"], rows)
    chance = 1 / (1 + np.exp(-(x[:, 0] * x[:, 1] + x[:, 2] + (kind == "red"))))
    label = np.where(rng.random(rows) < chance, "yes", "no")
    lines = ["a,b,c,d,e,f,kind,outcome"]
    lines += [",".join([*(f"{v:.6f}" for v in row), k, y]) for row, k, y in zip(x, kind, label)]
    path.write_text("\n".join(lines) + "\n")
    # Every epoch is trained, so that the run lasts.
    path.with_suffix(".toml").write_text("patience = 1000\n")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "chainrule", *arguments]


def train_arguments(data: Path, out: Path, epochs: int) -> list[str]:
    return [
        "train",
        str(data),
        "--target",
        "outcome",
        "--out",
        str(out),
        "--seed",
        "3",
        "--epochs",
        str(epochs),
        "--quiet",
    ]


def finish(arguments: list[str]) -> None:
    done = subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def kill_and_resume(folder: Path, data: Path, epochs: int, moment: float) -> tuple[bool, bytes]:
    """Start, kill after ``moment`` seconds, resume; whether it was still running, and the final weights' bytes."""
    out = folder / "run"
    process = subprocess.Popen(
        command(*train_arguments(data, out, epochs)),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(moment)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Killed before the run folder appeared, there is nothing to resume: a person would start again.
    finish(["resume", str(out)] if out.exists() else train_arguments(data, out, epochs))
    return running, (out / "model.safetensors").read_bytes()


def survive(tmp_path: Path, kills: int, rows: int, epochs: int) -> None:
    data = tmp_path / "data.csv"
    write_data(data, rows)
    began = time.monotonic()
    finish(train_arguments(data, tmp_path / "unbroken", epochs))
    seconds = time.monotonic() - began
    expected = (tmp_path / "unbroken" / "model.safetensors").read_bytes()
    moments = random.Random(1)
    workers = os.cpu_count() or 2

    def one(number: int) -> tuple[bool, bytes]:
        folder = tmp_path / f"kill-{number}"
        folder.mkdir()
        return kill_and_resume(folder, data, epochs, moment=moments.uniform(0.1, 1.0) * seconds)

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(one, range(kills)))
    assert sum(running for running, _ in results) >= kills // 2, "most kills must meet a running process"
    different = [number for number, (_, weights) in enumerate(results) if weights != expected]
    assert not different, f"runs {different} of {kills} ended with other weights"


def test_a_few_kills(tmp_path):
    survive(tmp_path, kills=3, rows=300, epochs=12)


@pytest.mark.slow
def test_a_hundred_kills(tmp_path):
    survive(tmp_path, kills=100, rows=14_000, epochs=200)
