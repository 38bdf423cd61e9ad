"""Predictions and scores of a finished run, on files and on tables in memory, and files that were tampered with."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest

from chainrule import tabular
from chainrule.core.errors import ChainruleError, ConfigError, DataError, RunError, WeightsError
from chainrule.core.files import read_json, write_json
from chainrule.core.weights import load_weights, save_weights
from chainrule.data import read_table
from chainrule.tabular import Evaluation, Run, TabularPredictor

from .conftest import patients, write

RunScript = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def new_rows() -> dict[str, list[Any]]:
    """Rows without the target and with the columns in another order."""
    columns = patients(40, seed=3)
    del columns["diagnosis"]
    return dict(reversed(columns.items()))


@pytest.fixture
def copied_run(patients_run: Run, tmp_path: Path) -> Path:
    shutil.copytree(patients_run.folder, tmp_path / "run")
    return tmp_path / "run"


# --- predicting -------------------------------------------------------------------------------------------------------


def test_predictions_are_in_input_order_with_a_probability_for_each_class(
    patients_run: Run, new_rows: dict[str, list[Any]], tmp_path: Path
) -> None:
    path = write(tmp_path / "new.csv", new_rows)
    found = tabular.predict(patients_run.folder, path)
    assert found.classes == ("healthy", "ill")
    assert found.probabilities is not None
    assert np.allclose(found.probabilities.sum(axis=1), 1)
    assert found.prediction.tolist() == [found.classes[k] for k in found.probabilities.argmax(axis=1)]
    assert len(set(found.prediction.tolist())) == 2
    # Each row alone gives the same answer as among the others.
    for row in (0, 7, 39):
        alone = write(tmp_path / "row.csv", {name: values[row : row + 1] for name, values in new_rows.items()})
        again = tabular.predict(patients_run.folder, alone)
        assert again.prediction[0] == found.prediction[row]
        assert again.probabilities is not None
        assert np.allclose(again.probabilities[0], found.probabilities[row], atol=1e-6)


def test_predictions_are_written_as_csv(patients_run: Run, new_rows: dict[str, list[Any]], tmp_path: Path) -> None:
    found = tabular.predict(patients_run.folder, write(tmp_path / "new.csv", new_rows))
    assert found.write(tmp_path / "out.csv") == 0
    written = read_table(tmp_path / "out.csv")
    assert written.names == ("prediction", "probability_healthy", "probability_ill")
    assert written.column("prediction").values.tolist() == found.prediction.tolist()
    assert found.probabilities is not None
    assert np.array_equal(written.column("probability_ill").values.astype(np.float32), found.probabilities[:, 1])


def test_class_names_that_a_spreadsheet_would_run_are_quoted_with_a_notice(tmp_path: Path) -> None:
    columns = {"x": np.arange(40.0), "y": np.array(["=1+1", "fine"] * 20)}
    run = tabular.train(columns, "y", out=tmp_path / "run", settings=tabular.Settings(epochs=1, hidden=()))
    found = tabular.predict(run.folder, {"x": np.arange(5.0)})
    expected = int((found.prediction == "=1+1").sum())
    assert found.write(tmp_path / "out.csv") == expected
    assert len(found.notices) == (expected > 0)
    assert found.columns().keys() == {"prediction", "probability_=1+1", "probability_fine"}


def test_frames_of_all_kinds_give_the_answers_of_the_file(
    patients_run: Run, new_rows: dict[str, list[Any]], tmp_path: Path
) -> None:
    predictor = tabular.load(patients_run.folder)
    path = write(tmp_path / "new.csv", new_rows)
    expected = predictor.predict_proba(path)
    table = read_table(path, expect=predictor.columns)
    typed: dict[str, Any] = {}
    for column in table.columns:
        match column.kind:
            case "date":
                typed[column.name] = (column.values * 1e6).astype("datetime64[us]")
            case "boolean":
                typed[column.name] = column.values.astype(bool)
            case _:
                typed[column.name] = column.values
    frame = pd.DataFrame(typed)
    for source in (frame, polars.from_pandas(frame), pyarrow.Table.from_pandas(frame), typed, table):
        assert np.array_equal(predictor.predict_proba(source), expected)


def test_a_regression_predicts_numbers_and_has_no_probabilities(houses_run: Run, tmp_path: Path) -> None:
    predictor = tabular.load(houses_run.folder)
    found = predictor.predict({"size": [50.0, 150.0], "rooms": [2, 2]})
    assert found.dtype == np.float64
    assert 80_000 < found[1] - found[0] < 120_000
    with pytest.raises(ConfigError, match="'price' is a number, which has no class probabilities"):
        predictor.predict_proba({"size": [50.0], "rooms": [2]})
    assert list(predictor.predictions({"size": [50.0], "rooms": [2]}).columns()) == ["prediction"]


def test_what_was_never_seen_in_training_is_handled_with_a_notice(
    patients_run: Run, new_rows: dict[str, list[Any]], tmp_path: Path
) -> None:
    new_rows["ward"][4] = "west"
    new_rows["smoker"][0] = new_rows["seen"][1] = new_rows["dose"][2] = None
    new_rows["age"][6] = "1e300"
    notices: list[str] = []
    found = tabular.predict(patients_run.folder, write(tmp_path / "new.csv", new_rows), notices=notices)
    assert np.isfinite(found.probabilities).all()
    assert notices == [
        "column 'ward': 1 row has a category that the training rows did not have ('west'), treated as an average of the "
        "known categories"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("dose"), r"new\.csv has no column 'dose'"),
        (lambda c: c.update(Ward=c.pop("ward")), r"new\.csv has no column 'ward' \(did you mean 'Ward'\?\)"),
        (lambda c: c["dose"].__setitem__(5, "much"), r"new\.csv, line 7, column 'dose': 'much' is not a number"),
        (lambda c: c["dose"].__setitem__(5, "inf"), r"new\.csv, line 7, column 'dose': 'inf' is infinite"),
        (lambda c: c["smoker"].__setitem__(0, "often"), r"new\.csv, line 2, column 'smoker': 'often' is neither true"),
        (lambda c: c["seen"].__setitem__(2, "soon"), r"new\.csv, line 4, column 'seen': 'soon' is not a date"),
        (lambda c: [values.clear() for values in c.values()], r"new\.csv has a header but no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    patients_run: Run, new_rows: dict[str, list[Any]], tmp_path: Path, change: Any, message: str
) -> None:
    change(new_rows)
    with pytest.raises(DataError, match=message):
        tabular.predict(patients_run.folder, write(tmp_path / "new.csv", new_rows))


def test_predicting_needs_none_of_the_code_that_trains(
    patients_run: Run, patients_csv: Path, run_script: RunScript
) -> None:
    """A process in which layers, optimisers and the trainer cannot even be imported predicts the same."""
    script = """
import sys, types
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "chainrule.nn" or name.startswith(("chainrule.nn.", "chainrule.train", "chainrule.optim")):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
package = types.ModuleType("chainrule"); package.__path__ = [sys.argv[3]]; sys.modules["chainrule"] = package
from pathlib import Path
from chainrule.core.files import read_json
from chainrule.data import Preprocessing, Target, read_table
from chainrule.runs import load_model
folder = Path(sys.argv[1])
preprocessing = Preprocessing.from_json(read_json(folder / "preprocessing.json"))
found = load_model(folder)(preprocessing.encode(read_table(sys.argv[2], expect=preprocessing.kinds)))
print(found["probability"][:, 1].tolist())
"""
    package = Path(tabular.__file__).parents[1]
    result = run_script(script, patients_run.folder, patients_csv, package)
    assert result.stderr == ""
    expected = tabular.load(patients_run.folder).predict_proba(patients_csv)[:, 1]
    assert np.array_equal(np.array(ast.literal_eval(result.stdout), np.float32), expected)


def test_a_predictor_shows_its_graph_and_weights(patients_run: Run) -> None:
    predictor = tabular.load(patients_run.folder)
    assert predictor.columns == {
        "age": "number",
        "dose": "number",
        "ward": "category",
        "smoker": "boolean",
        "clinic": "number",
        "seen": "date",
    }
    assert [value.name for value in predictor.graph.inputs if value.name.startswith("inputs.")] == [
        f"inputs.{name}" for name in predictor.columns
    ]
    assert predictor.weights["layers.0.weight"].shape == (patients_run.plan.width, 16)
    paths = {node.origin.path for node in predictor.graph.nodes}
    assert {"layers.0", "layers.1"} <= paths


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_new_rows_are_scored(patients_run: Run, tmp_path: Path) -> None:
    columns = patients(300, seed=8)
    columns["diagnosis"][0] = columns["diagnosis"][1] = None
    notices: list[str] = []
    path = write(tmp_path / "new.csv", columns)
    evaluation = tabular.evaluate(patients_run.folder, path, notices=notices)
    assert (evaluation.rows, evaluation.part, evaluation.source) == (298, "new data", "new.csv")
    assert notices == ["2 rows have no target and are left out"]
    found = tabular.predict(patients_run.folder, path).prediction[2:]
    assert evaluation.metrics["accuracy"] == pytest.approx((found == np.array(columns["diagnosis"][2:])).mean())
    assert evaluation.metrics["accuracy"] > 0.8
    assert evaluation.confusion is not None
    assert np.sum(evaluation.confusion) == 298
    assert evaluation.baseline_answer == max(("healthy", "ill"), key=columns["diagnosis"].count)
    write_json(tmp_path / "evaluation.json", evaluation.to_json())
    assert Evaluation.from_json(read_json(tmp_path / "evaluation.json")) == evaluation


def test_the_scores_of_the_held_out_rows_can_be_had_again(patients_run: Run, patients_csv: Path) -> None:
    """Evaluating the test rows of a run from their file gives the scores that the run recorded."""
    assert patients_run.evaluation is not None
    table = read_table(patients_csv, types=patients_run.record.data.kinds)
    from_record = patients_run.evaluation.metrics
    rows = np.flatnonzero(~table.column("diagnosis").missing)
    split = tabular.preparation.split_for(table, patients_run.settings, patients_run.target, rows, None)
    again = tabular.evaluate(patients_run.folder, table.select(split.test), importance=False)
    assert again.metrics == from_record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("diagnosis"), r"new\.csv has no column 'diagnosis'"),
        (lambda c: c["diagnosis"].__setitem__(2, "dead"), r"new\.csv, line 4, column 'diagnosis': 'dead' is not one"),
        (lambda c: c.update(diagnosis=[None] * 40), r"column 'diagnosis': every value of the target is missing"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(patients_run: Run, tmp_path: Path, change: Any, message: str) -> None:
    columns = patients(40, seed=3)
    change(columns)
    with pytest.raises(DataError, match=message):
        tabular.evaluate(patients_run.folder, write(tmp_path / "new.csv", columns))


def test_runs_are_compared(patients_run: Run, houses_run: Run) -> None:
    one, two = tabular.compare_runs([patients_run.folder, houses_run.folder])
    assert (one.name, one.task, one.target, one.source) == ("patients", "binary", "diagnosis", "patients.csv")
    assert patients_run.evaluation is not None
    assert one.metrics == patients_run.evaluation.metrics
    assert one.settings == {"epochs": 40, "hidden": [16], "learning_rate": 0.01}
    assert one.parameters == 16 * (patients_run.plan.width + 1) + 17
    assert (two.task, two.epochs) == ("regression", len(houses_run.history))


# --- files from strangers ---------------------------------------------------------------------------------------------


def test_a_truncated_weight_file_is_refused(copied_run: Path) -> None:
    path = copied_run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"model\.safetensors is truncated"):
        tabular.load(copied_run)


def test_a_changed_weight_is_refused(copied_run: Path) -> None:
    path = copied_run / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged or was altered"):
        tabular.load(copied_run)


def test_weights_of_another_network_are_refused_with_both_shapes(copied_run: Path) -> None:
    weights, _ = load_weights(copied_run / "model.safetensors")
    width = len(weights["layers.0.weight"])
    weights["layers.0.weight"] = np.zeros((width, 32), np.float32)
    save_weights(copied_run / "model.safetensors", weights)
    message = rf"another network: 'layers\.0\.weight' has shape \({width}, 32\) there and \({width}, 16\)"
    with pytest.raises(WeightsError, match=message):
        tabular.load(copied_run)


@pytest.mark.parametrize("name", ["model.graph", "preprocessing.json", "target.json", "run.json"])
@pytest.mark.parametrize("damage", ["", "{}", "[]", "\x00", '{"format": "chainrule.run", "version": 1}', "graph"])
def test_damaged_files_are_refused_by_name(copied_run: Path, name: str, damage: str) -> None:
    (copied_run / name).write_text(damage, encoding="utf-8")
    with pytest.raises(ChainruleError, match=name.replace(".", r"\.")):
        if name == "run.json":
            Run.read(copied_run)
        else:
            tabular.load(copied_run)


def test_a_preprocessing_of_another_run_is_refused(copied_run: Path) -> None:
    content = read_json(copied_run / "preprocessing.json")
    content["columns"] = [column for column in content["columns"] if column["name"] != "dose"]
    write_json(copied_run / "preprocessing.json", content)
    with pytest.raises(RunError, match=r"the graph and the preprocessing of .* disagree about column 'dose'"):
        tabular.load(copied_run)


def test_a_run_of_another_version_is_refused(copied_run: Path) -> None:
    content = read_json(copied_run / "run.json")
    write_json(copied_run / "run.json", {**content, "version": 99})
    with pytest.raises(RunError, match="was written in version 99 of the format"):
        Run.read(copied_run)


def test_a_predictor_can_be_passed_in_place_of_its_folder(patients_run: Run, patients_csv: Path) -> None:
    predictor = tabular.load(patients_run.folder)
    assert isinstance(predictor, TabularPredictor)
    one, two = tabular.predict(predictor, patients_csv), tabular.predict(patients_run.folder, patients_csv)
    assert one.prediction.tolist() == two.prediction.tolist()
    assert tabular.evaluate(predictor, patients_csv) == tabular.evaluate(patients_run.folder, patients_csv)


def test_hostile_names_are_data(tmp_path: Path) -> None:
    names = [
        "a.b/c\\d",
        'quote " and , and \n line',
        "\x1b[31mred",
        "<script>alert(1)</script>",
        "inputs.x",
        "%41",
        "‮rtl",
    ]
    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {name: generator.normal(size=40) for name in names}
    columns["kind\t|"] = np.array(["=cmd|' /C calc'!A0", "</style><script>"] * 20)
    columns["y\n"] = np.array(["<b>", "\x1b[0m../../etc"] * 20)
    run = tabular.train(columns, "y\n", out=tmp_path / "run", settings=tabular.Settings(epochs=2, hidden=(4,)))
    predictor = tabular.load(run.folder)
    assert list(predictor.columns) == [*names, "kind\t|"]
    assert set(predictor.predict(columns)) <= {"<b>", "\x1b[0m../../etc"}
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page + (run.folder / "model.graph").read_text(encoding="utf-8")
