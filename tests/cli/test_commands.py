"""What the commands do and write when all goes well."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from chainrule import tabular
from chainrule.report.verdict import write_metric
from chainrule.train import Trainer

from .conftest import Command, patients


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(patients(20, seed=1), encoding="utf-8")
    return path


# --- train ------------------------------------------------------------------------------------------------------------


def test_training_says_what_it_recognised_and_how_good_it_became(cli: Command, table: Path) -> None:
    result = cli("train", "patients.csv", "--target", "outcome", "--epochs", 3)
    assert result.code == 0, result.err
    for words in (
        "binary classification of “outcome”: ill, well",
        "1 number · 1 boolean · 1 category · 1 date",
        "at most 3 epochs",
        "seed 0 · engine auto",
        "What the network gets",
        "Trained 3 epochs in",
        "The reference engine ran the steps: compiling would not pay for",
        "held-out rows classified correctly; always answering",
        "Area under the ROC curve",
        "Precision, recall and F1 are about “well”.",
        "Report   runs/patients/report.html",
        "chainrule predict runs/patients NEW.csv -o predictions.csv",
        "chainrule evaluate runs/patients NEW.csv",
    ):
        assert words in result.out
    assert result.err.startswith("epoch 1/3: loss ")
    for file in ("report.html", "model.safetensors", "model.graph", "run.json"):
        assert Path("runs/patients", file).is_file()


def test_the_verdict_is_that_of_the_run(cli: Command, table: Path) -> None:
    result = cli("train", "patients.csv", "--target", "outcome", "--epochs", 2)
    evaluation = tabular.Run.read(Path("runs/patients")).evaluation
    assert evaluation is not None
    assert f"{100 * evaluation.metrics['accuracy']:.1f} % of {evaluation.rows} held-out rows" in result.out


def test_json_stands_alone_on_standard_output(cli: Command, table: Path) -> None:
    result = cli(
        "train", "patients.csv", "--target", "outcome", "--epochs", 2, "--json", "--seed", 5, "--batch-size", "full"
    )
    assert result.code == 0
    content = result.json
    run = tabular.Run.read(Path(content["run"]))
    assert run.evaluation is not None
    assert content["metrics"] == pytest.approx(dict(run.evaluation.metrics), nan_ok=True)
    assert content["baseline_answer"] in content["classes"] == ["ill", "well"]
    assert content["parts"] == run.rows
    assert (content["status"], content["epochs"], content["task"]) == ("finished", 2, "binary")
    assert content["settings"] == {"target": "outcome", "epochs": 2, "seed": 5, "batch_size": "full"}
    assert content["plan"]["batch_size"] == content["parts"]["train"]
    assert Path(content["report"]).is_file()
    assert "held-out rows" in result.err


def test_quiet_training_says_nothing(cli: Command, table: Path) -> None:
    result = cli("train", "patients.csv", "--target", "outcome", "--epochs", 1, "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    result = cli("train", "patients.csv", "--target", "outcome", "--epochs", 1, "--quiet", "--json")
    assert result.json["run"] == "runs/patients-2"
    assert result.err == ""


def test_default_folders_are_numbered_and_force_takes_the_first(cli: Command, table: Path) -> None:
    for _ in range(3):
        assert cli("train", "patients.csv", "--target", "outcome", "--epochs", 1, "-q").code == 0
    assert {path.name for path in Path("runs").iterdir()} == {"patients", "patients-2", "patients-3"}
    created = tabular.Run.read("runs/patients").settings
    assert created.seed == 0
    assert cli("train", "patients.csv", "--target", "outcome", "--epochs", 1, "-q", "--force", "--seed", 9).code == 0
    assert tabular.Run.read("runs/patients").settings.seed == 9
    assert len(list(Path("runs").iterdir())) == 3


def test_options_count_more_than_the_settings_file(cli: Command, table: Path) -> None:
    Path("s.toml").write_text(
        'target = "city"\nepochs = 9\nhidden = [4]\ndrop = ["visited"]\nseed = 3\n[types]\nage = "category"\ncity = "category"\n'
    )
    options = ["--target", "outcome", "--epochs", 1, "--drop", "city", "--type", "age=number"]
    assert cli("train", "patients.csv", "--config", "s.toml", "--out", "r", *options).code == 0
    settings = tabular.Run.read("r").settings
    assert (settings.target, settings.epochs, settings.hidden, settings.seed) == ("outcome", 1, (4,), 3)
    assert settings.drop == ("visited", "city")
    assert dict(settings.types) == {"age": "number", "city": "category"}
    assert tabular.load("r").columns == {"age": "number", "smoker": "boolean"}


def test_a_settings_file_alone_is_enough(cli: Command, table: Path) -> None:
    Path("s.toml").write_text('target = "age"\nepochs = 1\n')
    result = cli("train", "patients.csv", "--config", "s.toml")
    assert result.code == 0
    assert "regression of “age”" in result.out
    assert "Predictions of “age” are off by" in result.out


def test_a_column_name_may_hold_an_equals_sign(cli: Command) -> None:
    rows = "\n".join(f"{n % 5},{n % 3},{n % 2}" for n in range(60))
    Path("t.csv").write_text(f"a=b,c,y\n{rows}\n")
    assert cli("train", "t.csv", "--target", "y", "--type", "a=b=category", "--epochs", 1, "--out", "r").code == 0
    assert tabular.load("r").columns["a=b"] == "category"


def test_identifiers_are_left_out_with_a_notice(cli: Command) -> None:
    rows = "\n".join(f"P{n:04},{n % 7},{'ab'[n % 2]}" for n in range(60))
    Path("t.csv").write_text(f"patient,x,y\n{rows}\n")
    result = cli("train", "t.csv", "--target", "y", "--epochs", 1)
    assert "left out: an identifier says nothing about new rows" in result.out
    assert "column 'patient'" in result.out
    assert "1 left out" in result.out


def test_groups_and_times_decide_the_split(cli: Command, table: Path) -> None:
    assert cli("train", "patients.csv", "--target", "outcome", "--time", "visited", "--epochs", 1, "-q").code == 0
    assert tabular.Run.read("runs/patients").settings.time == "visited"


def test_a_database_is_queried(cli: Command) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect("shop.duckdb") as connection:
        connection.execute("CREATE TABLE t AS SELECT range % 7 AS x, range % 2 = 0 AS y FROM range(60)")
    query = ["--sql", "SELECT * FROM t"]
    assert cli("train", "shop.duckdb", "--target", "y", "--epochs", 1, *query).code == 0
    assert cli("evaluate", "runs/shop", "shop.duckdb", *query).code == 0
    assert cli("predict", "runs/shop", "shop.duckdb", "-o", "p.csv", *query).code == 0
    assert len(read_csv(Path("p.csv").read_text())) == 60


def test_hostile_names_reach_neither_terminal_nor_markup(cli: Command) -> None:
    rows = "\n".join(f"{n % 7},{n % 5},{'[red]a' if n % 2 else chr(27) + '[2Jb'}" for n in range(60))
    Path("t.csv").write_text(f"\x1b]0;title\x07,[bold]z[/bold],[/]\u202ey\n{rows}\n")
    result = cli("train", "t.csv", "--target", "[/]\u202ey", "--epochs", 1)
    assert result.code == 0
    shown = result.out + result.err
    for words in ("\\x1b]0;title\\x07", "[bold]z[/bold]", "“[/]\\u202ey”", "\\x1b[2Jb", "[red]a"):
        assert words in shown
    assert not any(char in shown for char in "\x1b\x07\u202e")


# --- evaluate and predict ---------------------------------------------------------------------------------------------


def test_evaluating(cli: Command, trained: Path, new: Path) -> None:
    result = cli("evaluate", trained, new)
    assert result.code == 0
    assert " of 20 rows classified correctly; always answering" in result.out
    assert "held-out" not in result.out
    assert "Log loss" in result.out
    as_json = cli("evaluate", trained, new, "--json")
    expected = tabular.evaluate(trained, new)
    assert as_json.json["metrics"] == pytest.approx(dict(expected.metrics), nan_ok=True)
    assert as_json.json["rows"] == 20
    assert f"{100 * expected.metrics['accuracy']:.1f} %" in result.out


def test_predictions_come_in_input_order(cli: Command, trained: Path, new: Path) -> None:
    result = cli("predict", trained, new, "-o", "p.csv")
    assert (result.code, result.err, result.out) == (0, "", "20 predictions written to p.csv\n")
    rows = read_csv(Path("p.csv").read_text(encoding="utf-8"))
    expected = tabular.load(trained)
    assert list(rows[0]) == ["prediction", "probability_ill", "probability_well"]
    assert [row["prediction"] for row in rows] == expected.predict(new).tolist()
    probabilities = [[float(row["probability_ill"]), float(row["probability_well"])] for row in rows]
    np.testing.assert_allclose(probabilities, expected.predict_proba(new), rtol=1e-6)


def test_predictions_need_no_target_and_replace_an_older_file(cli: Command, trained: Path, new: Path) -> None:
    new.write_text("\n".join(line.rpartition(",")[0] for line in new.read_text("utf-8").splitlines()), encoding="utf-8")
    Path("p.csv").write_text("old")
    assert cli("predict", trained, new, "-o", "p.csv").code == 0
    assert len(read_csv(Path("p.csv").read_text())) == 20
    assert sorted(path.name for path in Path().iterdir()) == ["new.csv", "p.csv"]


def test_a_category_never_seen_is_a_notice(cli: Command, trained: Path, new: Path) -> None:
    new.write_text(new.read_text("utf-8").replace("Bern", "Thun"), encoding="utf-8")
    result = cli("predict", trained, new, "-o", "p.csv")
    assert result.code == 0
    assert result.err.startswith("note: ")
    assert "Thun" in result.err
    assert "'city'" in result.err
    assert cli("predict", trained, new, "-o", "p.csv", "--quiet").err == ""


def test_cells_that_would_run_as_formulas_are_quoted_with_a_notice(cli: Command) -> None:
    rows = "\n".join(f"{n % 7},{'=cmd()' if n % 2 else 'b'}" for n in range(60))
    Path("t.csv").write_text(f"x,y\n{rows}\n")
    assert cli("train", "t.csv", "--target", "y", "--epochs", 1, "--out", "r").code == 0
    result = cli("predict", "r", "t.csv", "-o", "p.csv")
    assert result.code == 0
    assert {row["prediction"] for row in read_csv(Path("p.csv").read_text())} <= {"'=cmd()", "b"}
    if "'=cmd()" in Path("p.csv").read_text():
        assert "formula" in result.err


# --- show -------------------------------------------------------------------------------------------------------------


def test_showing_a_run(cli: Command, trained: Path) -> None:
    result = cli("show", trained)
    assert (result.code, result.err) == (0, "")
    for words in ("patients.csv", "binary classification of “outcome”", "Trained 4 epochs", "Baseline", "report.html"):
        assert words in result.out
    assert cli("show", trained, "--json").json["metrics"].keys() >= {"accuracy", "log_loss"}


def test_comparing_runs(cli: Command, table: Path) -> None:
    cli("train", table, "--target", "outcome", "--epochs", 1, "--out", "short", "-q")
    cli("train", table, "--target", "outcome", "--epochs", 40, "--out", "long", "-q")
    cli("train", table, "--target", "age", "--epochs", 1, "--out", "other", "-q")
    result = cli("show", "short", "long", "other")
    assert result.code == 0
    lines = result.out.splitlines()
    assert "binary of “outcome”" in lines
    assert "regression of “age”" in lines
    short, long = (next(line for line in lines if line.split()[:1] == [name]) for name in ("short", "long"))
    losses = {name: tabular.Run.read(name).evaluation.metrics["log_loss"] for name in ("short", "long")}  # type: ignore[union-attr]
    assert losses["short"] != losses["long"]
    for name, line in (("short", short), ("long", long)):
        best = losses[name] == min(losses.values())
        assert f"{write_metric('log_loss', losses[name])} {'*' if best else ' '}" in line
    assert "epochs 40" in long
    assert sum(line.split()[:2] == ["constant", "answer"] for line in lines) == 2
    assert "same rows" not in result.out
    names = [run["name"] for run in cli("show", "short", "long", "--json").json["runs"]]
    assert names == ["short", "long"]


def test_runs_with_other_held_out_rows_are_compared_with_a_caution(cli: Command, table: Path) -> None:
    rows = "\n".join(f"{n % 7},{n * n % 11}" for n in range(60))
    Path("t.csv").write_text(f"x,y\n{rows}\n")
    for seed in (0, 1):
        cli("train", "t.csv", "--target", "y", "--task", "regression", "--epochs", 1, "--seed", seed, "-q")
    result = cli("show", "runs/t", "runs/t-2")
    assert "Not all were scored on the same rows" in result.out
    assert "constant answer" not in result.out


def interrupted(*given: object) -> dict[str, float]:
    os.kill(os.getpid(), signal.SIGINT)
    return {"loss": 1.0}


def test_a_forced_training_that_fails_in_its_first_epoch_leaves_the_old_run(
    cli: Command, table: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    Path("wild.toml").write_text("learning_rate = 1e37\n", encoding="utf-8")
    arguments = ("train", table, "--target", "outcome", "--out", "run", "--force")
    result = cli(*arguments, "--config", "wild.toml")
    assert result.code == 3
    assert "note: the run in run is as it was\n" in result.err
    assert "the last good weights" not in result.err
    monkeypatch.setattr(Trainer, "evaluate_examples", interrupted)
    result = cli(*arguments)
    assert result.code == 130
    assert "note: the run in run is as it was\n" in result.err
    assert "to go on" not in result.err
    assert (run / "model.safetensors").read_bytes() == before


# --- resume and continue ----------------------------------------------------------------------------------------------


def test_resuming_a_finished_run_changes_nothing(cli: Command, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    result = cli("resume", "run")
    assert result.code == 0
    assert "note: the run in run is finished already" in result.err
    assert (run / "model.safetensors").read_bytes() == before


def test_continuing_a_run(cli: Command, trained: Path, new: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    result = cli("continue", "run", new, "--out", "more", "--epochs", 2, "--json")
    assert result.code == 0, result.err
    assert result.json["epochs"] == 2
    assert result.json["run"] == "more"
    assert (run / "model.safetensors").read_bytes() == before
    assert cli("continue", "run", new, "--epochs", 2, "-q").code == 0
    assert tabular.Run.read("run").record.stage == 2
    assert cli("continue", "run", new, "--out", "more").code == 2  # it is there already


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "resume", "continue", "show"])
def test_every_command_has_help_with_an_example(command: str, cli: Command) -> None:
    result = cli(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"  chainrule {command} " in result.out
    listed = cli("--help").out
    assert f"  {command} " in listed


def test_the_names_that_others_rely_on(cli: Command) -> None:
    shown = cli("train", "--help").out
    for option in (
        *("--target", "--out", "--epochs", "--seed", "--batch-size", "--engine", "--type", "--drop", "--config"),
        *("--json", "--force", "--group", "--time", "--sql", "--task", "--quiet"),
    ):
        assert option in shown


def test_no_arguments_show_the_help(cli: Command) -> None:
    assert cli().out == cli("--help").out
    assert cli().code == 0


def test_the_json_of_a_nan_is_null(cli: Command, trained: Path, new: Path) -> None:
    lines = new.read_text("utf-8").splitlines()
    one_class = [lines[0], *(line for line in lines[1:] if line.endswith("ill"))]
    new.write_text("\n".join(one_class) + "\n", encoding="utf-8")
    result = cli("evaluate", trained, new, "--json")
    assert result.code == 0, result.err
    assert result.json["metrics"]["roc_auc"] is None
    json.loads(result.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
