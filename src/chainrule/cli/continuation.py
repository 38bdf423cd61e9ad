"""``chainrule continue``: further training of a finished network, on new rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from chainrule import tabular
from chainrule.cli.options import json_option, quiet_option, sql_option
from chainrule.cli.terminal import Terminal
from chainrule.cli.training import run_training

_EPILOG = """
\b
Examples:
  chainrule continue runs/patients february.csv
  chainrule continue runs/patients february.csv --out runs/patients-february --epochs 20
"""


@click.command("continue", epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("new_data", type=click.Path(path_type=Path))
@sql_option
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="RUN2", help="Leave RUN as it is and make a new run folder."
)
@click.option("--epochs", type=int, metavar="N", help="The most epochs to train.  [default: as many as RUN]")
@click.option("--learning-rate", type=float, metavar="RATE", help="[default: 0.3 times that of RUN]")
@click.option("--force", is_flag=True, help="Replace the folder of --out if it exists.")
@json_option
@quiet_option
def continue_training(
    run: Path,
    new_data: Path,
    sql: str | None,
    out: Path | None,
    epochs: int | None,
    learning_rate: float | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Train the finished network in the folder RUN further, on the rows of the table NEW_DATA.

    The columns, their preprocessing and the classes stay as they were learned. The weights are replaced only when the
    new ones are complete, and only if they are better on rows of NEW_DATA that are held back.
    """
    training = partial(
        tabular.continue_training,
        run,
        new_data,
        sql=sql,
        out=out,
        epochs=epochs,
        learning_rate=learning_rate,
        force=force,
    )
    return run_training(Terminal(json=as_json, quiet=quiet), training, out or run)
