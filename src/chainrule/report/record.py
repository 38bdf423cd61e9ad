"""What a report says, apart from how it looks: plain data that a run folder stores as ``report.json``."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from chainrule.core.errors import ConfigError, DataError

Task = Literal["binary", "multiclass", "regression"]

_FORMAT = "chainrule.report"
_VERSION = 1
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NOT_FINITE_KEY = "$float"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the page shows. What is None or empty is left out of the page.

    Values are turned into plain JSON types on construction (NumPy numbers and arrays, tuples, dates and paths
    included). ConfigError when a field does not fit the others.
    """

    title: str
    task: Task
    target: str
    source: str = ""
    """Where the data came from: a file name, a query."""
    created: str = ""
    """ISO date, with or without a time."""
    classes: Sequence[str] = ()
    """Class names in the order of the class numbers; class 1 of two is the one that precision and recall are about."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Row counts of the parts, under the names train, validation and test."""
    history: Sequence[Mapping[str, Any]] = ()
    """One dictionary an epoch: epoch, loss, val_loss, learning_rate, seconds, gradient_norms (layer → norm), and any
    metric with its val_ counterpart."""
    best_epoch: int | None = None
    """The value of ``epoch`` in the history whose weights were kept."""
    stop_reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Scores on the held-out part, named as in :data:`chainrule.metrics.METRICS`."""
    baseline: Mapping[str, float] = field(default_factory=dict)
    """The same scores of an answer that looks at no column."""
    baseline_answer: str | float | None = None
    """What the baseline always answers: a class name, or a number for a regression."""
    confusion: Sequence[Sequence[float]] | None = None
    """Held-out rows by true class (rows of the matrix) and predicted class (columns)."""
    calibration: Sequence[Mapping[str, float]] | None = None
    """Bins as :meth:`chainrule.metrics.ReliabilityCurve.bins` gives them."""
    residuals: Sequence[tuple[float, float]] | None = None
    """Pairs (true, predicted) of held-out rows, or of a sample of them."""
    importances: Sequence[tuple[str, float, float]] = ()
    """(column, mean, standard deviation) of the drop of the score when the column is shuffled."""
    importance_score: str = ""
    """The metric whose drop the importances are."""
    columns: Sequence[Mapping[str, Any]] = ()
    """One dictionary a column: name, kind, treatment, missing (a share), note."""
    network: Sequence[tuple[str, Any, int]] = ()
    """(layer, output shape, parameters) from input to output."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            object.__setattr__(self, entry.name, _field(entry.name, getattr(self, entry.name)))
        if self.task not in get_args(Task):
            raise ConfigError(f"A report has the task {self.task!r}: use one of {', '.join(get_args(Task))}.")
        if self.confusion is not None:
            size = len(self.confusion)
            if any(len(row) != size for row in self.confusion) or (self.classes and len(self.classes) != size):
                raise ConfigError(
                    f"The confusion matrix has {size} rows but there are {len(self.classes)} classes: "
                    "it needs one row and one column for each class."
                )

    def to_json(self) -> str:
        """Strict JSON, one field a line; NaN and infinities are written as ``{"$float": "NaN"}`` and the like."""
        content = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        whole = {"format": _FORMAT, "version": _VERSION, **content}
        written = (json.dumps(_encode(value), ensure_ascii=False, allow_nan=False) for value in whole.values())
        return "{\n" + ",\n".join(f'"{key}": {value}' for key, value in zip(whole, written, strict=True)) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that :meth:`to_json` wrote; DataError when the text is something else."""
        try:
            content = json.loads(text, object_hook=_decode)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the report is not valid JSON: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise DataError("the JSON is not a report, which starts with its format")
        if content.get("version") != _VERSION:
            raise DataError(
                f"the report has version {content.get('version')!r}, but this release reads version {_VERSION}; open it with the "
                "release that wrote it"
            )
        known = {entry.name: content[entry.name] for entry in dataclasses.fields(cls) if entry.name in content}
        for name in ("title", "task", "target"):
            if name not in known:
                raise DataError(f"the report lacks the field {name!r}")
        try:
            return cls(**known)
        except ConfigError as error:
            raise DataError(str(error)) from error


_TEXTS = frozenset({"title", "target", "source", "created", "importance_score"})
_LISTS_OF_TEXT = frozenset({"classes", "notices"})
_MAPPINGS = frozenset({"rows", "metrics", "baseline", "configuration", "environment"})
_LISTS_OF_MAPPINGS = frozenset({"history", "calibration", "columns"})
_MAY_BE_NONE = frozenset({"confusion", "calibration", "residuals"})
_LISTS_OF_ROWS = {"confusion": None, "residuals": 2, "importances": 3, "network": 3}


def _field(name: str, given: Any) -> Any:
    """``given`` as plain JSON types, checked to have the form of the field ``name``."""
    value = _plain(given)
    if name in _TEXTS:
        return str(value)
    if name not in _MAPPINGS | _LISTS_OF_MAPPINGS | _LISTS_OF_TEXT | _LISTS_OF_ROWS.keys():
        return value
    if value is None:
        return None if name in _MAY_BE_NONE else {} if name in _MAPPINGS else []
    if name in _MAPPINGS:
        if not isinstance(value, dict):
            raise ConfigError(f"the report's {name} must be a mapping, not {type(value).__name__}")
        return value
    if not isinstance(value, list):
        raise ConfigError(f"the report's {name} must be a list, not {type(value).__name__}")
    if name in _LISTS_OF_TEXT:
        return [str(entry) for entry in value]
    for place, entry in enumerate(value):
        if name in _LISTS_OF_MAPPINGS:
            if not isinstance(entry, dict):
                raise ConfigError(f"Entry {place} of the report's {name} must be a mapping.")
        elif not isinstance(entry, list) or len(entry) != (_LISTS_OF_ROWS[name] or len(entry)):
            wanted = _LISTS_OF_ROWS[name]
            raise ConfigError(f"Entry {place} of the report's {name} must have {wanted or len(value)} values.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value).encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be written to a file
    if value is None or (isinstance(value, (bool, int, float)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, Sequence)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    return str(value)


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_NOT_FINITE_KEY: "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")}
    if isinstance(value, dict):
        return {key: _encode(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_encode(entry) for entry in value]
    return value


def _decode(entry: dict[str, Any]) -> Any:
    if len(entry) == 1 and isinstance(name := entry.get(_NOT_FINITE_KEY), str):
        return _NOT_FINITE.get(name, entry)
    return entry
