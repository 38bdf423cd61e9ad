"""Checkpoints: one file with everything that training needs to go on to the same bits.

A checkpoint is a safetensors file: arrays named ``model:...``, ``optimizer:...`` and ``callback.<n>:...``, and the rest (position,
history, callbacks' state) as JSON in its metadata. It is written atomically, so that a kill at any moment leaves the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core.errors import ChainruleError, RunError, WeightsError
from chainrule.core.files import from_json, remove_partial, to_json
from chainrule.core.weights import load_weights, save_weights

NDArray = np.ndarray[Any, Any]

FORMAT = 1
# Tensor names must not hold slashes, so groups are set apart by a colon.
_SEPARATOR = ":"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Groups of named arrays, and the JSON beside them."""

    groups: Mapping[str, Mapping[str, NDArray]]
    progress: Mapping[str, Any]


class CheckpointFolder:
    """Where a training keeps its checkpoints; ``path`` may change after one is saved."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, checkpoints: Path | str | CheckpointFolder) -> CheckpointFolder:
        return checkpoints if isinstance(checkpoints, CheckpointFolder) else cls(Path(checkpoints))

    def save(self, checkpoint: Checkpoint, step: int) -> None:
        """Raises :class:`RunError` when it cannot."""
        save_checkpoint(self.path, checkpoint, step)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, step: int) -> Path:
    """Write ``folder/step-<step>.safetensors`` and drop all but the newest two; raises :class:`RunError` when it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {folder} cannot be made: {error.strerror}") from None
    path = folder / _name(step)
    arrays = {
        f"{group}{_SEPARATOR}{name}": array
        for group, members in checkpoint.groups.items()
        for name, array in members.items()
    }
    save_weights(path, arrays, {"format": str(FORMAT), "progress": to_json(checkpoint.progress)})
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def clear_checkpoints(folder: Path) -> None:
    """Remove every checkpoint of a folder."""
    for path in _newest_first(folder):
        path.unlink(missing_ok=True)


def has_checkpoint(folder: Path, after: int = -1) -> bool:
    """Whether there is a checkpoint of a later step than ``after``."""
    return any(path.name > _name(after) for path in _newest_first(folder))


def load_newest(folder: Path) -> Checkpoint:
    """The newest checkpoint that reads whole; raises :class:`RunError` when there is none, naming what is wrong with the last."""
    if folder.is_dir():
        remove_partial(folder)
    problem: ChainruleError | None = None
    for path in _newest_first(folder):
        try:
            return load_checkpoint(path)
        except ChainruleError as error:
            problem = problem or error
    raise RunError(f"there is no checkpoint to resume from in {folder}" + (f": {problem}" if problem else ""))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint; raises :class:`WeightsError` when it is damaged or of another format."""
    arrays, metadata = load_weights(path, require_checksum=True)
    if metadata.get("format") != str(FORMAT):
        raise WeightsError(f"{path.name} is not a checkpoint of format {FORMAT}")
    groups: dict[str, dict[str, NDArray]] = {}
    for name, array in arrays.items():
        group, _, member = name.partition(_SEPARATOR)
        groups.setdefault(group, {})[member] = array
    try:
        progress = from_json(metadata["progress"])
    except (KeyError, ValueError):
        raise WeightsError(f"{path.name} does not say how far training had come") from None
    return Checkpoint(groups, progress)


def _name(step: int) -> str:
    """Names are in the order of steps."""
    return f"step-{step:012d}.safetensors" if step >= 0 else ""


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)
