"""``chainrule continue``: further training of a finished network, on new rows."""

from __future__ import annotations

from pathlib import Path

import click

from chainrule import tabular
from chainrule.cli.options import json_option, quiet_option
from chainrule.cli.terminal import Terminal
from chainrule.cli.training import run_training

_EPILOG = """
\b
Example:
  chainrule continue runs/patients february.csv
"""


@click.command("continue", epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("new_data", type=click.Path(path_type=Path))
@json_option
@quiet_option
def continue_training(run: Path, new_data: Path, as_json: bool, quiet: bool) -> int:
    """Train the finished network in the folder RUN further, on the rows of the table NEW_DATA.

    The columns and their preprocessing stay as they were learned.
    """
    terminal = Terminal(json=as_json, quiet=quiet)
    return run_training(terminal, lambda callbacks: tabular.continue_training(run, new_data, callbacks=callbacks), run)
