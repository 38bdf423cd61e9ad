"""The report as data: round trips, what it accepts, what it refuses."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.core.errors import ConfigError, DataError
from chainrule.report import Report

from . import samples


@pytest.mark.parametrize("report", [samples.classification(), samples.regression(), samples.hostile()])
def test_json_gives_the_same_report_back(report: Report) -> None:
    text = report.to_json()
    assert Report.from_json(text) == report
    assert Report.from_json(text).to_json() == text
    text.encode("utf-8")


def test_numbers_that_are_not_finite_survive_strict_json() -> None:
    report = samples.classification(metrics={"roc_auc": math.nan, "log_loss": math.inf, "r2": -math.inf})
    text = report.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
    again = Report.from_json(text).metrics
    assert math.isnan(again["roc_auc"])
    assert (again["log_loss"], again["r2"]) == (math.inf, -math.inf)


def test_a_column_may_be_called_nan() -> None:
    report = samples.classification(importances=[("NaN", 0.1, 0.0)], configuration={"$float": "a", "x": "Infinity"})
    again = Report.from_json(report.to_json())
    assert again.importances[0][0] == "NaN"
    assert again.configuration == {"$float": "a", "x": "Infinity"}


def test_everything_becomes_plain_data() -> None:
    report = samples.classification(
        classes=np.array(["a", "b"]),
        rows={"train": np.int64(3)},
        best_epoch=np.int32(4),
        created=datetime.date(2025, 3, 9),
        configuration={"path": Path("runs") / "a", "when": datetime.date(2025, 3, 9), 3: {1}, "half": "\ud800"},
    )
    assert report.classes == ["a", "b"]
    assert type(report.rows["train"]) is int
    assert type(report.best_epoch) is int
    assert report.created == "2025-03-09"
    assert report.configuration == {"path": str(Path("runs") / "a"), "when": "2025-03-09", "3": [1], "half": "?"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "ranking"}, "'ranking'"),
        ({"confusion": [[1, 2], [3]]}, "confusion matrix"),
        ({"confusion": [[1]]}, "1 rows but there are 2 classes"),
        ({"residuals": [(1.0, 2.0), (1.0,)]}, "Entry 1 of the report's residuals must have 2"),
        ({"importances": ["age"]}, "Entry 0 of the report's importances must have 3"),
        ({"history": [3]}, "Entry 0 of the report's history must be a mapping"),
        ({"metrics": [1]}, "metrics must be a mapping, not list"),
        ({"notices": 5}, "notices must be a list, not int"),
    ],
)
def test_fields_that_do_not_fit(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        samples.classification(**changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a report"),
        ('{"format": "other"}', "not a report"),
        ('{"format": "chainrule.report", "version": 99}', "version 99"),
        ('{"format": "chainrule.report", "version": 1, "title": "a", "task": "binary"}', "lacks the field 'target'"),
        (
            '{"format": "chainrule.report", "version": 1, "title": "a", "task": "binary", "target": "b", "rows": 3}',
            "rows must be a mapping",
        ),
    ],
)
def test_text_that_is_not_a_report(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Report.from_json(text)


def test_null_stands_for_what_was_not_recorded() -> None:
    text = samples.classification().to_json()
    content = json.loads(text)
    for key in content.keys() - {"format", "version", "title", "task", "target"}:
        content[key] = None
    report = Report.from_json(json.dumps(content))
    assert report.metrics == {}
    assert report.confusion is None


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_configuration_survives(value: Any) -> None:
    report = samples.regression(configuration={"value": value})
    assert Report.from_json(report.to_json()).to_json() == report.to_json()
