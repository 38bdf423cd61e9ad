"""Targets: which task a column sets, how its values become numbers to learn, and outputs become answers.

Without being told, the task follows from the target column's kind (:mod:`chainrule.data.columns`):

* categories and booleans are classes;
* numbers are classes if they are whole, there are at most 20 different ones, and there are at least 10 rows for each, or
  there are only two; otherwise the task is regression;
* dates cannot be predicted; a column that looks like an identifier can, once its type is given.

The type of the column decides against this rule: ``TARGET=category`` for classes, ``TARGET=number`` for regression.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chainrule import ops
from chainrule.core.dtypes import FLOAT64, INT64
from chainrule.core.errors import ConfigError, DataError
from chainrule.data.columns import Column, Kind, Places, shown
from chainrule.data.preprocessing_columns import mean_and_deviation
from chainrule.data.tables import Table
from chainrule.trace import operation

Task = Literal["binary", "multiclass", "regression"]
TASKS = ("binary", "multiclass", "classification", "regression")

MOST_WHOLE_NUMBERS = 20
ROWS_FOR_EACH_NUMBER = 10
MOST_CLASSES = 1000

FORMAT = "chainrule.target"
VERSION = 1

Label = str | int | float | bool


@dataclass(frozen=True)
class Target:
    """What is predicted: a class out of ``classes``, or a number that is learned as ``(y - centre) / scale``.

    ``classes`` hold the labels as they are in the column, sorted: text, numbers, or booleans (or their words, false first).
    Class 1 of two is the one that precision, recall and F1 are about. ``counts`` are the training rows of each class, and
    ``centre`` and ``scale`` the mean and the standard deviation of the training rows' numbers. ``kind`` is the kind of the
    column.
    """

    name: str
    task: Task
    kind: Kind
    classes: tuple[Label, ...] = ()
    counts: tuple[int, ...] = ()
    centre: float = 0.0
    scale: float = 1.0

    @property
    def is_regression(self) -> bool:
        return self.task == "regression"

    @property
    def outputs(self) -> int:
        """How many numbers the network gives: a logit for two classes, one for each of more, or the scaled number."""
        return len(self.classes) if self.task == "multiclass" else 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as text."""
        return tuple(_as_text(label) for label in self.classes)

    def encode(self, column: Column, places: Places | None = None) -> NDArray[Any]:
        """Targets as the losses take them: float32 scaled numbers (rows,), or int64 class numbers (rows,).

        Raises DataError, naming the row if ``places`` are given, for a missing value or a class that is not known.
        """
        if column.missing.any():
            raise _cell_error(places, int(np.argmax(column.missing)), self.name, "the target is missing")
        if self.is_regression:
            scaled: NDArray[Any] = (column.values.astype(np.float64) - self.centre) / self.scale
            return scaled.astype(np.float32)
        if column.kind == "boolean" and self.kind == "boolean":
            return column.values.astype(np.int64)  # whichever words stand for true and false
        places_of = {label: place for place, label in enumerate(self.classes)}
        labels = labels_of(column)
        codes = np.fromiter((places_of.get(label, -1) for label in labels), np.int64, len(labels))
        if len(codes) and codes.min() < 0:
            row = int(np.argmin(codes))
            known = ", ".join(shown(name) for name in self.class_names[:8]) + (", …" if len(self.classes) > 8 else "")
            problem = f"{shown(_as_text(labels[row]))} is not one of the classes that were learned ({known})"
            raise _cell_error(places, row, self.name, problem)
        return codes

    @operation
    def decode(self, outputs: Any) -> dict[str, Any]:
        """Answers from the network's outputs of shape (B, :attr:`outputs`); can be traced.

        Classes: ``probability`` float32 (B, classes), by the logistic function or softmax, and ``prediction`` int64 (B,),
        the number of the most probable class. Regression: ``prediction`` float64 (B,), in the unit of the target.
        """
        if self.task == "regression":
            return {"prediction": outputs[:, 0].astype(FLOAT64) * self.scale + self.centre}
        if self.task == "binary":
            # Both from a logarithm-free formula that neither overflows nor rounds a small probability to 0.
            logit = outputs[:, 0]
            small = ops.exp(-ops.abs(logit))
            rare, frequent = small / (1 + small), 1 / (1 + small)
            one, zero = ops.where(logit > 0, frequent, rare), ops.where(logit > 0, rare, frequent)
            probability = ops.stack([zero, one], axis=1)
            return {"prediction": (logit > 0).astype(INT64), "probability": probability}
        grown = ops.exp(outputs - outputs.max(-1, keepdims=True))
        probability = grown / grown.sum(-1, keepdims=True)
        return {"prediction": outputs.argmax(-1), "probability": probability}

    def labels(self, prediction: NDArray[Any]) -> NDArray[Any]:
        """Predicted numbers as they are, predicted class numbers as the labels of the column."""
        if self.is_regression:
            return prediction
        table = np.asarray(self.classes) if not isinstance(self.classes[0], str) else _object_array(self.classes)
        labelled: NDArray[Any] = table[prediction]
        return labelled

    def to_json(self) -> dict[str, Any]:
        """Plain data for :func:`chainrule.core.files.write_json`."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "classes": list(self.classes),
            "counts": list(self.counts),
            "centre": self.centre,
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, content: Any) -> Target:
        """The inverse of :meth:`to_json`; raises DataError for content that it did not make."""
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise DataError(f"this is no target; expected the content of a target.json of version {VERSION}")
        try:
            classes = tuple(content["classes"])
            target = cls(
                str(content["name"]),
                content["task"],
                content["kind"],
                classes,
                tuple(int(count) for count in content["counts"]),
                float(content["centre"]),
                float(content["scale"]),
            )
        except (KeyError, TypeError, ValueError):
            raise DataError("the stored target lacks a field") from None
        counts = {"binary": (2, 2), "multiclass": (3, MOST_CLASSES), "regression": (0, 0)}
        low, high = counts.get(target.task, (1, 0)) if isinstance(target.task, str) else (1, 0)
        if not (low <= len(classes) <= high) or not (math.isfinite(target.centre) and 0 < target.scale < math.inf):
            raise DataError("the stored target makes no sense")
        if len(target.counts) != len(classes) or min(target.counts, default=1) < 0:
            raise DataError("the stored target does not count its classes")
        if not all(isinstance(label, (str, bool, int, float)) for label in classes):
            raise DataError("the stored target has a class that is no label")
        return target


def known_rows(table: Table, target: str, notices: list[str] | None = None) -> NDArray[np.int64]:
    """The rows that have a target; a notice counts the others.

    Raises DataError when the column is not there, or no row has a target.
    """
    column = table.column(target)
    rows = np.flatnonzero(~column.missing).astype(np.int64)
    if not len(rows):
        raise table.places.column_error(target, "every value of the target is missing, so there is nothing to learn")
    left_out = len(column) - len(rows)
    if left_out and notices is not None:
        first = table.places.at(int(np.argmax(column.missing)))
        whose = f"{first} has" if left_out == 1 else f"{left_out} rows (the first is {first}) have"
        notices.append(
            f"{whose} no value of the target {shown(target)} and {'is' if left_out == 1 else 'are'} left out"
        )
    return rows


def learn_target(
    table: Table,
    name: str,
    rows: NDArray[np.int64],
    train: NDArray[np.int64],
    notices: list[str] | None = None,
    *,
    task: str | None = None,
    type_is_given: bool = False,
) -> Target:
    """The target of a table: its task and classes from all ``rows`` that have one, its counts and scale from the rows of ``train``.

    Args:
        table: the table.
        name: the target column.
        rows: the rows with a target; see :func:`known_rows`.
        train: the training rows among them.
        notices: what was decided without being told is appended here.
        task: ``binary``, ``multiclass``, ``classification`` or ``regression``; None to infer it.
        type_is_given: the column's kind was chosen by the user, and so the task too.

    Raises DataError for a constant target, a date, an identifier, or more than 1000 classes; ConfigError for a task
    that the column does not fit.
    """
    column = table.column(name).select(rows)
    task = infer_task(table, column, notices, task=task, type_is_given=type_is_given)
    if task == "regression":
        centre, scale = mean_and_deviation(table.column(name).values[train].astype(np.float64))
        return Target(name, "regression", column.kind, centre=centre, scale=scale or 1.0)
    classes: tuple[Label, ...] = tuple(
        sorted(set(labels_of(column)), key=lambda label: (isinstance(label, str), label))
    )
    if column.kind == "boolean":
        classes = column.words or (False, True)
    if len(classes) > MOST_CLASSES:
        raise table.places.column_error(name, f"has {len(classes)} different classes; {MOST_CLASSES} are allowed")
    target = Target(name, "binary" if len(classes) == 2 else "multiclass", column.kind, classes)
    counts = np.bincount(target.encode(table.column(name).select(train)), minlength=len(classes))
    return dataclasses.replace(target, counts=tuple(counts.tolist()))


def infer_task(
    table: Table, column: Column, notices: list[str] | None, *, task: str | None, type_is_given: bool
) -> Literal["classification", "regression"]:
    """Classification or regression, by the rule at the head of this module; raises as :func:`learn_target` does."""
    error = table.places.column_error
    if task is not None and task not in TASKS:
        raise ConfigError(f"the task {shown(task)} is not one of {', '.join(TASKS)}")
    distinct = _distinct(column)
    if distinct < 2:
        raise error(column.name, "the target has the same value in every row, so there is nothing to learn")
    if column.kind == "date":
        raise error(column.name, "holds dates, which cannot be predicted; give the time until them as a number")
    if column.kind == "identifier" and task in (None, "regression"):
        raise error(
            column.name,
            f"looks like an identifier ({distinct} different values in {len(column)} rows), which cannot be predicted; if "
            f"it can, give its type ({column.name}=category or {column.name}=number)",
        )
    if task == "regression":
        if column.kind != "number":
            raise ConfigError(
                f"the task regression needs a target of numbers, but {shown(column.name)} is a {column.kind}"
            )
        return "regression"
    if task == "binary" and distinct != 2:
        raise ConfigError(f"the task binary needs a target of two classes, but {shown(column.name)} has {distinct}")
    if task == "multiclass" and distinct == 2:
        raise ConfigError(f"the task multiclass needs three classes or more, but {shown(column.name)} has two")
    if task is not None or column.kind != "number":
        return "classification"
    if type_is_given or not _are_class_numbers(column.values):
        return "regression"
    if notices is not None and distinct > 2:
        notices.append(
            f"the target {shown(column.name)} has {distinct} different whole numbers, which are taken as classes; to "
            f"predict it as a quantity, give its type ({column.name}=number)"
        )
    return "classification"


def labels_of(column: Column) -> list[Label]:
    """The values of a column without missing ones as class labels: text, int or float, or for booleans their words."""
    match column.kind:
        case "boolean":
            words: tuple[Label, Label] = column.words or (False, True)
            return [words[int(value)] for value in column.values]
        case "number" | "date":
            return [int(value) if float(value).is_integer() else float(value) for value in column.values]
        case _:
            return [str(value) for value in column.values]


def class_weights(codes: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """A weight for each row that makes all classes weigh the same: n / (k · rows of the class), with mean 1."""
    counts = np.bincount(codes, minlength=classes)
    present = int((counts > 0).sum())
    weights: NDArray[np.float32] = (len(codes) / (present * counts[codes])).astype(np.float32)
    return weights


def _are_class_numbers(values: NDArray[np.float64]) -> bool:
    if not bool((values == np.floor(values)).all()):
        return False
    distinct = len(np.unique(values))
    return distinct == 2 or (distinct <= MOST_WHOLE_NUMBERS and len(values) >= ROWS_FOR_EACH_NUMBER * distinct)


def _distinct(column: Column) -> int:
    return len(np.unique(column.values)) if column.values.dtype.kind == "f" else len(set(column.values.tolist()))


def _as_text(label: Label) -> str:
    if isinstance(label, bool):
        return "true" if label else "false"
    return label if isinstance(label, str) else repr(label)


def _object_array(labels: tuple[Label, ...]) -> NDArray[Any]:
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


def _cell_error(places: Places | None, row: int, column: str, problem: str) -> DataError:
    if places is None:
        return DataError(f"row {row}, column {shown(column)}: {problem}")
    return places.cell_error(row, column, problem)
