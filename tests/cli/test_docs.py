"""docs/cli.md names every command, option, setting and exit code that there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import pytest

from chainrule.cli import failures
from chainrule.cli.main import SUBCOMMANDS, chainrule
from chainrule.core.errors import ChainruleError, NonFiniteError
from chainrule.tabular import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", [name for name in SUBCOMMANDS if name != "step"])
def test_every_option_is_described(name: str) -> None:
    command = chainrule.get_command(click.Context(chainrule), name)
    assert command is not None
    options = [
        option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts
    ]
    assert options
    assert [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", section(name))] == []


def test_every_command_is_in_the_table() -> None:
    assert re.findall(r"^\| \[`(\w+) ", PAGE, re.M) == list(SUBCOMMANDS)


def test_every_setting_is_described() -> None:
    names = [entry.name for entry in dataclasses.fields(Settings)]
    assert [name for name in names if not re.search(rf"\b{name}\b", section("train"))] == []


def test_every_exit_code_is_described() -> None:
    codes = [getattr(failures, name) for name in dir(failures) if name.startswith("EXIT_")]
    listed = re.findall(r"^\| (\d+) \|", section("When something is wrong"), re.M)
    assert sorted(map(int, listed)) == sorted({0, ChainruleError.exit_code, NonFiniteError.exit_code, *codes})


def test_the_example_of_settings_is_one(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    (tmp_path / "settings.toml").write_text(example, encoding="utf-8")
    settings = Settings.from_toml(tmp_path / "settings.toml")
    assert settings.hidden == (64, 64)
    assert dict(settings.types) == {"zip": "category"}
