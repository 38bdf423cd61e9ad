"""Where a run is written: in its folder or, while there is another run in that, beside it.

A run that is to replace another one takes its place with the first checkpoint that it makes after an epoch or some seconds of
training. An error or Ctrl-C before that removes the new run, and a kill leaves it behind for the next run that is to replace the old
one to remove; the old one is as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from chainrule.core.errors import NonFiniteError, RunError
from chainrule.core.files import NewDirectory, atomic_directory, is_occupied, remove_abandoned
from chainrule.core.names import shown_path
from chainrule.tabular import run_folder
from chainrule.tabular.run_folder import RunRecord
from chainrule.train.checkpoints import Checkpoint, CheckpointFolder, has_checkpoint
from chainrule.train.stepping import StepTrainer

INTERRUPTED = "interrupted"


class Place:
    """The ``folder`` of a run, and ``here``, where its files are now."""

    def __init__(self, folder: Path, new: NewDirectory | None = None) -> None:
        self.folder, self._new = folder, new

    @property
    def here(self) -> Path:
        return self.folder if self._new is None else self._new.here

    @property
    def is_waiting(self) -> bool:
        """Whether another run is in the folder still."""
        return self._new is not None and not self._new.is_in_place

    def take(self) -> None:
        """Replace the other run."""
        if self._new is not None:
            self._new.put_in_place(force=True)

    @contextlib.contextmanager
    def undone_before_its_first_step(self, record: RunRecord, before: RunRecord | None = None) -> Iterator[None]:
        """An error that leaves nothing to go on with takes back what was written: the folder, or the stage of the run ``before``."""
        try:
            with contextlib.nullcontext() if self._new is None else self._new.removed_on_error():
                yield
        except BaseException as error:
            if self.is_waiting:
                error.add_note(f"the run in {shown_path(self.folder)} is as it was")
            elif isinstance(error, Exception) and not isinstance(error, NonFiniteError):
                self._take_back(record, before)
            raise

    def _take_back(self, record: RunRecord, before: RunRecord | None) -> None:
        stage = run_folder.stage_folder(self.folder, record.stage)
        if has_checkpoint(stage, after=0):
            return
        if before is not None:
            before.write(self.folder)
        shutil.rmtree(self.folder if before is None else stage, ignore_errors=True)


class StageCheckpoints(CheckpointFolder):
    """The checkpoints of a stage. With the first that holds more than the beginning the run takes its place, unless training is
    being interrupted."""

    def __init__(self, place: Place, stage: int, trainer: StepTrainer) -> None:
        super().__init__(run_folder.stage_folder(place.here, stage))
        self._place, self._stage, self._trainer = place, stage, trainer

    def save(self, checkpoint: Checkpoint, step: int) -> None:
        super().save(checkpoint, step)
        if self._place.is_waiting and step > 0 and self._trainer.stopping != INTERRUPTED:
            self._place.take()
            self.path = run_folder.stage_folder(self._place.here, self._stage)


def check_free(folder: Path, force: bool) -> None:
    """Raises RunError at once for a folder that could only be refused after the data have been read."""
    occupied = is_occupied(folder)
    if occupied and not force:
        raise RunError(f"{shown_path(folder)} exists already; choose another folder, or overwrite it with --force")
    if folder.is_dir() and occupied and not (folder / run_folder.RUN).exists():
        raise RunError(f"{shown_path(folder)} is not a run folder, so it is not overwritten; choose another folder")
    existing = next(parent for parent in folder.resolve().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunError(f"cannot write {shown_path(folder)}: permission was denied")


def make_place(folder: Path, fill: Callable[[Path], None], *, force: bool) -> Place:
    """A new run, which ``fill`` writes into a folder; it appears complete or not at all, and waits where it replaces another.
    What killed runs have left waiting there is removed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {shown_path(folder)}: {(error.strerror or str(error)).lower()}") from error
    if force and is_occupied(folder):
        remove_abandoned(folder)
        new = NewDirectory(folder)
        with new.removed_on_error():
            fill(new.here)
        return Place(folder, new)
    with atomic_directory(folder, force=force) as partial:
        fill(partial)
    return Place(folder)
