"""Where the time of a run's training step goes, on the cpu engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import DataError, RunError
from chainrule.engines.profile import Profile
from chainrule.ir.sizes import shape_at
from chainrule.runs import load_model
from chainrule.tabular.plan import make_network, make_trainer
from chainrule.tabular.preparation import fit_arguments
from chainrule.tabular.run_folder import RunRecord
from chainrule.tabular.training import prepared_before


@dataclass(frozen=True)
class RunProfile:
    """A profile, and in words what was profiled: the training step, or else the inference graph and why."""

    profile: Profile
    subject: str


def profile(folder: Path | str, *, source: object = None, repeats: int = 50) -> RunProfile:
    """Profiles the training step of the run in ``folder`` on its first batch of training rows.

    The step is built again from the run's plan and from its data, which must be where they were and unchanged (or are given as
    ``source``). Where they are not, the inference graph is profiled, on zeros. Nothing is learned and nothing is written.

    Raises RunError when the folder is no run, ConfigError where the cpu engine cannot be used.
    """
    place = Path(folder)
    record = RunRecord.read(place)
    plan = record.plan.replace(engine="cpu")
    try:
        prepared = prepared_before(place, record, source, "profile its training step")
    except (RunError, DataError) as error:
        return _inference(place, plan.batch_size, repeats, str(error))
    (x, y, weights), _ = fit_arguments(prepared, plan)
    rows = slice(0, plan.batch_size)
    trainer = make_trainer(plan, prepared.target, make_network(plan), len(x))
    found = trainer.profile(x[rows], y[rows], None if weights is None else weights[rows], repeats)
    return RunProfile(found, f"the training step on a batch of {len(x[rows])} rows")


def _inference(folder: Path, rows: int, repeats: int, why: str) -> RunProfile:
    predictor = load_model(folder, engine="cpu")
    inputs = {
        name: np.zeros(shape_at(type.shape, rows), to_numpy(type.dtype)) for name, type in predictor.input_types.items()
    }
    subject = f"not the training step but the inference graph, on a batch of {rows} rows of zeros: {why}"
    return RunProfile(predictor.profile(inputs, repeats), subject)
