"""Reports to render in tests: one of each task, filled in every part."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import metrics
from chainrule.report import Report

HOSTILE = "<script>alert('x')</script>\"&\u202egnp\x00]]>-->"


def history(epochs: int, layers: int = 3) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    return [
        {
            "epoch": epoch,
            "loss": float(0.9 * np.exp(-epoch / 8) + 0.02),
            "val_loss": float(0.9 * np.exp(-epoch / 8) + 0.002 * epoch + 0.05),
            "accuracy": float(1 - 0.4 * np.exp(-epoch / 6)),
            "val_accuracy": float(0.97 - 0.4 * np.exp(-epoch / 6)),
            "learning_rate": 0.003 * 0.97**epoch,
            "seconds": 0.25,
            "gradient_norms": {
                f"layers.{2 * layer}.linear": float(np.exp(-epoch / 20 - layer) * generator.uniform(0.9, 1.1))
                for layer in range(layers)
            },
        }
        for epoch in range(1, epochs + 1)
    ]


def classification(classes: tuple[str, ...] = ("malignant", "benign"), **changes: Any) -> Report:
    generator = np.random.default_rng(0)
    count = len(classes)
    true = np.repeat(np.arange(count), 57)
    table = np.eye(count)[true] * 2 + generator.normal(size=(true.size, count))
    table = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    prior = metrics.FrequencyBaseline.fit(true, count)
    fields: dict[str, Any] = {
        "title": "patients",
        "task": "binary" if count == 2 else "multiclass",
        "target": "diagnosis",
        "source": "data/patients.csv",
        "created": "2025-03-09T10:30:00",
        "classes": classes,
        "rows": {"train": 364, "validation": 91, "test": true.size},
        "history": history(40),
        "best_epoch": 25,
        "stop_reason": "no lower validation loss for 15 epochs",
        "metrics": metrics.classification_summary(true, table),
        "baseline": metrics.classification_summary(true, prior.probabilities(true.size)),
        "baseline_answer": classes[0],
        "confusion": metrics.confusion_matrix(true, table.argmax(axis=1), classes=range(count)),
        "calibration": metrics.reliability_curve(true, table).bins(),
        "importances": [("worst area", 0.0812, 0.011), ("mean texture", 0.0123, 0.004), ("id", -0.0005, 0.002)],
        "importance_score": "accuracy",
        "columns": [
            {"name": "worst area", "kind": "number", "treatment": "median, standardised", "missing": 0.0},
            {"name": "mean texture", "kind": "number", "treatment": "median, standardised", "missing": 0.0132},
            {
                "name": "site",
                "kind": "category",
                "treatment": "3 classes",
                "missing": 0.0004,
                "note": "rare classes joined",
            },
        ],
        "network": [("layers.0.linear", ["batch", 64], 1984), ("layers.2.linear", ["batch", count], 65 * count)],
        "configuration": {"seed": 7, "optimizer": {"name": "AdamW", "learning_rate": 0.003, "betas": [0.9, 0.999]}},
        "notices": ["Row 17 has no target and was left out."],
        "environment": {"chainrule": "0.1.0", "numpy": "2.4.6"},
    }
    return Report(**(fields | changes))


def regression(**changes: Any) -> Report:
    generator = np.random.default_rng(2)
    true = generator.normal(150.0, 70.0, size=89)
    predicted = 150.0 + 0.6 * (true - 150.0) + generator.normal(scale=30.0, size=89)
    fields: dict[str, Any] = {
        "title": "diabetes",
        "task": "regression",
        "target": "progression",
        "rows": {"train": 282, "validation": 71, "test": 89},
        "history": history(12),
        "best_epoch": 12,
        "metrics": metrics.regression_summary(true, predicted),
        "baseline": metrics.regression_summary(true, np.full(89, 152.1)),
        "baseline_answer": 152.1,
        "residuals": np.column_stack([true, predicted]),
        "importances": [("bmi", 5.1, 0.4)],
        "importance_score": "root_mean_squared_error",
    }
    return Report(**(fields | changes))


def hostile() -> Report:
    """A report in which every text is an attack."""
    bad = HOSTILE
    return classification(
        (bad, bad + "2", bad * 9),
        title=bad,
        target=bad,
        source=bad,
        created=bad,
        stop_reason=bad,
        baseline_answer=bad,
        importance_score=bad,
        metrics={bad: 0.5, "accuracy": 0.9},
        baseline={bad: 0.5, "accuracy": 0.4},
        history=[
            {"epoch": epoch, "loss": 1.0 / epoch, bad: 0.5, "gradient_norms": {bad: 1.0, bad + "2": 2.0}}
            for epoch in (1, 2, 3)
        ],
        best_epoch=2,
        importances=[(bad, 0.1, 0.01)],
        columns=[{"name": bad, "kind": bad, "treatment": bad, "missing": bad, "note": bad}],
        network=[(bad, bad, 3)],
        configuration={bad: bad, "nested": {bad: {bad: [bad]}}},
        notices=[bad],
        environment={bad: bad},
    )
