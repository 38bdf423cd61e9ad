"""``chainrule train``: from a table to a checked network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from chainrule import tabular
from chainrule.cli.options import batch_size, column_kinds, free_run_folder, json_option, quiet_option, sql_option
from chainrule.cli.terminal import Terminal
from chainrule.cli.training import run_training
from chainrule.core.errors import ConfigError
from chainrule.tabular import Settings
from chainrule.transforms.engines import engine_named

_EPILOG = """
\b
Examples:
  chainrule train patients.csv --target diagnosis
  chainrule train houses.parquet --target price --drop id --type zip=category --out runs/houses
  chainrule train visits.csv --target outcome --group patient --epochs 200 --seed 7
  chainrule train shop.duckdb --sql "SELECT * FROM orders" --target returned --time ordered_at
  chainrule train patients.csv --config settings.toml --json > result.json

Ctrl-C ends training after the present step, keeps the best weights so far, evaluates them and writes the report;
the exit code is then 130, and chainrule resume goes on. A second Ctrl-C ends the command at once.
"""


@click.command(epilog=_EPILOG)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--target", metavar="COLUMN", help="The column to predict. Required, here or in the config file.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="RUN", help="The run folder.  [default: runs/<name of DATA>]"
)
@click.option("--task", metavar="T", help="binary, multiclass, classification or regression.  [default: by the target]")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="COLUMN=KIND",
    help="Read a column as number, category, boolean, date or identifier. May be repeated.",
)
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out. May be repeated.")
@click.option("--group", metavar="COLUMN", help="Rows with the same value here stay in the same part of the split.")
@click.option("--time", metavar="COLUMN", help="Hold out the latest rows by this column, not random ones.")
@sql_option
@click.option("--epochs", type=int, metavar="N", help="The most epochs to train.")
@click.option("--batch-size", callback=batch_size, metavar="B", help="Examples per update, or full for all of them.")
@click.option("--seed", type=int, metavar="S", help="Governs split, initial weights, order and dropout.  [default: 0]")
@click.option("--engine", metavar="E", help="What runs the training steps: auto, cpu or reference.  [default: auto]")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Read settings from a TOML file; options given here count more.",
)
@click.option("--force", is_flag=True, help="Replace the run folder if it exists.")
@json_option
@quiet_option
def train(
    data: Path,
    out: Path | None,
    types: tuple[str, ...],
    drop: tuple[str, ...],
    config: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Train a network on the table DATA to predict one of its columns, and check it on rows held out.

    DATA is a CSV file (separated by commas, semicolons or tabs), a Parquet file, or with --sql a DuckDB or SQLite
    database. The task and the kinds of the columns are recognised; the network, its weights, a report and everything
    else needed to predict, resume and reproduce go to the run folder.
    """
    settings = Settings() if config is None else Settings.from_toml(config)
    changes = {name: value for name, value in given.items() if value is not None}
    settings = settings.replace(
        **changes, types={**settings.types, **column_kinds(types)}, drop=tuple(dict.fromkeys((*settings.drop, *drop)))
    )
    if settings.target is None:
        raise ConfigError("say which column to predict with --target COLUMN")
    engine_named(settings.engine)  # refuses an unknown one before anything is read
    folder = out or free_run_folder(data, force=force)
    training = partial(tabular.train, data, out=folder, settings=settings, force=force)
    return run_training(Terminal(json=as_json, quiet=quiet), training, folder)
