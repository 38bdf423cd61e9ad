"""What docs/step.md says about ``chainrule step`` is so."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from chainrule.cli.step import step
from chainrule.insight.activations import ACTIVATIONS
from chainrule.insight.losses import LOSSES
from chainrule.insight.network_file import parse_network

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "step.md").read_text(encoding="utf-8")


def table(head: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell, which is a name in backquotes."""
    lines = GUIDE[GUIDE.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def blocks() -> list[str]:
    """The indented blocks of code."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", GUIDE, flags=re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in found]


def test_every_activation_and_loss_is_listed() -> None:
    assert list(table("activation")) == list(ACTIVATIONS)
    assert list(table("loss")) == list(LOSSES)
    for name, (_, last) in table("loss").items():
        assert last.strip("`") == (LOSSES[name].needs or "any")


def test_every_option_is_listed() -> None:
    listed = {name.split()[0] for name in table("option")}
    assert listed == {option.opts[0] for option in step.params if option.opts[0].startswith("--")}


def test_the_lines_shown_are_printed() -> None:
    printed = CliRunner().invoke(step, [str(ROOT / "examples" / "worked_1.toml")]).stdout.splitlines()
    printed += CliRunner().invoke(step, [str(ROOT / "examples" / "worked_3.toml")]).stdout.splitlines()
    formulas = [block for block in blocks() if not block.startswith(("import", "inputs"))]
    shown = [line for block in formulas for line in block.splitlines() if re.match(r"(∂|δ|z_h|h|w2) ?\S* ?[=←] ", line)]
    assert len(shown) >= 10
    for line in shown:
        assert any(found.strip().startswith(line) for found in printed), line


def test_the_file_shown_is_a_network() -> None:
    [text] = [block for block in blocks() if block.startswith("inputs")]
    network = parse_network(tomllib.loads(text), "the guide")
    assert [len(layer.units) for layer in network.layers] == [2, 1]


def test_the_program_shown_runs(capsys: Any) -> None:
    [program] = [block for block in blocks() if block.startswith("import numpy")]
    exec(program, {})
    assert capsys.readouterr().out.count("[") == 10  # two matrices of four rows
