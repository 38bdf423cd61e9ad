"""The default network trained on a table in memory, without a run folder: for cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from chainrule.data.tables import Table
from chainrule.tabular.plan import Plan, make_network, make_plan, make_stopping, make_trainer
from chainrule.tabular.preparation import Prepared, features_of, fit_arguments, plan_inputs, prepare
from chainrule.tabular.settings import Settings
from chainrule.train import Callback, Trainer


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network with what was learned about its table."""

    prepared: Prepared
    plan: Plan
    trainer: Trainer

    def answers(self, table: Table) -> dict[str, NDArray[Any]]:
        """``prediction`` and, for classes, ``probability`` for every row; see :meth:`chainrule.data.Target.decode`."""
        preprocessing = self.prepared.preprocessing
        outputs = self.trainer.predict(features_of(preprocessing, preprocessing.encode(table)))
        found: dict[str, NDArray[Any]] = self.prepared.target.decode(outputs)
        return found


def fit(table: Table, settings: Settings, *, callbacks: Sequence[Callback] = ()) -> Fitted:
    """Splits, prepares and trains as :func:`chainrule.tabular.train` does, and writes nothing."""
    prepared = prepare(table, settings, [])
    plan = make_plan(settings, prepared.target, **plan_inputs(prepared))
    training, validation = fit_arguments(prepared, plan)
    trainer = make_trainer(plan, prepared.target, make_network(plan), len(prepared.split.train))
    stopping = make_stopping(plan, has_validation=validation is not None)
    trainer.fit(
        training,
        validation_data=validation,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        callbacks=[*([stopping] if stopping else []), *callbacks],
        stop_at_loss=plan.stop_at_loss,
    )
    return Fitted(prepared, plan, trainer)
