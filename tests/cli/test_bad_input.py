"""Everything that cannot be used is refused in one line that says where and why, and leaves nothing behind."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chainrule.core.errors import RunError
from chainrule.engines.reference import ENGINE as REFERENCE

from .conftest import Command, Result, patients


def refused(result: Result, *fragments: str, code: int = 2) -> None:
    assert result.code == code, result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("chainrule: ")
    assert result.out == ""
    for fragment in fragments:
        assert fragment in result.err


def left(folder: Path) -> set[str]:
    """Every file and folder below, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def many(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


ROWS = [f"{n},{n * 7 % 11},{'ab'[n % 2]}" for n in range(40)]
HEADER = "x,z,y"

BAD_TABLES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("t.csv", "empty")),
    "header only": (b"x,z,y\n", ("t.csv", "no rows")),
    "single row": (b"x,z,y\n1,2,a\n", ("t.csv", "single row")),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", ("t.csv", "HTML")),
    "ragged": (many([HEADER, *ROWS[:10], "1,2,3,4,5", *ROWS[10:]]), ("t.csv", "line 12")),
    "short": (many([HEADER, *ROWS[:10], "1,2", *ROWS[10:]]), ("t.csv", "line 12")),
    "unclosed quote": (many([HEADER, *ROWS[:10], '1,"2,a', *ROWS[10:]]), ("t.csv", "line 12", "quote")),
    "nul": (many([HEADER, *ROWS[:10], "1,\0,a", *ROWS[10:]]), ("t.csv", "line 12", "NUL")),
    "undecodable": (many([HEADER, *ROWS[:10]]) + b"1,\x81\x8d\x90,a\n" + many(ROWS[10:]), ("t.csv", "line 12")),
    "constant target": (many([HEADER, *(f"{n},{n},a" for n in range(40))]), ("t.csv", "'y'", "same value")),
    "target all missing": (many([HEADER, *(f"{n},{n}," for n in range(40))]), ("t.csv", "'y'")),
    "infinite": (many([HEADER, *ROWS[:10], "inf,2,a", *ROWS[10:]]), ("t.csv", "line 12", "'x'", "infinite")),
    "duplicate names": (many(["x,x,y", *ROWS]), ("t.csv", "'x'", "twice")),
    "long field": (many([HEADER, *ROWS[:10], f"{'q' * 1_000_000},2,a", *ROWS[10:]]), ("t.csv", "line 12")),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(case: str, cli: Command, tmp_path: Path) -> None:
    content, fragments = BAD_TABLES[case]
    (tmp_path / "t.csv").write_bytes(content)
    refused(cli("train", "t.csv", "--target", "y", "--epochs", 1), *fragments)
    assert left(tmp_path) == {"t.csv"}


def test_a_missing_file(cli: Command, tmp_path: Path, table: Path) -> None:
    refused(cli("train", "patient.csv", "--target", "outcome"), "patient.csv does not exist", "patients.csv")
    assert left(tmp_path) == {"patients.csv"}


def test_a_folder(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "data.csv").mkdir()
    refused(cli("train", "data.csv", "--target", "y"), "data.csv is a folder")
    assert left(tmp_path) == {"data.csv"}


def test_a_missing_target_column_suggests_the_nearest(cli: Command, tmp_path: Path, table: Path) -> None:
    refused(cli("train", table, "--target", "Outcomes"), "patients.csv", "'Outcomes'", "outcome")
    assert left(tmp_path) == {"patients.csv"}


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--drop", "ages"], ("'ages'", "age")),
        (["--type", "ages=number"], ("'ages'", "age")),
        (["--type", "city=number"], ("'city'", "line 2")),
        (["--type", "city"], ("--type city", "COLUMN=KIND")),
        (["--type", "city=categroy"], ("'categroy'", "did you mean 'category'?")),
        (["--type", "city=date", "--type", "city=category"], ("'city'", "two kinds")),
        (["--group", "town"], ("'town'",)),
        (["--time", "when"], ("'when'",)),
        (["--group", "city", "--time", "visited"], ("group", "time")),
        (["--task", "regresion"], ("task", "regresion")),
        (["--task", "regression"], ("'outcome'",)),
        (["--epochs", "0"], ("epochs", "at least 1")),
        (["--epochs", "many"], ("--epochs", "many")),
        (["--batch-size", "0"], ("--batch-size", "'0'")),
        (["--batch-size", "-3"], ("--batch-size", "'-3'")),
        (["--batch-size", "all"], ("--batch-size", "full")),
        (["--seed", "-1"], ("seed", "-1")),
        (["--engine", "gpu"], ("engine", "gpu", "reference")),
        (["--sql", "SELECT 1"], ("patients.csv", "database")),
        (["--config", "none.toml"], ("none.toml does not exist",)),
        (["--out", "patients.csv"], ("patients.csv", "exists already")),
        (["--out", "patients.csv/run"], ("patients.csv/run",)),
        (["--frobnicate"], ("--frobnicate", "chainrule train --help")),
    ],
)
def test_bad_options(options: list[str], fragments: tuple[str, ...], cli: Command, tmp_path: Path, table: Path) -> None:
    refused(cli("train", table, "--target", "outcome", "--epochs", "1", *options), *fragments)
    assert left(tmp_path) == {"patients.csv"}


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("epoch = 3", ("settings.toml", "'epoch'", "epochs")),
        ("epochs = 'three'", ("settings.toml", "epochs", "whole number")),
        ("epochs = 3\npatience = = 4", ("settings.toml", "TOML", "line 2")),
        ("types = { city = 'town' }", ("settings.toml", "'city'", "town")),
        ("\x00", ("settings.toml", "TOML")),
    ],
)
def test_bad_settings_files(
    content: str, fragments: tuple[str, ...], cli: Command, tmp_path: Path, table: Path
) -> None:
    (tmp_path / "settings.toml").write_text(content)
    refused(cli("train", table, "--target", "outcome", "--config", "settings.toml"), *fragments)
    assert left(tmp_path) == {"patients.csv", "settings.toml"}


def test_no_target(cli: Command, table: Path) -> None:
    refused(cli("train", table), "--target COLUMN")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["trane"], ("'trane'", "did you mean 'train'?", "chainrule --help")),
        (["train"], ("DATA", "chainrule train --help")),
        (["predict", "run", "x.csv"], ("--output", "chainrule predict --help")),
        (["show"], ("RUN", "chainrule show --help")),
        (["--what"], ("--what", "chainrule --help")),
        (["train", "a.csv", "b.csv", "--target", "y"], ("b.csv", "chainrule train --help")),
    ],
)
def test_bad_commands(arguments: list[str], fragments: tuple[str, ...], cli: Command) -> None:
    refused(cli(*arguments), *fragments)


# --- run folders ------------------------------------------------------------------------------------------------------


def test_a_run_folder_is_not_overwritten(cli: Command, table: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    refused(cli("train", table, "--target", "outcome", "--out", "run"), "run exists already", "--force")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_force_replaces_nothing_but_runs(cli: Command, table: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter_1.txt").write_text("years of work")
    for folder in ("thesis", "."):
        refused(cli("train", table, "--target", "outcome", "--out", folder, "--force"), folder, "not a run folder")
    assert left(tmp_path) == {"patients.csv", "thesis", "thesis/chapter_1.txt"}


def test_force_does_not_remove_the_old_run_before_the_data_are_found_good(
    cli: Command, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = left(tmp_path)
    refused(cli("train", "none.csv", "--target", "y", "--out", "run", "--force"), "none.csv does not exist")
    assert left(tmp_path) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is a folder that takes no files")
def test_a_folder_that_cannot_be_written(cli: Command, table: Path, tmp_path: Path) -> None:
    refused(cli("train", table, "--target", "outcome", "--out", "/proc/chainrule/run"), "/proc/chainrule/run")
    assert left(tmp_path) == {"patients.csv"}


def test_a_full_disk(cli: Command, small_disk: Path, table: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 200_000)
    result = cli("train", table, "--target", "outcome", "--out", small_disk / "run", "--epochs", 2, "--quiet")
    refused(result, "run", "the disk is full")


@pytest.mark.parametrize("command", ["resume", "show", "evaluate", "predict", "continue"])
@pytest.mark.parametrize("kind", ["missing", "other folder", "file"])
def test_what_is_no_run(command: str, kind: str, cli: Command, tmp_path: Path, table: Path) -> None:
    if kind == "other folder":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("x")
    if kind == "file":
        (tmp_path / "run").write_text("x")
    before = left(tmp_path)
    rest: dict[str, list[object]] = {"predict": [table, "-o", "p.csv"], "evaluate": [table], "continue": [table]}
    refused(cli(command, "run", *rest.get(command, [])), "run", "not exist" if kind == "missing" else "not a run")
    assert left(tmp_path) == before


# --- tables for a trained network -------------------------------------------------------------------------------------


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(patients(20, seed=1), encoding="utf-8")
    return path


def without_column(text: str, place: int) -> str:
    lines = (line.split(",") for line in text.splitlines())
    return "\n".join(",".join(cells[:place] + cells[place + 1 :]) for cells in lines) + "\n"


@pytest.mark.parametrize(
    ("command", "place", "missing"),
    [
        ("predict", 0, "age"),
        ("predict", 2, "city"),
        ("evaluate", 0, "age"),
        ("evaluate", 4, "outcome"),
        ("continue", 4, "outcome"),
    ],
)
def test_a_column_that_is_missing(
    command: str, place: int, missing: str, cli: Command, trained: Path, new: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run") if command == "continue" else trained
    new.write_text(without_column(new.read_text("utf-8"), place), encoding="utf-8")
    before = left(tmp_path)
    rest = ["-o", "p.csv"] if command == "predict" else []
    refused(cli(command, run, new, *rest), "new.csv", f"'{missing}'")
    assert left(tmp_path) == before


def test_a_cell_of_the_wrong_kind_names_its_line(cli: Command, trained: Path, new: Path, tmp_path: Path) -> None:
    lines = new.read_text("utf-8").splitlines()
    lines[7] = lines[7].replace(lines[7].split(",")[0], "old", 1)
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    refused(cli("predict", trained, new, "-o", "p.csv"), "new.csv", "line 8", "'age'")
    assert left(tmp_path) == {"new.csv"}


def test_predictions_do_not_replace_their_own_table(cli: Command, trained: Path, new: Path) -> None:
    before = new.read_bytes()
    refused(cli("predict", trained, new, "-o", "new.csv"), "new.csv is the table itself")
    assert new.read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", "model.graph", "run.json", "report.html", "checkpoints/p.csv"])
def test_what_is_written_does_not_replace_the_run(
    name: str, cli: Command, trained: Path, new: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused(cli("predict", "run", new, "-o", f"run/../run/{name}"), name, "is a part of the run")
    refused(cli("profile", "run", "--json", f"run/{name}"), name, "is a part of the run")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert cli("predict", "run", new, "-o", "run/predictions.csv").code == 0


@pytest.mark.parametrize("output", ["none/p.csv", "."])
def test_predictions_that_cannot_be_written(
    output: str, cli: Command, trained: Path, new: Path, tmp_path: Path
) -> None:
    refused(cli("predict", trained, new, "-o", output), output)
    assert left(tmp_path) == {"new.csv"}


# --- weights ----------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def declare_a_huge_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 2**60) + data[8:])


def name_a_path(path: Path) -> None:
    data = path.read_bytes()
    assert b"layers.0.weight" in data
    path.write_bytes(data.replace(b"layers.0.weight", b"../../../weight"))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, declare_a_huge_header, name_a_path])
@pytest.mark.parametrize("command", ["predict", "evaluate", "continue"])
def test_damaged_weights(
    damage: Callable[[Path], None], command: str, cli: Command, trained: Path, new: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    damage(run / "model.safetensors")
    before = left(tmp_path)
    refused(cli(command, "run", new, *(["-o", "p.csv"] if command == "predict" else [])), "model.safetensors")
    assert left(tmp_path) == before


def test_weights_of_another_network(cli: Command, trained: Path, table: Path, new: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "small.toml").write_text("hidden = [5]\n")
    assert (
        cli("train", table, "--target", "outcome", "--config", "small.toml", "--out", "small", "--epochs", 1).code == 0
    )
    shutil.copy(tmp_path / "small" / "model.safetensors", run / "model.safetensors")
    refused(cli("predict", "run", new, "-o", "p.csv"), "layers.0", "128", "5")


# --- a network that diverges ------------------------------------------------------------------------------------------


def test_training_that_meets_a_nan_keeps_the_last_good_weights(
    cli: Command, table: Path, new: Path, tmp_path: Path
) -> None:
    (tmp_path / "wild.toml").write_text("learning_rate = 1e30\nweight_decay = 0.0\n")
    result = cli("train", table, "--target", "outcome", "--config", "wild.toml", "--out", "run", "--quiet")
    assert result.code == 3
    assert result.err.count("\n") == 1
    assert "no longer finite" in result.err
    assert "layers." in result.err
    assert cli("predict", "run", new, "-o", "p.csv").code == 0
    shown = cli("show", "run")
    assert "not finite" in shown.out
    assert "layers." in shown.out


# --- errors between the folder and the first step ----------------------------------------------------------------------


def fail(*_: object) -> None:
    raise RunError("something is wrong")


def test_a_training_that_cannot_begin_leaves_no_folder(
    cli: Command, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong is found when the step is compiled, and the folder is there already."""
    monkeypatch.setattr(type(REFERENCE), "load", fail)
    refused(cli("train", table, "--target", "outcome", "--out", "run", "-q"), "something is wrong")
    assert left(tmp_path) == {"patients.csv"}


@pytest.mark.parametrize("out", [[], ["--out", "other"]])
def test_further_training_that_cannot_begin_leaves_the_run_as_it_was(
    out: list[str], cli: Command, trained: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr("chainrule.tabular.training.make_trainer", fail)
    refused(cli("continue", "run", new, "-q", *out), "something is wrong")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_training_that_fails_after_its_first_steps_can_be_resumed(
    cli: Command, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("chainrule.tabular.training.write_model", fail)
        refused(cli("train", table, "--target", "outcome", "--out", "run", "--epochs", 2, "-q"), "something is wrong")
    assert cli("resume", "run", "-q").code == 0
    assert (tmp_path / "run" / "model.safetensors").exists()
