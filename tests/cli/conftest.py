"""Running commands in an empty folder, and tables and runs to run them on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chainrule.cli.main import run


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


def patients(rows: int = 80, seed: int = 0) -> str:
    """A table whose target depends on its columns; lines are numbered from 2."""
    chance = random.Random(seed)
    lines = ["age,smoker,city,visited,outcome"]
    for _ in range(rows):
        age, smoker = chance.randint(20, 90), chance.random() < 0.4
        ill = age + 30 * smoker + chance.gauss(0, 6) > 65
        day = f"20{chance.randint(10, 23)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        city = chance.choice(["Bern", "Basel", "Genève"])
        lines.append(f"{age},{'yes' if smoker else 'no'},{city},{day},{'ill' if ill else 'well'}")
    return "\n".join(lines) + "\n"


@pytest.fixture(autouse=True)
def _no_wishes_about_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "CHAINRULE_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process, in an empty working folder, as the program would."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return command


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "patients.csv"
    path.write_text(patients(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which no test may change."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "patients.csv"
    data.write_text(patients(), encoding="utf-8")
    assert (
        run(["train", str(data), "--target", "outcome", "--out", str(folder / "run"), "--epochs", "4", "--quiet"]) == 0
    )
    return folder / "run"
