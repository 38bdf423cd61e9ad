"""Training on a table: a new run, one that was interrupted, and more training of a finished one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule import nn
from chainrule.core import trees
from chainrule.core.errors import ConfigError, NonFiniteError, RunError
from chainrule.core.files import remove_partial, write_json, write_text
from chainrule.core.names import shown_path
from chainrule.core.weights import check_same_architecture, load_weights, save_weights
from chainrule.data.columns import Kind
from chainrule.data.tables import read_table
from chainrule.data.targets import Target
from chainrule.report import Report, render_report
from chainrule.runs import write_model
from chainrule.tabular import run_folder
from chainrule.tabular.place import INTERRUPTED, Place, StageCheckpoints, check_free, make_place
from chainrule.tabular.plan import Plan, make_network, make_plan, make_stopping, make_trainer
from chainrule.tabular.prediction import evaluate_table, load
from chainrule.tabular.preparation import (
    Prepared,
    fingerprint,
    fit_arguments,
    labelled_rows,
    path_of,
    plan_inputs,
    prepare,
    read_for_training,
    split_fingerprint,
    split_for,
)
from chainrule.tabular.reporting import full_report, parameters, plan_report
from chainrule.tabular.run_folder import DataRecord, Run, RunRecord, Status
from chainrule.tabular.settings import Settings
from chainrule.train import Callback, EarlyStopping, History, Trainer
from chainrule.train.checkpoints import has_checkpoint
from chainrule.transforms.engines import engine_named

# More training of a trained network begins with a lower rate, so that it is refined rather than learned anew.
CONTINUED_RATE = 0.3


@dataclass(frozen=True, eq=False)
class Preparation:
    """What is known when everything is ready and no step has been made."""

    folder: Path
    record: RunRecord
    target: Target
    columns: list[dict[str, Any]]
    network: nn.Module

    @property
    def task(self) -> str:
        return self.target.task

    @property
    def source(self) -> str:
        return self.record.data.source

    @property
    def rows(self) -> dict[str, int]:
        """The sizes of the parts."""
        return self.record.data.parts

    @property
    def plan(self) -> Plan:
        return self.record.plan

    @property
    def notices(self) -> list[str]:
        return list(self.record.notices)

    @property
    def parameters(self) -> int:
        return parameters(self.network)

    @property
    def report(self) -> Report:
        """The report as far as it is known: task, rows, columns, network, configuration, notices."""
        return plan_report(self.record, _title(self.folder), self.target, self.columns, self.network)


OnPrepared = Callable[[Preparation], object]


def train(
    source: object,
    target: str | None = None,
    *,
    out: Path | str,
    settings: Settings | None = None,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
    on_prepared: OnPrepared | None = None,
    notices: list[str] | None = None,
) -> Run:
    """Trains a network to predict a column of a table, and writes everything about it into the folder ``out``.

    Args:
        source: a path, a data frame or a dict of arrays; see :func:`chainrule.data.tables.read_table`.
        target: the column to predict; instead of ``settings.target``.
        out: the run folder, which is made; one that exists already is refused, or replaced with ``force``.
        settings: everything else that can be decided.
        force: replace an existing run, with the first checkpoint after an epoch or five seconds of training. What ends training
            before that, Ctrl-C too, leaves the old run as it was, and the exception has a note that says so.
        callbacks: watch the training; see :class:`chainrule.train.Callback`.
        on_prepared: called once before the first step.
        notices: what was recognised, decided or left out is appended here; the run keeps it too.

    Raises DataError for data that nothing can be learned from and ConfigError for settings that make no sense, both before
    anything is written; RunError when the folder is taken or cannot be written; NonFiniteError when training met a NaN, after
    the run was completed with the last good weights. Ctrl-C ends training after the current step and returns the run, which
    can be resumed.
    """
    settings = settings or Settings()
    if target is not None:
        settings = settings.replace(target=target)
    folder = Path(out)
    check_free(folder, force)
    engine_named(settings.engine)
    notes: list[str] = [] if notices is None else notices
    table = read_for_training(source, settings, notes)
    prepared = prepare(table, settings, notes)
    plan = make_plan(settings, prepared.target, **plan_inputs(prepared))
    record = RunRecord(
        status="training",
        created=run_folder.now(),
        settings=settings,
        plan=plan,
        data=_data_record(source, prepared, settings.sql),
        notices=tuple(notes),
        environment=run_folder.environment(),
    )
    network = make_network(plan)
    place = make_place(folder, partial(_write_beginning, record, prepared), force=force)
    with place.undone_before_its_first_step(record):
        return _Stage(place, record, prepared, network, notes, callbacks).run(on_prepared)


def resume(
    folder: Path | str,
    source: object = None,
    *,
    callbacks: Sequence[Callback] = (),
    on_prepared: OnPrepared | None = None,
    notices: list[str] | None = None,
) -> Run:
    """Goes on with a run that was interrupted or killed; the result is bit for bit that of a run that never was.

    The data are read again from where they came, or from ``source``, which a run on a table in memory needs. A run that is
    finished is returned as it is, with a notice. Raises RunError when the folder is no run or the data have changed.
    """
    place = Path(folder)
    record = RunRecord.read(place)
    notes: list[str] = [] if notices is None else notices
    if record.status == "finished":
        notes.append(f"the run in {shown_path(place)} is finished already")
        return Run.read(place)
    remove_partial(place)
    prepared = prepared_before(place, record, source, "resume it")
    notes += record.notices
    network = _starting_network(place, record)
    return _Stage(Place(place), record, prepared, network, notes, callbacks).run(on_prepared)


def continue_training(
    folder: Path | str,
    source: object,
    *,
    sql: str | None = None,
    out: Path | str | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
    on_prepared: OnPrepared | None = None,
    notices: list[str] | None = None,
) -> Run:
    """Trains a finished run further, on new rows, with the preprocessing, classes and plan that it has.

    It begins with the run's weights and, unless ``learning_rate`` is given, with 0.3 times its learning rate. The new rows
    are split as the run's own were. If no epoch gives a lower validation loss than the weights had to begin with, they are
    kept, with a notice. Without ``out`` the run in ``folder`` becomes the new one; its weights stay in place until the new
    ones are complete. With ``out`` the result is a run folder of its own.

    Raises RunError when the run is not trained yet, DataError when the rows do not fit it, and as :func:`train` does.
    """
    place = Path(folder)
    before = RunRecord.read(place)
    if before.status == "training":
        raise RunError(
            f"the run in {shown_path(place)} is not finished; finish it with: chainrule resume {shown_path(place)}"
        )
    if out is not None:
        check_free(Path(out), force)
    notes: list[str] = [] if notices is None else notices
    predictor = load(place)
    kinds = _needed_kinds(before, predictor.preprocessing.kinds, predictor.target)
    table = read_table(source, sql=sql, expect=kinds, notices=notes)
    rows = labelled_rows(table, predictor.target.name, notes)
    labelled = table.select(rows)
    predictor.target.encode(labelled.column(predictor.target.name), labelled.places)  # refuses unknown classes
    split = split_for(table, before.settings, predictor.target, rows, notes)
    prepared = Prepared(table, predictor.preprocessing, predictor.target, split)
    changes: dict[str, Any] = {"learning_rate": learning_rate or before.plan.learning_rate * CONTINUED_RATE}
    changes["epochs"] = before.plan.epochs if epochs is None else epochs
    Settings(**changes)  # checks them
    changes["batch_size"] = min(before.plan.batch_size, len(split.train))
    record = before.replace(
        status="training",
        created=run_folder.now(),
        plan=before.plan.replace(**changes),
        data=_data_record(source, prepared, sql),
        stage=before.stage + 1 if out is None else 1,
        notices=tuple(notes),
        environment=run_folder.environment(),
        earlier=(*before.earlier, _summary(Run.read(place))),
        continues=before.continues if out is None else _title(place),
        finished=None,
        problem=None,
    )
    weights = predictor.weights
    if out is None:
        _save_start(place, record, weights)
        record.write(place)
        destination = Place(place)
    else:
        begin = partial(_write_beginning, record, prepared, start=weights)
        destination = make_place(Path(out), begin, force=force)
    with destination.undone_before_its_first_step(record, before if out is None else None):
        network = _starting_network(destination.here, record)
        return _Stage(destination, record, prepared, network, notes, callbacks).run(on_prepared)


def prepared_before(folder: Path, record: RunRecord, source: object, purpose: str) -> Prepared:
    """The data of a run once more, as they were prepared when it began; from where they lay then if ``source`` is None.

    Raises RunError when they are not there or have changed; ``purpose`` says what they are needed for.
    """
    shown = shown_path(folder)
    if source is None:
        if record.data.path is None:
            raise RunError(
                f"the run in {shown} was trained on a table in memory ({record.data.source}); give that table to {purpose}"
            )
        source = Path(record.data.path)
    # What this reading has to say was said when the run began.
    if record.stage == 1 and record.continues is None:
        table = read_for_training(source, record.settings, [])
    else:
        table = read_table(source, sql=record.data.sql, expect=record.data.kinds, notices=[])
    if fingerprint(table) != record.data.fingerprint:
        raise RunError(
            f"{table.source} is not what the run in {shown} was started with; the same rows and columns are needed to {purpose}"
        )
    target = run_folder.read_target(folder)
    split = split_for(table, record.settings, target, labelled_rows(table, target.name, []), None)
    if split_fingerprint(split) != record.data.split_fingerprint:
        raise RunError(
            f"the rows of {shown} would be split differently than when it was started, so this release cannot {purpose}"
        )
    return Prepared(table, run_folder.read_preprocessing(folder), target, split)


class _Stage:
    """One training of a run that is recorded in its folder: from the first step or a checkpoint to the report."""

    def __init__(
        self,
        place: Place,
        record: RunRecord,
        prepared: Prepared,
        network: nn.Module,
        notices: list[str],
        callbacks: Sequence[Callback],
    ) -> None:
        self.place = place
        self.record = record
        self.prepared = prepared
        self.network = network
        self.notices = notices
        self.callbacks = callbacks
        self.columns = prepared.preprocessing.describe(prepared.table, prepared.split.train)

    @property
    def continues(self) -> bool:
        return self.record.stage > 1 or self.record.continues is not None

    def run(self, on_prepared: OnPrepared | None) -> Run:
        """Trains and completes the run folder; raises NonFiniteError only after that.

        What ends training while another run is in the folder still is raised at once, Ctrl-C as KeyboardInterrupt.
        """
        if on_prepared is not None:
            on_prepared(Preparation(self.place.folder, self.record, self.prepared.target, self.columns, self.network))
        plan = self.record.plan
        training, validation = fit_arguments(self.prepared, plan)
        trainer = make_trainer(plan, self.prepared.target, self.network, len(self.prepared.split.train))
        stopping = make_stopping(plan, has_validation=validation is not None)
        start_loss = trainer.evaluate(validation)["loss"] if self.continues and stopping and validation else None
        problem: NonFiniteError | None = None
        try:
            history = self._fit(trainer, training, validation, stopping)
        except NonFiniteError as error:
            if self.place.is_waiting:
                raise
            problem, history = error, trainer.history
            history.stop_reason = "a loss or a gradient was not finite"
            if stopping is not None:
                stopping.on_train_end(trainer)
        if self.place.is_waiting:
            raise KeyboardInterrupt
        if start_loss is not None and stopping is not None:
            self._keep_start_if_better(trainer, stopping, start_loss, history)
        status: Status = "finished"
        if problem is not None:
            status = "diverged"
        elif history.stop_reason == INTERRUPTED:
            status = "interrupted"
        run = self._complete(trainer.model, history, status, None if problem is None else str(problem))
        if problem is not None:
            raise problem
        return run

    def _fit(self, trainer: Trainer, training: Any, validation: Any, stopping: EarlyStopping | None) -> History:
        plan = self.record.plan
        checkpoints = StageCheckpoints(self.place, self.record.stage, trainer)
        arguments: dict[str, Any] = {
            "validation_data": validation,
            "epochs": plan.epochs,
            "batch_size": plan.batch_size,
            "callbacks": [*([stopping] if stopping else []), *self.callbacks],
            "stop_at_loss": plan.stop_at_loss,
            "checkpoints": checkpoints,
        }
        if has_checkpoint(checkpoints.path):
            return trainer.resume(training, **arguments)
        return trainer.fit(training, **arguments)

    def _keep_start_if_better(
        self, trainer: Trainer, stopping: EarlyStopping, start_loss: float, history: History
    ) -> None:
        if stopping.best is not None and stopping.best < start_loss:
            return
        trainer.load_model_arrays(trees.named_leaves(self.network))
        history.best_epoch = None
        self.notices.append(
            f"no epoch on the new rows gave a lower validation loss than the {start_loss:.6g} of the weights to begin with, so "
            "these were kept"
        )

    def _complete(self, model: nn.Module, history: History, status: Status, problem: str | None) -> Run:
        """Writes the model, the scores and the report, and last of all that the run is finished."""
        folder, prepared = self.place.folder, self.prepared
        target, preprocessing = prepared.target, prepared.preprocessing

        def inference(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
            outputs: dict[str, Any] = target.decode(model(preprocessing.features(inputs)))
            return outputs

        examples = preprocessing.encode(prepared.table.select(slice(0, 1)))
        write_model(folder, inference, model, examples)
        write_json(folder / run_folder.HISTORY, history.to_json())
        part, rows = _judged_part(prepared)
        evaluation = evaluate_table(
            load(folder), prepared.table.select(rows), part=part, seed=self.record.plan.seed, notices=self.notices
        )
        write_json(folder / run_folder.EVALUATION, evaluation.to_json())
        record = self.record.replace(
            status=status, notices=tuple(self.notices), finished=run_folder.now(), problem=problem
        )
        report = full_report(record, _title(folder), target, self.columns, model, history, evaluation)
        write_text(folder / run_folder.REPORT_DATA, report.to_json())
        write_text(folder / run_folder.REPORT_PAGE, render_report(report))
        record.write(folder)
        return Run(folder, record, target, history, evaluation)


def _judged_part(prepared: Prepared) -> tuple[str, NDArray[np.int64]]:
    split = prepared.split
    parts = (("test", split.test), ("validation", split.validation), ("train", split.train))
    return next((name, rows) for name, rows in parts if len(rows))


# --- folders ----------------------------------------------------------------------------------------------------------


def _write_beginning(
    record: RunRecord, prepared: Prepared, folder: Path, *, start: Mapping[str, NDArray[Any]] | None = None
) -> None:
    """Everything that resuming needs."""
    write_json(folder / run_folder.PREPROCESSING, prepared.preprocessing.to_json())
    write_json(folder / run_folder.TARGET, prepared.target.to_json())
    if start is not None:
        _save_start(folder, record, start)
    record.write(folder)


def _save_start(folder: Path, record: RunRecord, weights: Mapping[str, NDArray[Any]]) -> None:
    stage = run_folder.stage_folder(folder, record.stage)
    try:
        stage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {shown_path(stage)}: {(error.strerror or str(error)).lower()}") from error
    save_weights(stage / run_folder.START_WEIGHTS, weights)


def _starting_network(folder: Path, record: RunRecord) -> nn.Module:
    """The network as the stage begins: new, or with the weights of the run that it continues."""
    network = make_network(record.plan)
    if record.stage == 1 and record.continues is None:
        return network
    path = run_folder.stage_folder(folder, record.stage) / run_folder.START_WEIGHTS
    weights, _ = load_weights(path, require_checksum=True)
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in trees.named_leaves(network).items()}
    check_same_architecture(expected, weights, path)
    started: nn.Module = trees.replace_leaves(network, weights)
    return started


def _data_record(source: object, prepared: Prepared, sql: str | None) -> DataRecord:
    path = path_of(source)
    table = prepared.table
    return DataRecord(
        source=table.source,
        path=None if path is None else str(path),
        sql=sql,
        rows=table.rows,
        fingerprint=fingerprint(table),
        kinds={column.name: column.kind for column in table.columns},
        parts=prepared.split.sizes(),
        split_fingerprint=split_fingerprint(prepared.split),
    )


def _needed_kinds(record: RunRecord, kinds: Mapping[str, Kind], target: Target) -> dict[str, Kind]:
    """The columns that new rows must have: features, target, and what rows are split by."""
    needed = {**kinds, target.name: target.kind}
    for name in (record.settings.group, record.settings.time):
        if name is not None:
            if name not in record.data.kinds:
                raise ConfigError(f"the run does not say of which kind its column {name!r} is")
            needed[name] = record.data.kinds[name]
    return needed


def _summary(run: Run) -> dict[str, Any]:
    """What a run remembers of an earlier stage."""
    return {
        "created": run.record.created,
        "source": run.record.data.source,
        "rows": run.rows,
        "epochs": len(run.history),
        "best_epoch": run.history.best_epoch,
        "metrics": dict(run.evaluation.metrics) if run.evaluation is not None else {},
    }


def _title(folder: Path) -> str:
    return folder.resolve().name
