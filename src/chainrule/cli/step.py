"""``chainrule step FILE``: one whole training step of a small network, number by number."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from chainrule.core.names import shown_path
from chainrule.insight.explanation import TrainingStep
from chainrule.insight.network_file import read_network
from chainrule.insight.step_text import (
    as_ascii,
    conclusion,
    introduction,
    learning_data,
    step_lines,
    table_lines,
)
from chainrule.insight.training_step import StepProgram, learn

MOST_STEPS = 1_000_000
_STEPS_UNTIL = 100_000  # where only the loss to reach is given
_WIDTH_OF_A_FILE = 100
_LEAST_WIDTH = 60
_SAMPLE = "∂ŷδΣη½²·−→←√π…"


@click.command("step")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1, MOST_STEPS), metavar="N", help="Repeat the step, at most N times (1).")
@click.option(
    "--until",
    type=click.FloatRange(0, min_open=True),
    metavar="LOSS",
    help="Stop when the loss is below LOSS; stop_below in the file says the same.",
)
@click.option("--all", "every", is_flag=True, help="Print every step in full, not only the first and the last.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as one JSON object.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Write dL/dw for ∂L/∂w: no sign outside ASCII.")
def step(file: Path, steps: int | None, until: float | None, every: bool, as_json: bool, ascii_only: bool) -> None:
    """Print one whole training step of the small network in FILE, number by number.

    FILE is a TOML file with inputs, targets, weights, activations, a loss and a learning rate. Shown are the forward pass,
    every local derivative, the chain-rule product for each weight, and the update, to 9 significant digits.
    """
    network = read_network(file)
    program = StepProgram(network)
    most = steps if steps is not None else 1 if until is None else _STEPS_UNTIL
    threshold = until if until is not None else network.stop_below if most > 1 else None
    page = _Page(silent=as_json, ascii_only=ascii_only)
    shown: list[TrainingStep] = []

    def show(number: int, parameters: Sequence[Any]) -> None:
        shown.append(program.explain(parameters, number))
        if most > 1:
            page.write(["", f"Step {number}", "=" * len(f"Step {number}")])
        page.write(step_lines(shown[-1], page.width))
        if not as_json:
            shown.clear()

    def before(number: int, parameters: Sequence[Any]) -> None:
        if number == 1 or every:
            show(number, parameters)

    page.write(introduction(network, shown_path(file)))
    learning = learn(program, most, threshold, before)
    if len(learning.rows) > 1:
        page.write(["", "Loss and outputs at the beginning of each step"])
        page.write(table_lines(network, learning.rows, page.width))
        if not every:
            show(len(learning.rows), learning.last)
    page.write(["", *conclusion(network, learning, page.width)])
    if as_json:
        data = learning_data(shown_path(file), network, learning, shown)
        click.echo(json.dumps(data, indent=2, ensure_ascii=page.ascii_only, allow_nan=False))


class _Page:
    """Standard output: how wide it is, and whether it can show mathematical signs."""

    def __init__(self, *, silent: bool, ascii_only: bool) -> None:
        self.silent = silent
        self.ascii_only = ascii_only or not _can_show(_SAMPLE)
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_OF_A_FILE
        self.width = max(_LEAST_WIDTH, columns)

    def write(self, lines: Iterable[str]) -> None:
        if not self.silent:
            text = "\n".join(lines)
            click.echo(as_ascii(text) if self.ascii_only else text)


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
