"""The race: turns, medians, agreement, and contestants that fail; with contestants that only sleep."""

import subprocess
import sys
from pathlib import Path

import pytest
from bench.contestant import Memory
from bench.race import Budget, ContestantError, Process, race
from bench.table import disagrees, table_of
from bench.workloads import WORKLOADS

TINY = WORKLOADS["tiny"]
QUICK = Budget(run=0.15, rounds=3, prepare=20)
FAKE = "tests.bench.fake"


def run(contestants, budget=QUICK, **options):
    said = []
    sources = {name: f"{FAKE}:{form}" for name, form in contestants.items()}
    return race(TINY, sources, budget, compile_times=False, say=said.append, **options), said


def test_times_are_per_step_and_the_ratio_is_to_the_best_peer():
    result, said = run({"ours": "quick", "torch": "slow", "jax": "quick"})
    assert said == []
    assert 1.0 <= result.ours_ms < 3.0  # 4 ms a call, 4 steps a call
    assert 4.0 <= result.peers_ms["torch"] < 8.0
    assert result.best_peer == "jax"
    assert result.ratio == pytest.approx(result.peers_ms["jax"] / result.ours_ms)
    assert result.gflops == pytest.approx(1e-6 * TINY.flops / result.ours_ms)
    assert result.loss_gap == 0 and result.peers_loss_gap == {"jax": 0}
    assert not disagrees(result)


def test_other_losses_than_pytorchs_are_a_disagreement():
    result, _ = run({"ours": "other", "torch": "quick"})
    assert result.loss_gap == pytest.approx(0.5)  # 1.5 for 1 in the first step
    assert disagrees(result)
    assert "✗" in table_of([result])


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("refuses", "there is nothing to do"),
        ("breaks", "ValueError: this workload"),
        ("dies", "ended with status -9"),
    ],
)
def test_a_peer_that_fails_is_left_out_with_the_reason(form, reason):
    result, said = run({"ours": "quick", "torch": form})
    assert result.skipped["torch"].startswith(reason)
    assert said == [f"tiny: torch is left out: {result.skipped['torch']}"]
    assert result.peers_ms == {} and result.ratio is None and result.loss_gap is None


def test_a_peer_that_takes_too_long_is_left_out():
    result, _ = run({"torch": "hangs"}, Budget(run=0.1, rounds=1, prepare=2))
    assert result.skipped["torch"] == "took longer than 2 s"


def test_a_peer_that_is_not_installed_is_left_out():
    sources = {"ours": f"{FAKE}:quick", "jax": "tests.bench.no_such_framework:"}
    result = race(TINY, sources, QUICK, compile_times=False, say=lambda text: None)
    assert "no_such_framework" in result.skipped["jax"]


def test_without_ours_there_is_no_result():
    with pytest.raises(ContestantError, match="there is nothing to do"):
        run({"ours": "refuses", "torch": "quick"})


def test_all_are_prepared_before_the_clock_starts():
    calls = []
    run({"ours": "quick"}, before_timing=lambda: calls.append(1))
    assert calls == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_contestant_is_stopped_between_its_turns():
    process = Process(f"{FAKE}:quick", "tiny")
    try:
        process.start(20)
        assert state_of(process) == "T"
        process.ask(20, do="prepare")
        assert state_of(process) == "T"
    finally:
        process.close()


def state_of(process):
    """The letter of a process's state, when it no longer changes."""
    path = Path(f"/proc/{process.process.pid}/stat")
    for _ in range(2000):
        state = path.read_text().rpartition(")")[2].split()[0]
        if state == "T":
            break
    return state


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_counted_from_the_imports_on():
    source = (
        "import numpy as np; from bench.contestant import Memory\n"
        "before = np.ones(2**25, np.uint8); memory = Memory(); del before\n"
        "after = np.ones(2**26, np.uint8); print(memory.peak_mb())"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert 25 <= float(done.stdout) <= 70  # 64 MiB more, less the 32 that were given back
    assert Memory().peak_mb() < 8
