"""``chainrule evaluate``: how good a trained network is on other rows."""

from __future__ import annotations

from pathlib import Path

import click

from chainrule import tabular
from chainrule.cli.options import json_option, quiet_option, sql_option
from chainrule.cli.outcome import evaluation_as_json, show_evaluation
from chainrule.cli.terminal import Terminal

_EPILOG = """
\b
Examples:
  chainrule evaluate runs/patients later.csv
  chainrule evaluate runs/patients later.csv --json | jq .metrics.accuracy
"""


@click.command(epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@sql_option
@json_option
@quiet_option
def evaluate(run: Path, data: Path, sql: str | None, as_json: bool, quiet: bool) -> None:
    """Score the network in the folder RUN on the table DATA, which has the target column too.

    The scores stand beside those of a constant answer. Nothing is learned, and nothing is written.
    """
    terminal = Terminal(json=as_json, quiet=quiet)
    notices: list[str] = []
    evaluation = tabular.evaluate(run, data, sql=sql, notices=notices)
    for notice in notices:
        terminal.warn(notice)
    show_evaluation(terminal, evaluation)
    terminal.result(evaluation_as_json(run, evaluation))
