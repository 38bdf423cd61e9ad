"""From a source of data to arrays to train on: reading, splitting, learning the preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import ConfigError, DataError
from chainrule.core.files import to_json
from chainrule.data.columns import Kind, shown
from chainrule.data.preprocessing import Preprocessing
from chainrule.data.splits import Split, split_rows
from chainrule.data.tables import Table, read_table
from chainrule.data.targets import Target, class_weights, known_rows, learn_target
from chainrule.tabular.plan import Plan, as_trained
from chainrule.tabular.settings import Settings

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table with everything that was settled about it before training."""

    table: Table
    preprocessing: Preprocessing
    target: Target
    split: Split

    def arrays(self, rows: NDArray[np.int64], class_weight: str | None) -> Arrays | None:
        """Features, targets in the form of the loss, and weights if classes are balanced; None for no rows."""
        if not len(rows):
            return None
        part = self.table.select(rows)
        features = features_of(self.preprocessing, self.preprocessing.encode(part))
        codes = self.target.encode(part.column(self.target.name), part.places)
        weights = None
        if class_weight is not None and not self.target.is_regression:
            weights = class_weights(codes, len(self.target.classes))
        return features, as_trained(self.target, codes), weights


def read_for_training(source: object, settings: Settings, notices: list[str]) -> Table:
    """The table that ``settings`` describe, without the columns to drop.

    Raises ConfigError without a target or when a setting names the target twice, DataError as
    :func:`chainrule.data.tables.read_table` does and for a column that is not there.
    """
    if settings.target is None:
        raise ConfigError("there is no target; name the column to predict")
    for name, role in ((settings.group, "group"), (settings.time, "time")):
        if name == settings.target:
            raise ConfigError(f"{shown(name)} cannot be the target and the {role} column")
    if settings.target in settings.drop:
        raise ConfigError(f"the target {shown(settings.target)} cannot be dropped")
    # What is dropped is read as text, which cannot fail.
    types: dict[str, Kind] = {**settings.types, **dict.fromkeys(settings.drop, "category")}
    table = read_table(source, types=types, sql=settings.sql, notices=notices)
    for name in (settings.target, settings.group, settings.time):
        if name is not None:
            table.column(name)
    return table.drop(settings.drop)


def prepare(table: Table, settings: Settings, notices: list[str]) -> Prepared:
    """Splits the rows that have a target and learns preprocessing and target from the training part.

    Raises DataError for a table that nothing can be learned from.
    """
    name = str(settings.target)
    rows = labelled_rows(table, name, notices)
    # The task is settled first, because it decides how rows are split.
    told: dict[str, Any] = {"task": settings.task, "type_is_given": name in settings.types}
    target = learn_target(table, name, rows, rows, notices, **told)
    split = split_for(table, settings, target, rows, notices)
    target = learn_target(table, name, rows, split.train, **told)
    if not target.is_regression and sum(count > 0 for count in target.counts) < 2:
        raise DataError(
            f"{table.source}, column {shown(name)}: the training part has one class only; split the rows otherwise"
        )
    time_is_date = settings.time is not None and table.column(settings.time).kind == "date"
    unused = [name, *([settings.group] if settings.group else [])]
    if settings.time and not time_is_date:
        unused.append(settings.time)
    preprocessing = Preprocessing.learn(
        table.drop(unused), split.train, notices, only_phases=[settings.time] if settings.time else []
    )
    return Prepared(table, preprocessing, target, split)


def labelled_rows(table: Table, target: str, notices: list[str]) -> NDArray[np.int64]:
    """The rows with a target, at least two; raises DataError."""
    rows = known_rows(table, target, notices)
    if len(rows) < 2:
        raise table.places.column_error(target, "only one row has a value of the target, too few to learn from")
    return rows


def split_for(
    table: Table, settings: Settings, target: Target, rows: NDArray[np.int64], notices: list[str] | None
) -> Split:
    """The split that the settings describe; the same for the same table and settings."""
    return split_rows(
        table,
        target.name,
        rows,
        classification=not target.is_regression,
        group=settings.group,
        time=settings.time,
        validation_share=settings.validation_share,
        test_share=settings.test_share,
        seed=settings.seed,
        notices=notices,
    )


def features_of(preprocessing: Preprocessing, encoded: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """float32 features of shape (rows, width), computed in pieces so that a large table needs no large temporaries."""
    rows = len(next(iter(encoded.values())))
    features = np.empty((rows, preprocessing.width), np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        piece = {name: values[start : start + _ROWS_AT_ONCE] for name, values in encoded.items()}
        features[start : start + _ROWS_AT_ONCE] = preprocessing.features(piece)
    return features


def fingerprint(table: Table) -> str:
    """SHA-256 over the names, kinds and values of all columns: equal for equal tables, whatever file they come from."""
    digest = hashlib.sha256()
    for column in table.columns:
        digest.update(to_json([column.name, column.kind, len(column)]).encode("utf-8"))
        if column.values.dtype.kind == "f":
            # One NaN has many bit patterns.
            digest.update(np.where(np.isnan(column.values), np.nan, column.values).astype("<f8").tobytes())
        else:
            digest.update(to_json(column.values.tolist()).encode("utf-8"))
    return digest.hexdigest()


def split_fingerprint(split: Split) -> str:
    """SHA-256 over the row numbers of the parts."""
    digest = hashlib.sha256()
    for part in (split.train, split.validation, split.test):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()


def path_of(source: object) -> Path | None:
    """The absolute path of a source that is a file; None for a table in memory."""
    return Path(source).resolve() if isinstance(source, (str, PathLike)) else None


def plan_inputs(prepared: Prepared) -> dict[str, int]:
    """The sizes that :func:`chainrule.tabular.plan.make_plan` needs."""
    return {"width": prepared.preprocessing.width, "rows": len(prepared.split.train)}


def fit_arguments(prepared: Prepared, plan: Plan) -> tuple[Arrays, Arrays | None]:
    """Training and validation examples."""
    training = prepared.arrays(prepared.split.train, plan.class_weight)
    assert training is not None
    return training, prepared.arrays(prepared.split.validation, plan.class_weight)
