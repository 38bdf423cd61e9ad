"""Permutation importance through the part of the graph behind the features, against the whole graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule import tabular
from chainrule.core.errors import GraphError
from chainrule.data import read_table
from chainrule.ir.verify import verify
from chainrule.metrics import log_loss, permutation_importance
from chainrule.tabular import Run
from chainrule.tabular.evaluation import answers
from chainrule.tabular.importance import behind_features


def test_shuffling_features_is_shuffling_columns(patients_run: Run, patients_csv: Path) -> None:
    predictor = tabular.load(patients_run.folder)
    table = read_table(patients_csv, types=patients_run.record.data.kinds)
    inputs = predictor.preprocessing.encode(table)
    true = predictor.target.encode(table.column("diagnosis"))

    def score(found: dict[str, Any]) -> float:
        return -log_loss(true, found["probability"])

    expected = permutation_importance(
        lambda columns: answers(predictor.predictor, columns), inputs, score, repeats=10, seed=0
    )
    found = tabular.evaluate(predictor, table).importances
    assert [name for name, _, _ in found] == list(predictor.columns)
    for entry, (name, mean, std) in zip(expected, found, strict=True):
        assert name == entry.column
        assert mean == pytest.approx(entry.mean, abs=1e-6)
        assert std == pytest.approx(entry.std, abs=1e-6)


def test_the_graph_behind_the_features_is_a_graph_without_raw_columns(patients_run: Run) -> None:
    predictor = tabular.load(patients_run.folder)
    head = verify(behind_features(predictor.graph, predictor.preprocessing.width))
    assert head.inputs[0].name == "inputs.features"
    assert all(value.name.startswith("model.") for value in head.inputs[1:])
    assert len(head.nodes) < len(predictor.graph.nodes) / 2


def test_a_graph_without_features_is_refused(patients_run: Run) -> None:
    predictor = tabular.load(patients_run.folder)
    with pytest.raises(GraphError, match="has no features"):
        behind_features(predictor.graph, predictor.preprocessing.width + 1)


@pytest.mark.parametrize("columns", [1, 3])
def test_a_column_that_says_nothing_has_no_importance(tmp_path: Path, columns: int) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    table: dict[str, Any] = {
        "x": x,
        **{f"noise {n}": generator.normal(size=200) for n in range(columns - 1)},
        "y": 3 * x,
    }
    settings = tabular.Settings(target="y", epochs=60, hidden=(), learning_rate=0.05)
    run = tabular.train(table, out=tmp_path / "run", settings=settings)
    assert run.evaluation is not None
    importances = {name: mean for name, mean, _ in run.evaluation.importances}
    assert importances["x"] > 2
    assert all(abs(mean) < 0.1 for name, mean in importances.items() if name != "x")
