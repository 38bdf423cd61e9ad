"""What is said about a plan and an outcome, from reports made up for the purpose."""

from __future__ import annotations

from typing import Any

import pytest

from chainrule.cli.introduction import show_columns, show_introduction, task_words
from chainrule.cli.outcome import show_importances, show_scores, show_verdict
from chainrule.cli.terminal import Terminal
from chainrule.report import Report

HOSTILE = "[red]\x1b[2J\u202e\nx[/red]"


def a_report(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "title": "t",
        "task": "binary",
        "target": "y",
        "classes": ["no", "yes"],
        "rows": {"train": 12345, "validation": 67, "test": 100},
    }
    return Report(**(fields | changes))


def a_column(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "kind": "number", "treatment": "standardised", "missing": 0.0, "note": "", **changes}


def test_of_many_columns_those_with_a_note_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [a_column(f"x{place}") for place in range(100)]
    columns[70] = a_column("x70", treatment="left out", note="it has one value")
    columns[90] = a_column("x90", note="3 rare categories joined")
    show_columns(Terminal(), columns)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert [line[0] for line in lines[1:-1]] == [*(f"x{place}" for place in range(10)), "x70", "x90"]
    assert "left out: it has one value" in " ".join(lines[-3])
    assert "standardised (3 rare categories joined)" in " ".join(lines[-2])
    assert " ".join(lines[-1]).startswith("… and 88 more")


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, ""), (0.0004, "under 0.1 %"), (0.25, "25.0 %"), (float("nan"), ""), (1.0, "100.0 %")]
)
def test_shares_of_missing_values(share: float, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_columns(Terminal(), [a_column("a", missing=share), a_column("b", missing=0.5)])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  a "))
    assert line.split("number")[1].split("standardised")[0].strip() == shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "binary classification of “y”: no, yes"),
        ({"task": "multiclass", "classes": list("abc")}, "classification into 3 classes of “y”: a, b, c"),
        ({"task": "multiclass", "classes": [str(n) for n in range(50)]}, "classification into 50 classes of “y”"),
        ({"task": "regression", "classes": []}, "regression of “y”"),
    ],
)
def test_tasks_in_words(changes: dict[str, Any], words: str) -> None:
    assert task_words(a_report(**changes)) == words


def test_what_is_known_of_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    plan = a_report(
        columns=[
            a_column("a"),
            a_column("b", kind="category"),
            a_column("c", kind="category"),
            a_column("d", treatment="left out"),
        ],
        network=[("layers.0", "B, 8", 1000), ("layers.1", "B, 1", 234)],
        configuration={
            "network": "3 → 8 → 1",
            "optimizer": {"name": "AdamW"},
            "epochs": 50,
            "patience": 5,
            "batch_size": 16,
        },
        notices=["one notice", "another"],
    )
    show_introduction(Terminal(), plan)
    shown = capsys.readouterr().out
    assert "12,345 to learn from · 67 to know when to stop · 100 held out for the final scores" in shown
    assert "2 categories · 1 number · 1 left out" in shown
    assert "3 → 8 → 1, 1,234 parameters" in shown
    assert "AdamW · at most 50 epochs · batches of 16" in shown
    assert "  note  one notice\n  note  another\n" in shown


@pytest.mark.parametrize(
    ("part", "words", "judged"),
    [
        ("test", "90.0 % of 100 held-out rows classified correctly; always answering “no” would reach 60.0 %.", True),
        ("new data", "90.0 % of 100 rows classified", True),
        ("validation", "90.0 % of 100 validation rows classified", True),
        ("train", "90.0 % of 100 training rows classified", False),
    ],
)
def test_the_verdict_says_which_rows_it_is_about(
    part: str, words: str, judged: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = a_report(
        metrics={"accuracy": 0.9}, baseline={"accuracy": 0.6}, baseline_answer="no", confusion=[[55, 5], [5, 35]]
    )
    show_verdict(Terminal(), report, part)
    shown = capsys.readouterr().out
    assert words in shown
    assert ("on new data of the same kind" in shown) == judged


def test_importances_are_those_that_are_more_than_noise(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [("weak", 0.01, 0.02), ("strong", 0.3, 0.01), ("harmful", -0.1, 0.01), ("fair", 0.1, 0.01)]
    show_importances(Terminal(), a_report(importances=entries, importance_score="accuracy"))
    assert capsys.readouterr().out.endswith("the accuracy falls when they are shuffled: strong (0.30), fair (0.10).\n")
    show_importances(Terminal(), a_report(importances=[("weak", 0.01, 0.02)]))
    assert capsys.readouterr().out == ""


def test_scores_without_a_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores(Terminal(), {"r2": 0.5, "mean_absolute_error": float("nan")}, {})
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert shown == [
        ["Score", "Network"],
        ["R²", "0.500", "higher", "is", "better"],
        ["Mean", "absolute", "error", "–", "lower", "is", "better"],
    ]


def test_hostile_names_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    report = a_report(
        target=HOSTILE,
        classes=[HOSTILE, "b"],
        columns=[a_column(HOSTILE, kind=HOSTILE, treatment=HOSTILE, note=HOSTILE)],
        network=[(HOSTILE, HOSTILE, 1)],
        configuration={"network": HOSTILE, "optimizer": {"name": HOSTILE}, "seed": HOSTILE, "engine": HOSTILE},
        notices=[HOSTILE],
        metrics={"accuracy": 0.9, HOSTILE: 0.1},
        baseline={"accuracy": 0.6},
        baseline_answer=HOSTILE,
        importances=[(HOSTILE, 0.5, 0.1)],
    )
    terminal = Terminal()
    show_introduction(terminal, report)
    show_verdict(terminal, report)
    show_scores(terminal, report.metrics, report.baseline)
    show_importances(terminal, report)
    shown = capsys.readouterr().out
    assert shown.count("[red]\\x1b[2J\\u202e\\nx[/red]") >= 10
    assert "\x1b" not in shown
    assert "\u202e" not in shown
