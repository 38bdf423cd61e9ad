"""Predicting with a run: a graph, its weights and two JSON files, and none of the code that made them."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.dtypes import dtype_name
from chainrule.core.errors import ConfigError, RunError
from chainrule.core.names import shown_path
from chainrule.data.columns import Kind
from chainrule.data.export import write_csv
from chainrule.data.preprocessing import Preprocessing
from chainrule.data.tables import Table, read_table
from chainrule.data.targets import Target
from chainrule.ir.graph import Graph
from chainrule.runs import Predictor, load_model
from chainrule.tabular.evaluation import Evaluation, answers, judge
from chainrule.tabular.importance import column_importances
from chainrule.tabular.run_folder import RunRecord, read_preprocessing, read_target

_INPUT_TYPES = {"number": "float64", "boolean": "float64", "date": "float64", "category": "int64"}


@dataclass(frozen=True)
class Predictions:
    """Answers for the rows of a table, in their order.

    ``prediction`` holds labels as they are in the target column, or numbers; ``probabilities`` has shape (rows,
    classes) and is None for a regression. ``rows`` are the lines or row numbers of the source.
    """

    target: str
    classes: tuple[str, ...]
    prediction: NDArray[Any]
    probabilities: NDArray[np.float32] | None
    notices: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prediction)

    def columns(self) -> dict[str, NDArray[Any]]:
        """``prediction``, and ``probability_<class>`` for each class."""
        columns = {"prediction": self.prediction}
        if self.probabilities is not None:
            columns |= {f"probability_{name}": self.probabilities[:, place] for place, name in enumerate(self.classes)}
        return columns

    def write(self, path: Path | str) -> int:
        """Writes :meth:`columns` as CSV; returns how many cells were quoted because a spreadsheet would run them."""
        escaped = write_csv(path, self.columns())
        if escaped:
            self.notices.append(
                f"{escaped} {'cell' if escaped == 1 else 'cells'} of {shown_path(path)} would be run as a formula by a "
                "spreadsheet and got an apostrophe in front"
            )
        return escaped


@dataclass(frozen=True, eq=False, repr=False)
class TabularPredictor:
    """A trained network with its preprocessing: takes tables (paths, data frames, dicts of arrays), gives answers."""

    preprocessing: Preprocessing
    target: Target
    predictor: Predictor

    def __repr__(self) -> str:
        return f"TabularPredictor({self.target.task} of {self.target.name!r} from {len(self.columns)} columns)"

    @property
    def columns(self) -> dict[str, Kind]:
        """The columns that a table must have, and their kinds."""
        return dict(self.preprocessing.kinds)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes as text, in the order of the probabilities; empty for a regression."""
        return self.target.class_names

    @property
    def graph(self) -> Graph:
        """The inference graph, from raw columns to answers."""
        return self.predictor.graph

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        return self.predictor.weights

    def read(self, source: object, *, sql: str | None = None, notices: list[str] | None = None) -> Table:
        """The columns that are needed, from a path, a data frame, a dict of arrays or a Table.

        Raises DataError as :func:`chainrule.data.tables.read_table` does, also for a column that is missing.
        """
        if isinstance(source, Table):
            return source
        return read_table(source, sql=sql, expect=self.preprocessing.kinds, notices=notices)

    def predictions(self, source: object, *, sql: str | None = None, notices: list[str] | None = None) -> Predictions:
        """Answers for every row, in the order of the rows; raises as :meth:`read` does."""
        notes: list[str] = [] if notices is None else notices
        table = self.read(source, sql=sql, notices=notes)
        found = answers(self.predictor, self.preprocessing.encode(table, notes))
        labels = self.target.labels(found["prediction"])
        return Predictions(self.target.name, self.classes, labels, found.get("probability"), notes)

    def predict(self, source: object) -> NDArray[Any]:
        """The predicted label or number for every row."""
        return self.predictions(source).prediction

    def predict_proba(self, source: object) -> NDArray[np.float32]:
        """The probability of each of :attr:`classes` for every row; raises ConfigError for a regression."""
        probabilities = self.predictions(source).probabilities
        if probabilities is None:
            raise ConfigError(
                f"the target {self.target.name!r} is a number, which has no class probabilities; use predict"
            )
        return probabilities


def load(folder: Path | str) -> TabularPredictor:
    """The trained network of a run folder.

    Raises RunError when the folder is not a run, is not trained yet, or its files do not fit together; WeightsError
    when the weights are damaged or belong to another network.
    """
    place = Path(folder)
    if not (place / "model.safetensors").exists():
        record = RunRecord.read(place)  # says so if this is no run at all
        if record.status == "training":
            raise RunError(
                f"{shown_path(place)} is not trained yet; finish it with: chainrule resume {shown_path(place)}"
            )
    preprocessing, target = read_preprocessing(place), read_target(place)
    predictor = load_model(place)
    wanted = {name: _INPUT_TYPES[kind] for name, kind in preprocessing.kinds.items()}
    found = {name: dtype_name(np.dtype(value.dtype)) for name, value in predictor.input_types.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise RunError(f"the graph and the preprocessing of {shown_path(place)} disagree about column {differing[0]!r}")
    return TabularPredictor(preprocessing, target, predictor)


def predict(
    run: TabularPredictor | Path | str, source: object, *, sql: str | None = None, notices: list[str] | None = None
) -> Predictions:
    """Answers of a run (its folder, or what :func:`load` returned) for every row of a table, in input order.

    Categories that were never seen in training are treated as rare ones, with a notice. Raises DataError when the table
    cannot be read or lacks a column, and as :func:`load` does.
    """
    return _loaded(run).predictions(source, sql=sql, notices=notices)


def evaluate(
    run: TabularPredictor | Path | str,
    source: object,
    *,
    sql: str | None = None,
    importance: bool = True,
    notices: list[str] | None = None,
) -> Evaluation:
    """Scores a run on a table that has the target column too; rows without a target are left out, with a notice.

    Raises DataError when the table lacks a column, has no target at all, or has a class that was not learned.
    """
    predictor = _loaded(run)
    notes: list[str] = [] if notices is None else notices
    target = predictor.target
    kinds: dict[str, Kind] = {**predictor.preprocessing.kinds, target.name: target.kind}
    table = source if isinstance(source, Table) else read_table(source, sql=sql, expect=kinds, notices=notes)
    return evaluate_table(predictor, table, part="new data", importance=importance, notices=notes)


def evaluate_table(
    predictor: TabularPredictor,
    table: Table,
    *,
    part: str,
    importance: bool = True,
    seed: int = 0,
    notices: list[str] | None = None,
) -> Evaluation:
    """As :func:`evaluate`, for a table that was read already."""
    target = predictor.target
    notes: list[str] = [] if notices is None else notices
    missing = table.column(target.name).missing
    if missing.all():
        raise table.places.column_error(target.name, "every value of the target is missing, so nothing can be scored")
    if missing.any():
        count = int(missing.sum())
        notes.append(
            f"{count} {'row has' if count == 1 else 'rows have'} no target and {'is' if count == 1 else 'are'} left out"
        )
        table = table.select(np.flatnonzero(~missing))
    column = table.column(target.name)
    true = column.values.astype(np.float64) if target.is_regression else target.encode(column, table.places)
    inputs = predictor.preprocessing.encode(table, notes)
    entries: list[tuple[str, float, float]] = []
    score = ""
    if importance:
        entries, score = column_importances(predictor.predictor, predictor.preprocessing, target, inputs, true, seed)
    return judge(
        predictor.predictor,
        target,
        inputs,
        true,
        part=part,
        source=table.source,
        importances=entries,
        importance_score=score,
        notices=notes,
    )


def _loaded(run: TabularPredictor | Path | str) -> TabularPredictor:
    return load(Path(run)) if isinstance(run, (str, PathLike)) else run
