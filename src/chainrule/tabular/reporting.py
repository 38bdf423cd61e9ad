"""What a run says about itself: the report before training (what was recognised and planned) and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainrule import nn
from chainrule.data.targets import Target
from chainrule.report import Report
from chainrule.tabular.evaluation import Evaluation
from chainrule.tabular.run_folder import RunRecord
from chainrule.train import History


def plan_report(
    record: RunRecord, title: str, target: Target, columns: Sequence[dict[str, Any]], network: nn.Module
) -> Report:
    """The report as far as it is known before training."""
    return Report(**_plan_fields(record, title, target, columns, network))


def full_report(
    record: RunRecord,
    title: str,
    target: Target,
    columns: Sequence[dict[str, Any]],
    network: nn.Module,
    history: History,
    evaluation: Evaluation,
) -> Report:
    """The report of a trained network."""
    fields = _plan_fields(record, title, target, columns, network)
    if evaluation.part != "test":
        # The page calls these rows held out, which only the test part is; validation rows decided when to stop.
        fields["notices"] = [
            *fields["notices"],
            f"The scores are those of the {evaluation.part} rows; no test rows were held out.",
        ]
    return Report(
        **fields,
        history=[dict(entry) for entry in history.records],
        best_epoch=history.best_epoch,
        stop_reason=history.stop_reason,
        metrics=evaluation.metrics,
        baseline=evaluation.baseline,
        baseline_answer=evaluation.baseline_answer,
        confusion=evaluation.confusion,
        calibration=evaluation.calibration,
        residuals=evaluation.residuals,
        importances=evaluation.importances,
        importance_score=evaluation.importance_score,
    )


def network_rows(network: nn.Module, width: int) -> list[tuple[str, str, int]]:
    """(layer, output shape, parameters) for every layer."""
    return [(f"{row.path} {row.layer}", row.output, row.parameters) for row in network.summary((width,)).rows]


def configuration(record: RunRecord) -> dict[str, Any]:
    """The plan in the terms of the field, and what the user decided about the data."""
    plan = record.plan
    decided = record.settings.changed()
    data = {
        name: decided[name] for name in ("types", "drop", "group", "time", "sql", "class_weight") if name in decided
    }
    return {
        "network": plan.describe(),
        "optimizer": {
            "name": "AdamW",
            "learning_rate": plan.learning_rate,
            "schedule": "cosine",
            "weight_decay": plan.weight_decay,
            **({"clip_norm": plan.clip_norm} if plan.clip_norm is not None else {}),
        },
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "patience": plan.patience,
        **({"stop_at_loss": plan.stop_at_loss} if plan.stop_at_loss is not None else {}),
        "seed": plan.seed,
        "engine": plan.engine,
        **({"data": data} if data else {}),
    }


def _plan_fields(
    record: RunRecord, title: str, target: Target, columns: Sequence[dict[str, Any]], network: nn.Module
) -> dict[str, Any]:
    return {
        "title": title,
        "task": target.task,
        "target": target.name,
        "source": record.data.source,
        "created": record.created,
        "classes": target.class_names,
        "rows": record.data.parts,
        "columns": columns,
        "network": network_rows(network, record.plan.width),
        "configuration": configuration(record),
        "notices": list(record.notices),
        "environment": record.environment,
    }


def parameters(network: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(int(array.size) for array in network.named_parameters().values())
