"""A second process finds everything in the cache: the traced graph is enough to start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ConfigError
from chainrule.engines.cpu import cache as caches
from chainrule.engines.cpu import generated, loading
from chainrule.engines.cpu.toolchain import Toolchain
from chainrule.transforms import compilation, engines

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def state() -> dict[str, Any]:
    return {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), "steps": np.zeros((), np.int32)}


def train_step(state: Any, x: Any) -> Any:
    def loss(w: Any) -> Any:
        return cr.square(cr.tanh(x @ w)).mean()

    value, slope = cr.value_and_grad(loss)(state["w"])
    return {"w": state["w"] - 0.5 * slope, "steps": state["steps"] + 1}, value


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CHAINRULE_DEBUG", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done: passes, recomputations, lowerings and compilations."""
    done: list[str] = []

    def note(owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    loading.load_runtime()
    for owner, name in (
        (compilation, "optimise"),
        (compilation, "rematerialise"),
        (generated, "lower"),
        (Toolchain, "compile"),
    ):
        note(owner, name)
    return done


def start(monkeypatch: pytest.MonkeyPatch, engine: str = "cpu", **options: Any) -> cr.Compiled[Any, Any]:
    """As a new process begins: nothing is loaded."""
    monkeypatch.setattr(loading, "_loaded", {})
    caches._opened.cache_clear()
    return cr.compile(train_step, donate="state", batch="x", engine=engine, **options)


def test_a_warm_start_runs_no_pass_and_lowers_nothing(work: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cold = start(monkeypatch)
    (expected, loss), graph = cold(state(), X), cold.graph
    assert work == ["optimise", "lower", "compile"]
    work.clear()
    warm = start(monkeypatch)
    for batch in (X, X[:2], X):  # other batch sizes, and calls in the short way
        warm(state(), batch)
    warm.repeat([state(), np.concatenate([X, X])], carry="state", steps=2, batch=6)
    found, again = warm(state(), X)
    assert work == []
    assert loss == again and found["steps"] == 1
    np.testing.assert_array_equal(found["w"], expected["w"])
    assert warm.c_source == cold.c_source and work == []
    assert cr.print_graph(warm.graph) == cr.print_graph(graph) and warm.graph is warm.graph
    assert work == ["optimise"]


def test_what_is_shown_of_a_warm_start_is_made_when_it_is_asked_for(
    work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = start(monkeypatch)
    cold(state(), X)
    work.clear()
    warm = start(monkeypatch)
    warm(state(), X)
    assert warm.lowering == cold.lowering
    assert "tanh" in str(warm.profile(state(), X, repeats=1))
    assert "backward" in {node.origin.phase for node in warm.backward_graph.nodes}


def test_other_passes_make_another_program(work: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch)(state(), X)
    work.clear()
    monkeypatch.setattr(compilation, "identity", lambda: "other passes")
    start(monkeypatch)(state(), X)
    assert work == ["optimise", "lower"]  # to the same C, which is compiled


def test_a_memory_limit_makes_another_program(work: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for expected in (["optimise", "rematerialise", "lower"], []):
        start(monkeypatch)(state(), X)
        work.clear()
        start(monkeypatch, memory_limit=1e6)(state(), X)
        assert [name for name in work if name != "compile"] == expected
    start(monkeypatch, memory_limit=2e6)(state(), X)
    assert "rematerialise" in work
    for _ in range(2):  # what does not fit is not kept
        with pytest.raises(ConfigError, match="memory"):
            start(monkeypatch, memory_limit=1)(state(), X)


def test_auto_prepares_a_graph_once(work: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step = start(monkeypatch, engine="auto")
    step.choose([state(), X], calls=10**9)
    step(state(), X)
    assert step.engine.name == "cpu"
    assert work.count("optimise") == 1


def test_without_a_compiler_the_reference_engine_runs_what_the_passes_made(
    work: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected, _ = start(monkeypatch, engine="reference")(state(), X)
    start(monkeypatch)(state(), X)
    work.clear()
    monkeypatch.setattr(engines.CPU, "problem", lambda: "there is no compiler")
    step = start(monkeypatch, engine="auto")
    step.choose([state(), X], calls=10**9)
    found, _ = step(state(), X)
    assert step.engine.name == "reference" and work == ["optimise"]
    np.testing.assert_array_equal(found["w"], expected["w"])


PROCESS = """
import numpy as np, chainrule as cr
from chainrule.engines.cpu import generated
from test_warm_start import X, state, train_step
lowered, lower = [], generated.lower
generated.lower = lambda *args: lowered.append(1) or lower(*args)
found, _ = cr.compile(train_step, donate="state", batch="x", engine="cpu")(state(), X)
print(len(lowered), found["w"].tobytes().hex())
"""


def process() -> subprocess.Popen[str]:
    places = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.Popen([sys.executable, "-c", PROCESS], env=environment, stdout=subprocess.PIPE, text=True)


def test_several_processes_at_once_lower_once() -> None:
    running = [process() for _ in range(3)]
    said = [one.communicate(timeout=120)[0].split() for one in running]
    assert [one.returncode for one in running] == [0, 0, 0]
    assert sorted(count for count, _ in said) == ["0", "0", "1"]
    assert len({found for _, found in said}) == 1
