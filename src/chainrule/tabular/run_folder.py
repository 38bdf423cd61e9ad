"""The run folder: what is in it, and ``run.json``, which says what was done and how far it came.

=================== ==================================================================================================
run.json            settings, plan, data, split, environment, notices, status; written before training and after it
preprocessing.json  how columns become features
target.json         the task, the classes or the scale
model.graph         the inference graph from raw columns to answers, as text
model.safetensors   the final (best) weights
history.json        the numbers of every epoch
evaluation.json     the scores on the held-out rows
report.json, .html  the report as data and as a page
checkpoints/N       checkpoints of stage N (1 is the first training, each ``continue`` adds one)
=================== ==================================================================================================

Every file is written atomically, and ``run.json`` says that a run is finished only after all others are there, so that a
run killed at any moment can be resumed.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from chainrule.core.errors import ConfigError, DataError, RunError
from chainrule.core.files import read_json, write_json
from chainrule.core.names import shown_path
from chainrule.data.columns import KINDS, Kind
from chainrule.data.preprocessing import Preprocessing
from chainrule.data.targets import Target
from chainrule.runs.model_files import GRAPH_FILE, WEIGHTS_FILE
from chainrule.tabular.evaluation import Evaluation
from chainrule.tabular.plan import Plan
from chainrule.tabular.settings import Settings
from chainrule.train import History

Decoded = TypeVar("Decoded")

FORMAT = "chainrule.run"
VERSION = 1

RUN = "run.json"
PREPROCESSING = "preprocessing.json"
TARGET = "target.json"
HISTORY = "history.json"
EVALUATION = "evaluation.json"
REPORT_DATA = "report.json"
REPORT_PAGE = "report.html"
FILES = (RUN, PREPROCESSING, TARGET, HISTORY, EVALUATION, REPORT_DATA, REPORT_PAGE, GRAPH_FILE, WEIGHTS_FILE)
CHECKPOINTS = "checkpoints"
START_WEIGHTS = "start.safetensors"

Status = Literal["training", "finished", "interrupted", "diverged"]
STATUSES = ("training", "finished", "interrupted", "diverged")


@dataclass(frozen=True)
class DataRecord:
    """Where the rows of a stage came from. ``path`` is None for a table in memory."""

    source: str
    path: str | None
    sql: str | None
    rows: int
    fingerprint: str
    kinds: dict[str, Kind]
    parts: dict[str, int]
    split_fingerprint: str


@dataclass(frozen=True)
class RunRecord:
    """The content of ``run.json``."""

    status: Status
    created: str
    settings: Settings
    plan: Plan
    data: DataRecord
    stage: int = 1
    notices: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    earlier: tuple[dict[str, Any], ...] = ()
    """A summary of every earlier stage."""
    continues: str | None = None
    """The name of the run whose weights this one began with, when it is in another folder."""
    finished: str | None = None
    problem: str | None = None

    def replace(self, **changes: Any) -> RunRecord:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        content = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        content |= {
            "settings": self.settings.to_json(),
            "plan": self.plan.to_json(),
            "data": dataclasses.asdict(self.data),
            "notices": list(self.notices),
            "earlier": list(self.earlier),
        }
        return {"format": FORMAT, "version": VERSION, **content}

    def write(self, folder: Path) -> None:
        write_json(folder / RUN, self.to_json())

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """What :meth:`write` wrote; raises RunError for a folder that is not a run."""
        shown = shown_path(folder)
        if not folder.is_dir():
            raise RunError(f"{shown} does not exist" if not folder.exists() else f"{shown} is not a run folder")
        if not (folder / RUN).exists():
            raise RunError(f"{shown} is not a run folder: it has no {RUN}")
        content = read_json(folder / RUN)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunError(f"{shown_path(folder / RUN)} is not the record of a run")
        if content.get("version") != VERSION:
            raise RunError(
                f"{shown} was written in version {content.get('version')!r} of the format, but this release reads "
                f"version {VERSION}"
            )
        try:
            return cls._from_content(content)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise RunError(f"{shown_path(folder / RUN)} is damaged: {error}") from None

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> RunRecord:
        fields = {key: value for key, value in content.items() if key not in ("format", "version")}
        data = DataRecord(**fields["data"])
        if fields["status"] not in STATUSES or not all(kind in KINDS for kind in data.kinds.values()):
            raise ValueError("it has a status or a kind of column that is not known")
        return cls(
            **{
                **fields,
                "settings": Settings.from_mapping(fields["settings"]),
                "plan": Plan.from_json(fields["plan"]),
                "data": data,
                "notices": tuple(fields["notices"]),
                "earlier": tuple(fields["earlier"]),
            }
        )


@dataclass(frozen=True)
class Run:
    """A run folder as it is now. ``evaluation`` is None and the history empty until training has ended once."""

    folder: Path
    record: RunRecord
    target: Target
    history: History
    evaluation: Evaluation | None

    @classmethod
    def read(cls, folder: Path | str) -> Run:
        """Raises RunError when the folder is not a run or a file in it is damaged."""
        place = Path(folder)
        record = RunRecord.read(place)
        history, evaluation = History(), None
        if (place / HISTORY).exists():
            history = read_history(place)
        if (place / EVALUATION).exists():
            evaluation = Evaluation.from_json(read_json(place / EVALUATION))
        return cls(place, record, read_target(place), history, evaluation)

    @property
    def status(self) -> Status:
        return self.record.status

    @property
    def settings(self) -> Settings:
        return self.record.settings

    @property
    def plan(self) -> Plan:
        return self.record.plan

    @property
    def rows(self) -> dict[str, int]:
        """The sizes of the parts."""
        return self.record.data.parts

    @property
    def notices(self) -> tuple[str, ...]:
        return self.record.notices

    @property
    def created(self) -> str:
        return self.record.created

    @property
    def seconds(self) -> float:
        """The time that the epochs took together."""
        return float(sum(record["seconds"] for record in self.history.records))


def read_preprocessing(folder: Path) -> Preprocessing:
    """Raises RunError when the file is missing or not what was written."""
    return _decoded(folder / PREPROCESSING, Preprocessing.from_json)


def read_target(folder: Path) -> Target:
    """Raises RunError when the file is missing or not what was written."""
    return _decoded(folder / TARGET, Target.from_json)


def read_history(folder: Path) -> History:
    """Raises RunError when the file is missing or not what was written."""
    return _decoded(folder / HISTORY, History.from_json)


def _decoded(path: Path, decode: Callable[[Any], Decoded]) -> Decoded:
    try:
        return decode(read_json(path))
    except (DataError, KeyError, TypeError) as error:
        raise RunError(f"{shown_path(path)} is damaged: {error}") from None


def is_part_of_run(folder: Path, path: Path) -> bool:
    """Whether a path is one of the files of a run, or lies among its checkpoints."""
    place = path.resolve()
    parts = {folder.resolve() / name for name in (*FILES, CHECKPOINTS)}
    return not parts.isdisjoint((place, *place.parents))


def stage_folder(folder: Path, stage: int) -> Path:
    return folder / CHECKPOINTS / str(stage)


def environment() -> dict[str, str]:
    """What a result may depend on beside the data and the settings."""
    return {
        "chainrule": _version("chainrule"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
