"""Settings: round trips, and one clear sentence for what makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chainrule.core.errors import ConfigError
from chainrule.core.files import from_json, to_json
from chainrule.tabular import Settings

EVERYTHING = Settings(
    target="price",
    task="regression",
    types={"zip": "category"},
    drop=("id", "note"),
    group="owner",
    sql="SELECT 1",
    validation_share=0.2,
    test_share=0.0,
    epochs=7,
    batch_size="full",
    learning_rate=0.01,
    weight_decay=0.0,
    dropout=0.5,
    hidden=(),
    activation="ReLU",
    patience=0,
    class_weight="balanced",
    stop_at_loss=0.1,
    clip_norm=1.0,
    seed=2**64 - 1,
    engine="reference",
)


@pytest.mark.parametrize("settings", [Settings(), EVERYTHING, Settings(hidden=(64, 8), batch_size=1, time="when")])
def test_json_gives_the_same_settings_back(settings: Settings) -> None:
    assert Settings.from_mapping(from_json(to_json(settings.to_json()))) == settings
    assert Settings.from_mapping(settings.changed()) == settings


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(
        'target = "price"\nhidden = [32, 16]\nbatch-size = "full"\nlearning_rate = 1e-3\ndrop = ["id"]\n'
        '[types]\nzip = "category"\n',
        encoding="utf-8",
    )
    assert Settings.from_toml(path) == Settings(
        target="price",
        hidden=(32, 16),
        batch_size="full",
        learning_rate=1e-3,
        drop=("id",),
        types={"zip": "category"},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"s\.toml: there is no setting 'epoch'; did you mean 'epochs'\?"),
        ("colour = 3", r"s\.toml: there is no setting 'colour'; there are target, task, .*, engine$"),
        ("epochs = 0", r"s\.toml: epochs must be a whole number of at least 1, not 0"),
        ("epochs = ", r"s\.toml is not valid TOML: Invalid value"),
        ("a = 1\na = 2", r"s\.toml is not valid TOML"),
    ],
)
def test_a_wrong_toml_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Settings.from_toml(tmp_path / "s.toml")


def test_a_toml_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        Settings.from_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        Settings.from_toml(tmp_path)
    (tmp_path / "s.toml").write_bytes(b"target = '\xff'")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        Settings.from_toml(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2.5}, "epochs must be a whole number of at least 1, not 2.5"),
        ({"epochs": True}, "epochs must be"),
        ({"epochs": 10**30}, "epochs must be at most 1000000, not 10{29}"),
        ({"patience": 10**7}, "patience must be at most 1000000, not 10000000"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, or 'full'"),
        ({"batch_size": "all"}, "batch_size must be"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"weight_decay": -1}, "weight_decay must be a number of at least 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
        ({"test_share": 1}, "test_share must be at least 0 and less than 1"),
        ({"hidden": (0,)}, "hidden must be a list of widths"),
        ({"hidden": 3}, "hidden must be a list of widths"),
        ({"activation": "relu"}, "activation must be one of SiLU, ReLU"),
        ({"patience": -1}, "patience must be a whole number of at least 0"),
        ({"class_weight": "heavy"}, "class_weight must be 'balanced'"),
        ({"task": "ranking"}, "task must be one of binary"),
        ({"types": {"zip": "text"}}, "the type of column 'zip' must be one of number, category"),
        ({"types": ["zip"]}, "types must be a table from column to kind"),
        ({"drop": "id"}, "drop must be a list of column names"),
        ({"target": 3}, "target must be text"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"engine": None}, "engine must be the name of an engine"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**changes)
    with pytest.raises(ConfigError, match=message):
        Settings().replace(**changes)
