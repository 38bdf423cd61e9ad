"""Tables that nothing can be learned from: one clear sentence, and nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule import tabular
from chainrule.core.errors import ChainruleError, ConfigError, DataError
from chainrule.tabular import Settings

from .conftest import QUICK, patients, write

TEXT = {
    "an empty file": ("", "data.csv is empty"),
    "header only": ("a,y\n", "data.csv has a header but no rows"),
    "a single row": ("a,y\n1,2\n", "data.csv has a single row"),
    "a ragged row": ("a,y\n1,2\n3\n4,5\n", "data.csv, line 3"),
    "an unclosed quote": ('a,y\n1,2\n"3,4\n', "data.csv, line 3"),
    "an HTML page": ("<!DOCTYPE html>\n<html></html>\n", "data.csv .*HTML"),
    "a column name twice": ("a,a,y\n1,2,3\n4,5,6\n", "'a' appears twice"),
    "an infinite value": ("a,y\n1,0\ninf,1\n2,0\n", "data.csv, line 3, column 'a': 'inf' is infinite"),
    "a target that is not there": ("a,label\n1,2\n3,4\n", "data.csv has no column 'y'"),
    "a constant target": ("a,y\n1,no\n2,no\n3,no\n", "column 'y': the target has the same value in every row"),
    "a constant number as target": ("a,y\n1,5\n2,5\n3,5\n", "column 'y': the target has the same value in every row"),
    "a target without values": ("a,y\n1,\n2,NA\n3,?\n", "column 'y': every value of the target is missing"),
    "one row with a target": ("a,y\n1,\n2,no\n3,\n", "column 'y': the target has the same|only one row has a value"),
    "a target of dates": ("a,y\n1,2024-01-01\n2,2024-01-02\n3,2024-02-01\n", "column 'y': holds dates"),
    "nothing but the target": ("y\nno\nyes\nno\n", "data.csv has no column to learn from"),
    "columns that say nothing": ("a,y\n1,no\n1,yes\n1,no\n", "no column to learn from .'a': the same value"),
}


@pytest.mark.parametrize(("text", "message"), TEXT.values(), ids=TEXT.keys())
def test_a_table_that_cannot_be_learned_from_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        tabular.train(path, "y", out=tmp_path / "runs" / "run", settings=QUICK)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"does not exist|is a folder"):
        tabular.train(tmp_path / name, "y", out=tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_the_nearest_name_of_a_missing_target_is_suggested(patients_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"patients\.csv has no column 'Diagnose' \(did you mean 'diagnosis'\?\)"):
        tabular.train(patients_csv, "Diagnose", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(), "there is no target; name the column to predict"),
        (Settings(target="diagnosis", drop=("diagnosis",)), "the target 'diagnosis' cannot be dropped"),
        (Settings(target="diagnosis", drop=("agee",)), r"has no column 'agee' \(did you mean 'age'\?\)"),
        (Settings(target="diagnosis", types={"agee": "number"}), r"has no column 'agee' \(did you mean 'age'\?\)"),
        (Settings(target="diagnosis", types={"ward": "number"}), "column 'ward': '[a-z]+' is not a number"),
        (Settings(target="diagnosis", group="warden"), "has no column 'warden'"),
        (Settings(target="diagnosis", group="diagnosis"), "'diagnosis' cannot be the target and the group column"),
        (Settings(target="diagnosis", group="ward", time="seen"), "by a group column or by a time column, not by both"),
        (Settings(target="diagnosis", time="ward"), "column 'ward': (is a category|the time is missing)"),
        (Settings(target="diagnosis", task="regression"), "regression needs a target of numbers"),
        (Settings(target="name"), "column 'name': looks like an identifier"),
        (Settings(target="diagnosis", test_share=0.7, validation_share=0.4), "leave no rows for training"),
        (Settings(target="diagnosis", engine="gpu"), "there is no engine 'gpu'"),
        (Settings(target="diagnosis", sql="SELECT 1"), "cannot be queried with SQL"),
    ],
)
def test_settings_that_do_not_fit_the_table_are_refused(
    patients_csv: Path, tmp_path: Path, settings: Settings, message: str
) -> None:
    with pytest.raises(ChainruleError, match=message) as caught:
        tabular.train(patients_csv, out=tmp_path / "run", settings=settings)
    assert isinstance(caught.value, DataError | ConfigError)
    assert not any(tmp_path.iterdir())


def test_a_dropped_column_may_hold_anything(tmp_path: Path) -> None:
    columns: dict[str, Any] = {**patients(60), "broken": [str(n) for n in range(59)] + ["inf"]}
    path = write(tmp_path / "data.csv", columns)
    with pytest.raises(DataError, match="column 'broken'"):
        tabular.train(path, "diagnosis", out=tmp_path / "run", settings=QUICK)
    run = tabular.train(path, "diagnosis", out=tmp_path / "run", settings=QUICK.replace(drop=("broken",)))
    assert "broken" not in tabular.load(run.folder).columns


HANDLED: dict[str, tuple[dict[str, Any], str]] = {
    "an all-missing feature": ({"empty": [None] * 60}, "column 'empty' is left out: no value in the training rows"),
    "a constant feature": ({"same": [4.5] * 60}, "column 'same' is left out: the same value in all training rows"),
    "rows without a target": (
        {"diagnosis": [None, None, *patients(60)["diagnosis"][2:]]},
        "2 rows (the first is data.csv, line 2) have no value of the target 'diagnosis' and are left out",
    ),
    "a class of one row": (
        {"diagnosis": ["dead", *patients(60)["diagnosis"][1:]]},
        "no test row has the class 'dead' of 'diagnosis', so the scores say nothing about it",
    ),
}


@pytest.mark.parametrize(("changes", "notice"), HANDLED.values(), ids=HANDLED.keys())
def test_what_can_be_handled_is_handled_with_a_notice(tmp_path: Path, changes: dict[str, Any], notice: str) -> None:
    path = write(tmp_path / "data.csv", {**patients(60), **changes})
    notices: list[str] = []
    run = tabular.train(path, "diagnosis", out=tmp_path / "run", settings=QUICK, notices=notices)
    assert notice in notices
    assert list(run.notices) == notices


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_other_encodings_and_decimal_commas_give_the_same_run(tmp_path: Path, encoding: str) -> None:
    columns = {
        "größe": [f"{value:.3f}" for value in np.random.default_rng(0).normal(size=40)],
        "y": ["ja", "nein"] * 20,
    }
    plain = write(tmp_path / "plain.csv", columns)
    text = plain.read_text(encoding="utf-8").replace(",", ";").replace(".", ",")
    other = tmp_path / "other.csv"
    other.write_bytes(text.encode(encoding))
    for path in (plain, other):
        tabular.train(path, "y", out=tmp_path / path.stem, settings=QUICK)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "other"))
    assert one == two
