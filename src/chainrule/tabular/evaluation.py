"""How good a network's answers are: the scores of a task beside those of a trivial answer, and what they are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import RunError
from chainrule.data.targets import Target, Task
from chainrule.metrics import (
    ConstantBaseline,
    FrequencyBaseline,
    classification_summary,
    confusion_matrix,
    regression_summary,
    reliability_curve,
)
from chainrule.runs import Predictor

FORMAT = "chainrule.evaluation"
VERSION = 1

MOST_RESIDUALS = 2000
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Evaluation:
    """The scores of a network on some rows.

    ``part`` says which rows: ``test`` (held out from the beginning), ``validation`` or ``train`` where the run held out
    no others, or ``new data``. ``baseline`` are the scores of ``baseline_answer``, a constant learned from the training
    part. ``importances`` are (column, mean, standard deviation) of how much ``importance_score`` gets worse when the
    column is shuffled; ``residuals`` are pairs (true, predicted) of a regression, at most 2000 of them.
    """

    task: Task
    target: str
    classes: tuple[str, ...]
    rows: int
    part: str
    source: str
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    baseline_answer: str | float
    confusion: Sequence[Sequence[int]] | None = None
    calibration: Sequence[Mapping[str, float]] | None = None
    residuals: Sequence[tuple[float, float]] | None = None
    importances: Sequence[tuple[str, float, float]] = ()
    importance_score: str = ""
    notices: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        content = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {"format": FORMAT, "version": VERSION, **content}

    @classmethod
    def from_json(cls, content: Any) -> Evaluation:
        """The inverse of :meth:`to_json`; raises RunError for anything else."""
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise RunError(f"this is no evaluation of version {VERSION}")
        fields = {key: value for key, value in content.items() if key not in ("format", "version")}
        if fields.keys() != {entry.name for entry in dataclasses.fields(cls)}:
            raise RunError("the evaluation lacks a field or has one that this release does not know")
        fields["classes"], fields["notices"] = tuple(fields["classes"]), tuple(fields["notices"])
        for name in ("importances", "residuals"):
            if fields[name] is not None:
                fields[name] = [tuple(entry) for entry in fields[name]]
        return cls(**fields)


def answers(predictor: Predictor, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """``prediction`` (and ``probability``) for every row, computed in pieces."""
    rows = len(next(iter(inputs.values())))
    pieces = []
    for start in range(0, max(rows, 1), _ROWS_AT_ONCE):
        piece = {name: values[start : start + _ROWS_AT_ONCE] for name, values in inputs.items()}
        pieces.append(predictor(piece))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def judge(
    predictor: Predictor,
    target: Target,
    inputs: Mapping[str, NDArray[Any]],
    true: NDArray[Any],
    *,
    part: str,
    source: str,
    importances: Sequence[tuple[str, float, float]] = (),
    importance_score: str = "",
    notices: Sequence[str] = (),
) -> Evaluation:
    """Scores the network's answers for ``inputs`` against the truth: class numbers, or numbers in the target's unit."""
    found = answers(predictor, inputs)
    if target.is_regression:
        details = _judge_numbers(target, found["prediction"], true)
    else:
        details = _judge_classes(target, found["probability"], true)
    return Evaluation(
        task=target.task,
        target=target.name,
        classes=target.class_names,
        rows=len(true),
        part=part,
        source=source,
        importances=importances,
        importance_score=importance_score,
        notices=tuple(notices),
        **details,
    )


def _judge_numbers(target: Target, prediction: NDArray[Any], true: NDArray[Any]) -> dict[str, Any]:
    baseline = ConstantBaseline(target.centre, "mean")
    shown = evenly(len(true), MOST_RESIDUALS)
    return {
        "metrics": regression_summary(true, prediction),
        "baseline": regression_summary(true, baseline.predict(len(true))),
        "baseline_answer": baseline.answer,
        "residuals": [(float(y), float(p)) for y, p in zip(true[shown], prediction[shown], strict=True)],
    }


def _judge_classes(target: Target, probability: NDArray[Any], true: NDArray[Any]) -> dict[str, Any]:
    counts = np.asarray(target.counts, dtype=np.float64)
    baseline = FrequencyBaseline(tuple((counts / counts.sum()).tolist()))
    numbers = range(len(target.classes))
    return {
        "metrics": classification_summary(true, probability),
        "baseline": classification_summary(true, baseline.probabilities(len(true))),
        "baseline_answer": target.class_names[baseline.answer],
        "confusion": confusion_matrix(true, probability.argmax(axis=1), classes=numbers).tolist(),
        "calibration": reliability_curve(true, probability).bins(),
    }


def evenly(rows: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` row numbers, evenly spread."""
    return np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).round().astype(np.int64)
