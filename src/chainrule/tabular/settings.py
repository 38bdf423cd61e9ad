"""What a user can decide about training on a table; everything has a default, chosen for the data where it depends on it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from chainrule.core.errors import ConfigError
from chainrule.core.files import read_toml
from chainrule.core.names import escape_terminal, hint, shown_path
from chainrule.data.columns import KINDS, Kind, shown
from chainrule.data.targets import TASKS

ACTIVATIONS = ("SiLU", "ReLU", "GELU", "Tanh", "Sigmoid", "LeakyReLU")
MOST_EPOCHS = 1_000_000
_LARGEST_FILE = 2**20


@dataclass(frozen=True)
class Settings:
    """The settings of a run. None means: chosen for the data (see :func:`chainrule.tabular.plan.make_plan`).

    Raises :class:`ConfigError` on construction for a value that makes no sense.
    """

    target: str | None = None
    """The column to predict."""
    task: str | None = None
    """binary, multiclass, classification or regression; by default what the target column suggests."""
    types: Mapping[str, Kind] = field(default_factory=dict)
    """Kinds of columns that are not to be guessed."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    group: str | None = None
    """A column whose equal values stay in one part of the split, such as a patient's number."""
    time: str | None = None
    """A column of dates or numbers by which the held-out rows are the latest."""
    sql: str | None = None
    """The query that gives the table, where the data are a database file."""
    validation_share: float | None = None
    """The share of rows that decides when to stop; 0.15 by default."""
    test_share: float | None = None
    """The share of rows that is held out to the end; 0.15 by default."""
    epochs: int | None = None
    """The most epochs to train."""
    batch_size: int | Literal["full"] | None = None
    """Examples per update; "full" for all of them."""
    learning_rate: float | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    hidden: tuple[int, ...] | None = None
    """The width of each hidden layer; () for a linear model."""
    activation: str | None = None
    patience: int | None = None
    """Stop after so many epochs without a lower validation loss; 0 never stops early and keeps the last weights."""
    class_weight: Literal["balanced"] | None = None
    """"balanced" gives every class the same weight in the loss, however rare it is."""
    stop_at_loss: float | None = None
    """Stop as soon as the training loss of an epoch is this low."""
    clip_norm: float | None = None
    """Scale the gradient down to this global norm where it is larger."""
    seed: int = 0
    """Governs the split, the initial weights, the order of the examples and dropout."""
    engine: str = "auto"

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            _CHECKS[entry.name](self, entry.name, getattr(self, entry.name))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], source: str = "the settings") -> Settings:
        """Settings from plain data, such as parsed TOML or JSON; None stands for the default.

        Raises ConfigError for a key that is not a setting, suggesting the nearest, and for a value that makes no sense.
        """
        names = [entry.name for entry in dataclasses.fields(cls)]
        plain = {key.replace("-", "_"): value for key, value in content.items()}
        for key in plain:
            if key not in names:
                raise ConfigError(f"{source}: there is no setting {shown(key)}; {hint(key, names)}")
        changes: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        try:
            return cls(**{key: value for key, value in changes.items() if value is not None})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def from_toml(cls, path: Path | str) -> Settings:
        """Settings from a TOML file of one key per setting; raises ConfigError naming the file and the key or line."""
        return cls.from_mapping(read_toml(Path(path), largest=_LARGEST_FILE), shown_path(path))

    def to_json(self) -> dict[str, Any]:
        """Every setting as plain data; :meth:`from_mapping` takes it back."""
        return {
            entry.name: dict(value)
            if isinstance(value, Mapping)
            else list(value)
            if isinstance(value, tuple)
            else value
            for entry in dataclasses.fields(self)
            for value in [getattr(self, entry.name)]
        }

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults, as plain data."""
        default = Settings().to_json()
        return {name: value for name, value in self.to_json().items() if value != default[name]}

    def replace(self, **changes: Any) -> Settings:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, wanted: str, value: Any) -> ConfigError:
    return ConfigError(f"{name} must be {wanted}, not {escape_terminal(repr(value), limit=60)}")


def _text(settings: Settings, name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "text", value)


def _task(settings: Settings, name: str, value: Any) -> None:
    if value is not None and value not in TASKS:
        raise _wrong(name, f"one of {', '.join(TASKS)}", value)


def _types(settings: Settings, name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(name, "a table from column to kind", value)
    for column, kind in value.items():
        if kind not in KINDS:
            raise _wrong(f"the type of column {shown(str(column))}", f"one of {', '.join(KINDS)}", kind)


def _names(settings: Settings, name: str, value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise _wrong(name, "a list of column names", value)


def _share(settings: Settings, name: str, value: Any) -> None:
    if value is not None and not (_is_real(value) and 0 <= value < 1):
        raise _wrong(name, "at least 0 and less than 1", value)


def _epochs(least: int) -> Callable[[Settings, str, Any], None]:
    def check(settings: Settings, name: str, value: Any) -> None:
        if value is not None and not (_is_whole(value) and value >= least):
            raise _wrong(name, f"a whole number of at least {least}", value)
        if value is not None and value > MOST_EPOCHS:
            raise _wrong(name, f"at most {MOST_EPOCHS}", value)

    return check


def _batch_size(settings: Settings, name: str, value: Any) -> None:
    if value not in (None, "full") and not (_is_whole(value) and value >= 1):
        raise _wrong(name, "a whole number of at least 1, or 'full'", value)


def _positive(settings: Settings, name: str, value: Any) -> None:
    if value is not None and not (_is_real(value) and value > 0):
        raise _wrong(name, "a number above 0", value)


def _not_negative(settings: Settings, name: str, value: Any) -> None:
    if value is not None and not (_is_real(value) and value >= 0):
        raise _wrong(name, "a number of at least 0", value)


def _hidden(settings: Settings, name: str, value: Any) -> None:
    sizes = value if isinstance(value, tuple) else (value,)
    if value is not None and not all(_is_whole(size) and 1 <= size <= 65_536 for size in sizes):
        raise _wrong(name, "a list of widths from 1 to 65536", value)
    if value is not None and not isinstance(value, tuple):
        raise _wrong(name, "a list of widths", value)


def _activation(settings: Settings, name: str, value: Any) -> None:
    if value is not None and value not in ACTIVATIONS:
        raise _wrong(name, f"one of {', '.join(ACTIVATIONS)}", value)


def _class_weight(settings: Settings, name: str, value: Any) -> None:
    if value not in (None, "balanced"):
        raise _wrong(name, "'balanced'", value)


def _seed(settings: Settings, name: str, value: Any) -> None:
    if not (_is_whole(value) and 0 <= value < 2**64):
        raise _wrong(name, "a whole number from 0 to 2**64 - 1", value)


def _engine(settings: Settings, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(name, "the name of an engine", value)


_CHECKS = {
    "target": _text,
    "task": _task,
    "types": _types,
    "drop": _names,
    "group": _text,
    "time": _text,
    "sql": _text,
    "validation_share": _share,
    "test_share": _share,
    "epochs": _epochs(1),
    "batch_size": _batch_size,
    "learning_rate": _positive,
    "weight_decay": _not_negative,
    "dropout": _share,
    "hidden": _hidden,
    "activation": _activation,
    "patience": _epochs(0),
    "class_weight": _class_weight,
    "stop_at_loss": _positive,
    "clip_norm": _positive,
    "seed": _seed,
    "engine": _engine,
}
