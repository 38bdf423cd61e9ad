"""The program as a process: real exit codes, streams that close or are full, signals, a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chainrule import tabular

from .conftest import patients

PROGRAM = [sys.executable, "-m", "chainrule"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and pipes as POSIX has them")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "patients.csv").write_text(patients(), encoding="utf-8")
    return tmp_path


def program(folder: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **options,
    )


def test_the_version_and_the_module(folder: Path) -> None:
    result = program(folder, "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("chainrule 0.")


def test_help_and_version_load_no_command(folder: Path) -> None:
    """They must answer at once."""
    script = (
        "import sys\n"
        "from chainrule.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "assert run(['--version']) == 0\n"
        "late = [name for name in sys.modules if name in ('duckdb', 'rich') or name.startswith('chainrule.cli.')]\n"
        "print(*sorted(late), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.split() == ["chainrule.cli.failures", "chainrule.cli.main"]


def test_exit_codes_and_streams(folder: Path) -> None:
    done = program(folder, "train", "patients.csv", "--target", "outcome", "--epochs", 1, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["run"] == "runs/patients"
    refused = program(folder, "train", "patients.csv", "--target", "outcomes")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("chainrule: patients.csv")
    assert refused.stderr.count("\n") == 1
    assert program(folder, "trane").returncode == 2


def test_a_narrow_encoding_and_no_locale(folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    (folder / "t.csv").write_text("größe,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40)), encoding="utf-8")
    result = program(folder, "train", "t.csv", "--target", "y", "--epochs", 1, env=environment)
    assert result.returncode == 0, result.stderr
    assert "gr\\xf6\\xdfe" in result.stdout


@posix
def test_a_reader_that_goes_away(folder: Path) -> None:
    program(folder, "train", "patients.csv", "--target", "outcome", "--epochs", 1, "--out", "r")
    lines = "\n".join(patients(20_000).splitlines())
    (folder / "many.csv").write_text(lines + "\n", encoding="utf-8")
    command = f"{sys.executable} -m chainrule predict r many.csv -o - | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == ["prediction,probability_ill,probability_well", "141"]
    assert result.stderr == ""


@posix
def test_training_ends_well_when_nobody_reads_on(folder: Path) -> None:
    command = f"{sys.executable} -m chainrule train patients.csv --target outcome --epochs 3 2>&1 | head -1"
    result = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert tabular.Run.read(folder / "runs" / "patients").status == "finished"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_behind_standard_output(folder: Path) -> None:
    program(folder, "train", "patients.csv", "--target", "outcome", "--epochs", 1, "--out", "r")
    for arguments in (["predict", "r", "patients.csv", "-o", "-"], ["show", "r"], ["--help"]):
        with Path("/dev/full").open("w") as full:
            result = subprocess.run(
                [*PROGRAM, *arguments], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (result.returncode, result.stderr) == (2, "chainrule: the disk is full\n")


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the program and returns it as soon as its first line of progress is there; what still runs at the end is killed."""
    with ExitStack() as started:

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = started.enter_context(
                subprocess.Popen(
                    [*PROGRAM, *arguments],
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                )
            )
            started.callback(process.kill)
            assert process.stderr is not None
            first = process.stderr.readline()
            assert first.startswith("epoch "), first
            return process

        yield start


@pytest.fixture
def training(folder: Path, start: Callable[..., subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """A training of hours that has made its first steps."""
    (folder / "long.csv").write_text(patients(3000), encoding="utf-8")
    (folder / "long.toml").write_text("patience = 0\nepochs = 100000\nbatch_size = 8\n")
    return start("train", "long.csv", "--target", "outcome", "--config", "long.toml")


@posix
def test_ctrl_c_keeps_what_was_learned(folder: Path, training: subprocess.Popen[str]) -> None:
    training.send_signal(signal.SIGINT)
    out, err = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "(interrupted)" in out
    assert "held-out rows classified correctly" in out
    assert "to go on: chainrule resume runs/long" in err
    assert "Traceback" not in err
    run = tabular.Run.read(folder / "runs" / "long")
    assert run.status == "interrupted"
    assert (run.folder / "report.html").exists()
    assert program(folder, "predict", "runs/long", "long.csv", "-o", "p.csv").returncode == 0


@posix
def test_a_second_ctrl_c_ends_at_once_and_the_run_can_be_resumed(folder: Path, training: subprocess.Popen[str]) -> None:
    training.send_signal(signal.SIGINT)
    time.sleep(0.05)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(("chainrule: interrupted", "note: training was interrupted"))
    assert (folder / "runs" / "long" / "run.json").exists()


@posix
def test_a_killed_training_is_resumed(
    folder: Path, training: subprocess.Popen[str], start: Callable[..., subprocess.Popen[str]]
) -> None:
    training.kill()
    training.communicate(timeout=60)
    record = folder / "runs" / "long" / "run.json"
    content = json.loads(record.read_text())
    assert content["status"] == "training"
    shown = program(folder, "show", "runs/long")
    assert shown.returncode == 0, shown.stderr
    assert "chainrule resume runs/long" in shown.stdout
    refused = program(folder, "predict", "runs/long", "long.csv", "-o", "p.csv")
    assert refused.returncode == 2
    assert "chainrule resume runs/long" in refused.stderr
    assert not (folder / "p.csv").exists()
    # Resumed, it would go on for hours; that it does go on is enough here.
    resumed = start("resume", "runs/long")
    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)
    assert resumed.returncode == 130


@posix
def test_on_a_terminal_bars_are_drawn_and_taken_away(folder: Path) -> None:
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "50"}
    with subprocess.Popen(
        [*PROGRAM, "train", "patients.csv", "--target", "outcome", "--epochs", "30"],
        cwd=folder,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    ) as process:
        os.close(follower)
        drawn = bytearray()
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # what Linux says when the other side has closed
                break
            if not piece:
                break
            drawn += piece
        os.close(leader)
    text = drawn.decode("utf-8")
    assert process.returncode == 0
    assert "epoch 1 of at most 30" in text
    assert "━" in text
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h")  # the cursor comes back
    assert "held-out rows classified correctly" in text
