"""Whole runs: what they write, that they repeat bit for bit, and that nothing that happens to a process loses them."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule import tabular
from chainrule.core.errors import ConfigError, DataError, NonFiniteError, RunError
from chainrule.core.files import read_json
from chainrule.core.weights import load_weights
from chainrule.report import Report
from chainrule.tabular import Run, Settings
from chainrule.train import BatchEvent, Callback, Trainer

from .conftest import QUICK, houses, patients, write

RunScript = Callable[..., subprocess.CompletedProcess[str]]

FILES = {
    "run.json",
    "preprocessing.json",
    "target.json",
    "model.graph",
    "model.safetensors",
    "history.json",
    "evaluation.json",
    "report.json",
    "report.html",
    "checkpoints",
}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# --- what a run is ----------------------------------------------------------------------------------------------------


def test_a_run_learns_and_its_folder_has_everything(patients_run: Run, patients_csv: Path) -> None:
    run = patients_run
    assert {entry.name for entry in run.folder.iterdir()} == FILES
    assert run.status == "finished"
    assert run.rows == {"train": 84, "validation": 18, "test": 18}
    assert run.target.task == "binary"
    assert run.evaluation is not None
    assert run.evaluation.part == "test"
    assert run.evaluation.rows == 18
    assert run.evaluation.metrics["accuracy"] > run.evaluation.baseline["accuracy"] + 0.2
    assert run.history.best_epoch is not None
    assert any("looks like an identifier" in notice or "look like an identifier" in notice for notice in run.notices)
    record = read_json(run.folder / "run.json")
    assert record["data"]["path"] == str(patients_csv.resolve())
    assert record["data"]["kinds"]["name"] == "identifier"
    assert record["environment"].keys() == {"chainrule", "python", "numpy", "system"}
    assert Run.read(run.folder) == run


def test_the_report_tells_what_happened(patients_run: Run) -> None:
    report = Report.from_json((patients_run.folder / "report.json").read_text(encoding="utf-8"))
    assert patients_run.evaluation is not None
    assert report.metrics == patients_run.evaluation.metrics
    assert len(report.history) == len(patients_run.history)
    assert report.best_epoch == patients_run.history.best_epoch
    assert {name for name, _, _ in report.importances} == {"age", "dose", "ward", "smoker", "clinic", "seen"}
    assert [column["treatment"] for column in report.columns if column["name"] == "name"] == ["left out"]
    assert sum(parameters for _, _, parameters in report.network) == 16 * (report_width(report) + 1) + 17
    page = (patients_run.folder / "report.html").read_text(encoding="utf-8")
    assert "diagnosis" in page
    assert "<script" not in page


def report_width(report: Report) -> int:
    return int(report.configuration["network"].split(" ")[0])


def test_the_columns_that_matter_are_the_important_ones(patients_run: Run) -> None:
    assert patients_run.evaluation is not None
    importances = {name: mean for name, mean, _ in patients_run.evaluation.importances}
    assert patients_run.evaluation.importance_score == "log_loss"
    assert min(importances["age"], importances["dose"]) > abs(importances["seen"])


def test_a_regression_is_in_the_unit_of_the_target(houses_run: Run) -> None:
    evaluation = houses_run.evaluation
    assert evaluation is not None
    assert evaluation.metrics["r2"] > 0.95
    assert evaluation.metrics["mean_absolute_error"] < 15_000 < evaluation.baseline["mean_absolute_error"]
    assert evaluation.residuals is not None
    assert np.mean([abs(true - predicted) for true, predicted in evaluation.residuals]) == pytest.approx(
        evaluation.metrics["mean_absolute_error"]
    )
    assert evaluation.baseline_answer == pytest.approx(houses_run.target.centre)


def test_what_is_ready_is_told_before_the_first_step(patients_csv: Path, tmp_path: Path) -> None:
    told: list[tabular.Preparation] = []

    def on_prepared(preparation: tabular.Preparation) -> None:
        told.append(preparation)
        assert {entry.name for entry in preparation.folder.iterdir()} == {
            "run.json",
            "preprocessing.json",
            "target.json",
        }
        assert Run.read(preparation.folder).status == "training"

    run = tabular.train(patients_csv, "diagnosis", out=tmp_path / "run", settings=QUICK, on_prepared=on_prepared)
    [preparation] = told
    assert (preparation.task, preparation.source) == ("binary", "patients.csv")
    assert preparation.rows == run.rows
    assert preparation.report.configuration["epochs"] == 4
    assert preparation.parameters == 8 * (preparation.plan.width + 1) + 9


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(patients_csv: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        tabular.train(patients_csv, "diagnosis", out=tmp_path / name, settings=QUICK.replace(seed=seed))
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert weights(one) == weights(two)
    assert (one / "evaluation.json").read_bytes() == (two / "evaluation.json").read_bytes()
    assert weights(one) != weights(three)


def test_tables_in_memory_give_the_same_run_as_their_file(tmp_path: Path) -> None:
    columns = houses()
    tabular.train(write(tmp_path / "houses.csv", columns), "price", out=tmp_path / "file", settings=QUICK)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    tabular.train(arrays, "price", out=tmp_path / "memory", settings=QUICK)
    assert weights(tmp_path / "file") == weights(tmp_path / "memory")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(test_share=0.0), {"train": 102, "validation": 18, "test": 0}),
        (Settings(test_share=0.3, validation_share=0.0), {"train": 84, "validation": 0, "test": 36}),
        (Settings(test_share=0.0, validation_share=0.0), {"train": 120, "validation": 0, "test": 0}),
        (Settings(time="seen"), {"train": 84, "validation": 18, "test": 18}),
        (Settings(group="clinic"), None),
    ],
)
def test_every_kind_of_split_trains(patients_csv: Path, tmp_path: Path, settings: Settings, expected: Any) -> None:
    quick = settings.replace(epochs=3, hidden=(4,))
    run = tabular.train(patients_csv, "diagnosis", out=tmp_path / "run", settings=quick)
    assert run.evaluation is not None
    assert run.evaluation.part == next(part for part in ("test", "validation", "train") if run.rows[part])
    if expected is None:
        assert "clinic" not in tabular.load(run.folder).columns
    elif settings.time is None:
        assert run.rows == expected


def test_four_rows_of_xor_are_learned(tmp_path: Path) -> None:
    path = write(tmp_path / "xor.csv", {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "y": ["no", "yes", "yes", "no"]})
    settings = Settings(
        epochs=400, hidden=(8,), learning_rate=0.05, batch_size=1, dropout=0.0, weight_decay=0.0, stop_at_loss=0.01
    )
    run = tabular.train(path, "y", out=tmp_path / "run", settings=settings)
    assert run.rows == {"train": 4, "validation": 0, "test": 0}
    assert run.evaluation is not None
    assert run.evaluation.metrics["accuracy"] == 1
    assert run.history.stop_reason == "the loss is at most 0.01"
    assert any("only 4 rows" in notice for notice in run.notices)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": ()},
        {"class_weight": "balanced"},
        {"batch_size": "full", "clip_norm": 0.1},
        {"activation": "Tanh", "dropout": 0.0},
        {"weight_decay": 5.0},
    ],
)
def test_settings_reach_the_network(patients_csv: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    plain = tabular.train(patients_csv, "diagnosis", out=tmp_path / "plain", settings=QUICK)
    run = tabular.train(patients_csv, "diagnosis", out=tmp_path / "run", settings=QUICK.replace(**changes))
    assert weights(run.folder) != weights(plain.folder)
    kept = Run.read(run.folder).settings
    assert {name: getattr(kept, name) for name in changes} == changes


def test_without_patience_the_last_weights_are_kept(patients_csv: Path, tmp_path: Path) -> None:
    settings = Settings(epochs=25, hidden=(64,), learning_rate=0.3, weight_decay=0.0, dropout=0.0)
    stopped = tabular.train(patients_csv, "diagnosis", out=tmp_path / "stopped", settings=settings.replace(patience=8))
    run = tabular.train(patients_csv, "diagnosis", out=tmp_path / "run", settings=settings.replace(patience=0))
    assert stopped.history.best_epoch is not None
    assert stopped.history.best_epoch < 25
    assert (len(run.history), run.history.best_epoch) == (25, None)
    assert weights(run.folder) != weights(stopped.folder)


def test_balanced_classes_find_a_rare_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(0, 1, 285), generator.normal(1.5, 1, 15)])
    columns = {"x": x, "y": np.array(["common"] * 285 + ["rare"] * 15)}
    settings = Settings(target="y", epochs=30, learning_rate=0.02, hidden=(8,))
    recalls = []
    for name, weight in (("plain", None), ("balanced", "balanced")):
        run = tabular.train(columns, out=tmp_path / name, settings=settings.replace(class_weight=weight))
        recalls.append(tabular.evaluate(run.folder, columns, importance=False).metrics["recall"])
    assert recalls[1] > recalls[0] + 0.25


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_run_is_never_overwritten_without_force(patients_csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tabular.train(patients_csv, "diagnosis", out=folder, settings=QUICK)
    before = weights(folder)
    with pytest.raises(RunError, match=r"run exists already; .*--force"):
        tabular.train(patients_csv, "diagnosis", out=folder, settings=QUICK.replace(seed=1))
    assert weights(folder) == before
    tabular.train(patients_csv, "diagnosis", out=folder, settings=QUICK.replace(seed=1), force=True)
    assert weights(folder) != before


def test_force_replaces_nothing_that_is_no_run_and_nothing_before_the_data_are_good(
    patients_csv: Path, patients_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(RunError, match="precious is not a run folder, so it is not overwritten"):
        tabular.train(patients_csv, "diagnosis", out=tmp_path / "precious", settings=QUICK, force=True)
    shutil.copytree(patients_run.folder, tmp_path / "run")
    with pytest.raises(DataError, match="has no column 'diagnoses'"):
        tabular.train(patients_csv, "diagnoses", out=tmp_path / "run", settings=QUICK, force=True)
    assert weights(tmp_path / "run") == weights(patients_run.folder)


def test_missing_parents_are_made_and_a_failure_leaves_nothing(patients_csv: Path, tmp_path: Path) -> None:
    tabular.train(patients_csv, "diagnosis", out=tmp_path / "a" / "b" / "run", settings=QUICK)
    with pytest.raises(DataError):
        tabular.train(patients_csv, "age of patient", out=tmp_path / "c" / "run", settings=QUICK)
    assert not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_written_is_refused(patients_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot write .*file/run"):
        tabular.train(patients_csv, "diagnosis", out=tmp_path / "file" / "run", settings=QUICK)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a folder that not even root can write")
def test_a_read_only_place_is_refused(patients_csv: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write /proc/chainrule"):
        tabular.train(patients_csv, "diagnosis", out=Path("/proc/chainrule/run"), settings=QUICK)


# --- interruptions ----------------------------------------------------------------------------------------------------


class At(Callback):
    """Does something at one step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step = step
        self.act = act

    def on_batch_end(self, trainer: Trainer, event: BatchEvent) -> None:
        if event.step == self.step:
            self.act()


_KILLED = """
import os, signal, sys
from chainrule import tabular
from chainrule.tabular import Settings, training
from chainrule.train import Callback
source, out, where = sys.argv[1:]

def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

class Killer(Callback):
    def on_batch_end(self, trainer, event):
        if where.isdigit() and event.step == int(where):
            die()

def on_prepared(preparation):
    if where == "prepared":
        die()

if hasattr(training, where):
    setattr(training, where, die)
tabular.train(source, "diagnosis", out=out, settings=Settings(epochs=4, hidden=(8,), batch_size=16),
              callbacks=[Killer()], on_prepared=on_prepared)
"""


@pytest.fixture(scope="module")
def unbroken(patients_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    tabular.train(patients_csv, "diagnosis", out=folder, settings=QUICK)
    return folder


@pytest.mark.parametrize("where", ["prepared", "1", "9", "24", "write_model", "evaluate_table", "render_report"])
def test_a_killed_run_resumes_to_the_same_bits(
    patients_csv: Path, unbroken: Path, tmp_path: Path, run_script: RunScript, where: str
) -> None:
    folder = tmp_path / "run"
    assert run_script(_KILLED, patients_csv, folder, where).returncode == -signal.SIGKILL
    assert Run.read(folder).status == "training"
    if where in ("prepared", "1", "9"):
        with pytest.raises(RunError, match=r"is not trained yet; finish it with: chainrule resume"):
            tabular.load(folder)
    run = tabular.resume(folder)
    assert run.status == "finished"
    assert weights(folder) == weights(unbroken)
    assert (folder / "evaluation.json").read_bytes() == (unbroken / "evaluation.json").read_bytes()
    assert {entry.name for entry in folder.iterdir()} == FILES
    assert run.notices == Run.read(unbroken).notices


def test_ctrl_c_keeps_what_was_learned_and_can_be_resumed(patients_csv: Path, unbroken: Path, tmp_path: Path) -> None:
    stop = At(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    run = tabular.train(patients_csv, "diagnosis", out=tmp_path / "run", settings=QUICK, callbacks=[stop])
    assert run.status == "interrupted"
    assert run.evaluation is not None
    assert len(tabular.predict(run.folder, patients_csv)) == 120
    assert tabular.resume(run.folder).status == "finished"
    assert weights(run.folder) == weights(unbroken)


def test_a_finished_run_stays_as_it_is(unbroken: Path) -> None:
    before = weights(unbroken)
    notices: list[str] = []
    assert tabular.resume(unbroken, notices=notices).status == "finished"
    assert weights(unbroken) == before
    assert len(notices) == 1
    assert "is finished already" in notices[0]


def test_resuming_needs_the_same_data(patients_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    shutil.copy(patients_csv, path)
    stop = At(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    folder = tabular.train(path, "diagnosis", out=tmp_path / "run", settings=QUICK, callbacks=[stop]).folder
    path.write_text(patients_csv.read_text(encoding="utf-8").replace("north", "north-west", 1), encoding="utf-8")
    with pytest.raises(RunError, match=r"patients\.csv is not what the run in .* was started with"):
        tabular.resume(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"patients\.csv does not exist"):
        tabular.resume(folder)
    assert tabular.resume(folder, patients_csv).status == "finished"


def test_a_run_on_a_table_in_memory_resumes_with_that_table(tmp_path: Path) -> None:
    columns = {name: np.asarray(values) for name, values in houses().items()}
    stop = At(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    folder = tabular.train(columns, "price", out=tmp_path / "run", settings=QUICK, callbacks=[stop]).folder
    with pytest.raises(RunError, match="was trained on a table in memory"):
        tabular.resume(folder)
    assert tabular.resume(folder, columns).status == "finished"


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_what_is_no_run_cannot_be_resumed(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    with pytest.raises(RunError, match=r"x (does not exist|is not a run folder)"):
        tabular.resume(tmp_path / "x")


def test_a_full_disk_loses_nothing(patients_csv: Path, unbroken: Path, small_disk: Path) -> None:
    folder = small_disk / "run"
    filler = small_disk / "filler"

    def fill() -> None:
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    with pytest.raises(RunError, match=r"cannot write .*checkpoints.*the disk is full"):
        tabular.train(patients_csv, "diagnosis", out=folder, settings=QUICK, callbacks=[At(9, fill)])
    filler.unlink()
    assert tabular.resume(folder).status == "finished"
    assert weights(folder) == weights(unbroken)


def test_a_nan_stops_training_and_the_last_good_weights_are_kept(patients_csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"the first non-finite value appeared in .*layers"):
        tabular.train(patients_csv, "diagnosis", out=folder, settings=QUICK.replace(learning_rate=1e37))
    run = Run.read(folder)
    assert run.status == "diverged"
    assert run.record.problem is not None
    assert "non-finite" in run.record.problem
    found, _ = load_weights(folder / "model.safetensors")
    assert all(np.isfinite(array).all() for array in found.values())
    assert len(tabular.predict(folder, patients_csv)) == 120


# --- continuing -------------------------------------------------------------------------------------------------------


def test_a_run_is_trained_further_on_new_rows(patients_run: Run, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", patients(200, seed=9))
    run = tabular.continue_training(patients_run.folder, new, out=tmp_path / "more", epochs=15)
    assert run.status == "finished"
    assert run.record.continues == "patients"
    assert run.plan.learning_rate == pytest.approx(patients_run.plan.learning_rate * 0.3)
    assert run.rows == {"train": 140, "validation": 30, "test": 30}
    assert (run.folder / "preprocessing.json").read_bytes() == (patients_run.folder / "preprocessing.json").read_bytes()
    before, after = (
        tabular.evaluate(folder, new, importance=False).metrics["log_loss"]
        for folder in (patients_run.folder, run.folder)
    )
    assert after < before


def test_continuing_in_place_keeps_the_old_weights_until_it_is_done(patients_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(patients_run.folder, folder)
    new = write(tmp_path / "new.csv", patients(100, seed=4))
    old = weights(folder)
    seen: list[bool] = []
    watch = At(5, lambda: seen.append(weights(folder) == old))
    run = tabular.continue_training(folder, new, epochs=3, learning_rate=0.02, callbacks=[watch])
    assert seen == [True]
    assert (run.record.stage, run.record.data.source) == (2, "new.csv")
    assert [entry["source"] for entry in run.record.earlier] == ["patients.csv"]
    assert sorted(entry.name for entry in (folder / "checkpoints").iterdir()) == ["1", "2"]
    again = tabular.continue_training(patients_run.folder, new, epochs=3, learning_rate=0.02, out=tmp_path / "out")
    assert weights(again.folder) == weights(folder)


def test_an_interrupted_continuation_resumes_to_the_same_bits(patients_run: Run, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", patients(100, seed=4))
    results = []
    for name, callbacks in (("a", []), ("b", [At(7, lambda: os.kill(os.getpid(), signal.SIGINT))])):
        shutil.copytree(patients_run.folder, tmp_path / name)
        run = tabular.continue_training(tmp_path / name, new, epochs=4, learning_rate=0.02, callbacks=callbacks)
        assert run.status == ("interrupted" if callbacks else "finished")
        tabular.resume(tmp_path / name)
        results.append(weights(tmp_path / name))
    assert results[0] == results[1]


def test_continuing_never_makes_the_validation_loss_worse(patients_run: Run, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", patients(100, seed=4))
    notices: list[str] = []
    run = tabular.continue_training(
        patients_run.folder, new, out=tmp_path / "run", epochs=2, learning_rate=5.0, notices=notices
    )
    assert run.history.best_epoch is None
    assert any("these were kept" in notice for notice in notices)
    old, kept = (load_weights(folder / "model.safetensors")[0] for folder in (patients_run.folder, run.folder))
    assert all(np.array_equal(old[name], kept[name]) for name in old)


def test_continuing_needs_rows_that_fit_and_a_trained_run(
    patients_run: Run, patients_csv: Path, tmp_path: Path, run_script: RunScript
) -> None:
    unknown = write(tmp_path / "unknown.csv", {**patients(30), "diagnosis": ["ill", "dead", *["healthy"] * 28]})
    with pytest.raises(DataError, match=r"unknown\.csv, line 3, column 'diagnosis': 'dead' is not one of the classes"):
        tabular.continue_training(patients_run.folder, unknown, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="epochs must be"):
        tabular.continue_training(patients_run.folder, patients_csv, out=tmp_path / "run", epochs=0)
    run_script(_KILLED, patients_csv, tmp_path / "killed", "9")
    with pytest.raises(RunError, match="is not finished; finish it with: chainrule resume"):
        tabular.continue_training(tmp_path / "killed", patients_csv)


# --- databases --------------------------------------------------------------------------------------------------------


def test_a_query_on_a_database_trains_resumes_predicts_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "houses.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE houses (size REAL, rooms INTEGER, price REAL)")
        connection.executemany("INSERT INTO houses VALUES (?, ?, ?)", list(zip(*houses().values(), strict=True)))
        connection.commit()
    settings = QUICK.replace(sql="SELECT * FROM houses ORDER BY size", target="price")
    stop = At(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    folder = tabular.train(path, out=tmp_path / "run", settings=settings, callbacks=[stop]).folder
    assert tabular.resume(folder).status == "finished"
    query = "SELECT rooms, size, price FROM houses WHERE rooms > 3"
    found = tabular.predict(folder, path, sql=query)
    assert len(found) == sum(rooms > 3 for rooms in houses()["rooms"])
    assert tabular.evaluate(folder, path, sql=query).rows == len(found)
    run = tabular.continue_training(folder, path, sql=query, epochs=2)
    assert run.record.data.sql == query
    assert tabular.resume(folder).status == "finished"
