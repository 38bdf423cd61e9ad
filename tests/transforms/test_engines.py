"""``engine="auto"``: who decides, from what, and that nothing else has a say. No test here takes a time."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core import notices
from chainrule.core.errors import ConfigError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.engines.estimate import Estimate, estimate
from chainrule.ir.graph import Graph
from chainrule.transforms import engines
from chainrule.transforms.engines import REFERENCE

X = np.ones((4, 3), np.float32)


class Pretended:
    """The cpu engine as far as choosing it goes: programs of the reference engine, counted."""

    name = "cpu"

    def __init__(self, problem: str | None = None) -> None:
        self.loaded: list[str] = []
        self.trouble = problem

    def problem(self) -> str | None:
        return self.trouble

    def load(self, graph: Graph, *given: Any) -> Any:
        self.loaded.append(graph.name)
        return REFERENCE.load(graph, *given)


def pretend(monkeypatch: pytest.MonkeyPatch, problem: str | None = None) -> Pretended:
    pretended = Pretended(problem)
    monkeypatch.setattr(engines, "CPU", pretended)
    monkeypatch.setitem(engines.ENGINES, "cpu", pretended)  # type: ignore[arg-type]
    monkeypatch.setattr(notices, "_said", set())
    return pretended


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return pretend(monkeypatch)


def cost(monkeypatch: pytest.MonkeyPatch, *, reference: float, compiling: float, cpu: float = 0.0) -> None:
    """Let every graph be estimated so: seconds for a call, and for compiling."""
    monkeypatch.setattr(Estimate, "reference_seconds", lambda self, batch: reference * batch)
    monkeypatch.setattr(Estimate, "cpu_seconds", lambda self, batch: cpu * batch)
    monkeypatch.setattr(Estimate, "compile_seconds", property(lambda self: compiling))


def network(width: int = 3) -> Any:
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))


def trainer(**settings: Any) -> Any:
    cr.seed(0)
    return cr.Trainer(network(), loss=nn.losses.squared_error, optimizer=optim.SGD(0.1), **settings)


def data(count: int = 20) -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 3)).astype(np.float32), rng.normal(size=(count, 1)).astype(np.float32)


# --- the estimate -----------------------------------------------------------------------------------------------------


def test_an_estimate_counts_what_there_is() -> None:
    graph = cr.compile(lambda x, w: cr.tanh(x @ w) + 1, engine="reference", batch="x").graph_and_arrays(X, X.T)[0]
    found = estimate(graph)
    # The product, tanh and the addition; constants and broadcasts are free.
    assert (found.nodes, found.written, found.contractions) == (3, 3, 1)
    assert found.reference_seconds(200) > found.reference_seconds(100) > 3 * 1e-6
    assert found.cpu_seconds(1) < found.reference_seconds(1)


def test_the_body_of_a_loop_counts_every_time_it_runs_but_is_compiled_once() -> None:
    def walk(x: Any, length: int) -> Any:
        return cr.scan(lambda carry, _: (cr.tanh(carry * 2), carry), x, None, length=length)

    found = [estimate(cr.compile(walk, engine="reference").graph_and_arrays(X, length)[0]) for length in (10, 1000)]
    assert found[1].nodes - found[0].nodes == 990 * 2
    assert found[1].compile_seconds == found[0].compile_seconds
    assert found[1].reference_seconds(1) > 50 * found[0].reference_seconds(1)


def test_small_fits_do_not_pay_and_large_ones_do() -> None:
    step = trainer(engine="reference")
    step.fit(data(), epochs=1)
    small = estimate(step.step.graph)
    assert not small.pays(32, 1000)
    assert small.pays(32, 100_000)
    cr.seed(0)
    wide = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    big = cr.Trainer(wide, loss=nn.losses.cross_entropy, optimizer=optim.Adam(1e-3), engine="reference")
    big.partial_fit(np.zeros((2, 784), np.float32), np.zeros(2, np.int64))
    assert estimate(big.step.graph).pays(128, 1000)
    assert not estimate(big.step.graph).pays(128, 20)


# --- a function that is called ----------------------------------------------------------------------------------------


def test_a_function_is_compiled_when_its_calls_have_cost_as_much(
    cpu: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost(monkeypatch, reference=0.25, compiling=1.0)
    compiled = cr.compile(lambda x: x * 2, donate="x")
    used = []
    for count in range(1, 10):
        np.testing.assert_array_equal(compiled(np.full(3, float(count))), np.full(3, 2.0 * count))
        used.append(compiled.engine.name)
    assert used == ["reference"] * 4 + ["cpu"] * 5
    assert len(cpu.loaded) == 1


def test_larger_batches_count_more(cpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    cost(monkeypatch, reference=0.25, compiling=10.0)
    compiled = cr.compile(lambda x: x * 2, batch="x")
    for _ in range(10):
        compiled(X)
    assert not cpu.loaded
    compiled(X[:1])
    assert cpu.loaded


def test_every_structure_has_an_account_of_its_own(cpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    cost(monkeypatch, reference=0.25, compiling=1.0)
    compiled = cr.compile(lambda x, power: x**power)
    for _ in range(4):
        for power in (1, 2, 3):
            compiled(X, power)
    assert not cpu.loaded
    compiled(X, 2)
    assert len(cpu.loaded) == 1


def test_state_that_is_donated_survives_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    if CPU.problem():
        pytest.skip("there is no C compiler")
    cost(monkeypatch, reference=0.25, compiling=1.0)
    compiled = cr.compile(lambda state, x: ({"w": state["w"] + x.sum(0)}, x.mean()), donate="state", batch="x")
    state = {"w": np.zeros(3, np.float32)}
    for count in range(1, 12):
        before = state["w"]
        state, mean = compiled(state, X)
        assert mean == 1
        np.testing.assert_array_equal(state["w"], 4.0 * count)
        with pytest.raises(ConfigError, match="was donated"):
            compiled({"w": before}, X)
    assert compiled.engine.name == "cpu"
    assert "cr_run" in compiled.c_source


def test_an_engine_that_was_named_stays(cpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    cost(monkeypatch, reference=100.0, compiling=1.0)
    compiled = cr.compile(lambda x: x * 2, engine="reference")
    for _ in range(5):
        compiled(X)
    assert compiled.choose((X,), 10**9) == "as asked for"
    assert compiled.engine.name == "reference" and not cpu.loaded


# --- a training -------------------------------------------------------------------------------------------------------


def test_a_fit_decides_once_before_its_first_step(cpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    cost(monkeypatch, reference=0.001, compiling=1.0)
    few, many = trainer(), trainer()
    history = few.fit(data(), validation_data=data(10), epochs=50, batch_size=10)
    assert (history.engine, history.engine_reason) == ("reference", "compiling would not pay for 100 steps")
    assert not cpu.loaded
    # 101 × 10 examples cost more than a second.
    history = many.fit(data(), validation_data=data(10), epochs=51, batch_size=10)
    assert (history.engine, history.engine_reason) == ("cpu", "compiling pays for 102 steps")
    assert cpu.loaded == ["step"]
    assert many.engine == "cpu"
    assert many.fit(data(), epochs=1).engine == "cpu", "what is compiled is used"
    assert cpu.loaded == ["step"]


def test_a_fit_that_began_on_one_engine_stays_there(cpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    cost(monkeypatch, reference=0.001, compiling=1.0)
    fitted = trainer()
    for _ in range(20):
        fitted.fit(data(), epochs=20, batch_size=10)
    assert fitted.engine == "reference" and not cpu.loaded


def test_many_small_fits_compile_nothing(cpu: Pretended) -> None:
    for seed in range(5):
        fitted = trainer(seed=seed)
        fitted.fit(data(100), validation_data=data(20), epochs=30)
        fitted.predict(data()[0])
    assert not cpu.loaded


def test_updates_one_by_one_are_counted(cpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    cost(monkeypatch, reference=0.25, compiling=1.0)
    online = trainer()
    x, y = data(1)
    for _ in range(5):
        online.partial_fit(x, y)
    assert cpu.loaded == ["step"] and online.engine == "cpu"


def test_resuming_goes_on_with_the_engine_of_the_checkpoint(
    cpu: Pretended, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    arguments = {"batch_size": 10, "validation_data": data(10)}
    cost(monkeypatch, reference=0.001, compiling=1.0)
    trainer().fit(data(), epochs=60, checkpoints=tmp_path, **arguments)
    assert cpu.loaded == ["step"]
    cost(monkeypatch, reference=0.001, compiling=1000.0)
    again = trainer()
    history = again.resume(data(), checkpoints=tmp_path, epochs=61, **arguments)
    assert again.engine == "cpu" and history.engine == "cpu" and len(history) == 61
    assert cpu.loaded == ["step", "step"]
    cpu.trouble = "there is no compiler"
    with pytest.raises(ConfigError, match="there is no compiler"):
        trainer().resume(data(), checkpoints=tmp_path, epochs=62, **arguments)
    with pytest.raises(ConfigError, match=r"began on the cpu engine .* choose engine=.cpu."):
        trainer(engine="reference").resume(data(), checkpoints=tmp_path, epochs=62, **arguments)


# --- notices ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compiled_runs_anyway_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pretended = pretend(monkeypatch, problem="the cpu engine needs a C compiler: none was found")
    cost(monkeypatch, reference=1.0, compiling=1.0)
    for _ in range(2):
        history = trainer().fit(data(), epochs=2)
        assert (history.engine, history.engine_reason) == ("reference", "the cpu engine cannot be used on this machine")
        compiled = cr.compile(lambda x: x * 2)
        for _ in range(3):
            compiled(X)
    assert not pretended.loaded
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(
        "note: the reference engine runs what the cpu engine would run faster: the cpu engine needs a C"
    )
    assert err.count("\n") == 1
    with pytest.raises(ConfigError, match="needs a C compiler"):
        cr.compile(lambda x: x, engine="cpu")


def test_small_fits_say_nothing_about_compilers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, problem="there is none")
    trainer().fit(data(), epochs=2)
    assert capfd.readouterr().err == ""


LONG = """
import numpy as np, chainrule as cr
from chainrule.engines.estimate import Estimate
Estimate.compile_seconds = property(lambda self: 1e-9)
for number in range(2):
    f = cr.compile(lambda x, number=number: x * 2 + number)
    for _ in range(3): f(np.ones(3))
print(f.engine.name)
"""


def run(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[str, str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip(), done.stderr


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    engine, said = run(monkeypatch, CHAINRULE_CC="/nowhere/cc", CHAINRULE_CACHE=str(tmp_path / "cache"))
    assert engine == "reference"
    assert said.count("note: ") == 1
    assert "the compiler /nowhere/cc cannot be run: No such file or directory" in said


def test_a_compiler_that_is_killed_half_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    if CPU.problem():
        pytest.skip("there is no C compiler")
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\\ncase "$*" in *made.c*) kill -9 $$;; esac\\nexec cc "$@"\\n'.replace("\\n", "\n"))
    script.chmod(0o755)
    engine, said = run(monkeypatch, CHAINRULE_CC=str(script), CHAINRULE_CACHE=str(tmp_path / "cache"))
    assert engine == "reference"
    assert said.count("note: ") == 1
    assert "was killed (SIGKILL) while compiling" in said


def test_a_cache_that_cannot_be_used_gives_way_to_a_private_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    if CPU.problem():
        pytest.skip("there is no C compiler")
    (tmp_path / "cache").write_text("a file, not a folder")
    engine, said = run(monkeypatch, CHAINRULE_CACHE=str(tmp_path / "cache"))
    assert engine == "cpu"
    assert said.count("note: ") == 1
    assert "compiled code is not kept" in said and "set CHAINRULE_CACHE to a folder of yours" in said
