"""``chainrule predict``: the target for every row of a table."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import click

from chainrule import tabular
from chainrule.cli.options import quiet_option, refuse_part_of_run, sql_option
from chainrule.cli.terminal import Terminal
from chainrule.core.errors import ConfigError
from chainrule.core.names import escape_terminal, shown_path
from chainrule.report.formats import count

_STANDARD_OUTPUT = Path("-")
_EPILOG = """
\b
Examples:
  chainrule predict runs/patients new.csv -o predictions.csv
  chainrule predict runs/patients new.csv -o - | head
"""


@click.command(epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="The CSV file to write, replaced if it exists; - is standard output.",
)
@sql_option
@quiet_option
def predict(run: Path, data: Path, output: Path, sql: str | None, quiet: bool) -> None:
    """Predict the target for every row of the table DATA with the network in the folder RUN.

    FILE gets a column prediction and, for classes, a column probability_<class> for each, with the rows in the order of
    DATA. It is written wholly or not at all. DATA needs the columns that the network was trained on; others, and the
    target, are not looked at.
    """
    if output.exists() and data.exists() and output.samefile(data):
        raise ConfigError(f"{shown_path(output)} is the table itself; write the predictions to another file")
    refuse_part_of_run(run, output)
    terminal = Terminal(quiet=quiet)
    predictions = tabular.predict(run, data, sql=sql)
    if output == _STANDARD_OUTPUT:
        _write_to_standard_output(predictions)
    else:
        predictions.write(output)
    for notice in predictions.notices:
        terminal.warn(notice)
    if output != _STANDARD_OUTPUT:
        terminal.line(f"{count(len(predictions))} predictions written to {output}")


def _write_to_standard_output(predictions: tabular.Predictions) -> None:
    with tempfile.TemporaryDirectory(prefix="chainrule-") as folder:
        file = Path(folder, "predictions.csv")
        predictions.write(file)
        predictions.notices[:] = [notice.replace(shown_path(file), "the output") for notice in predictions.notices]
        with file.open("rb") as written:
            if sys.stdout.isatty():
                for line in written:  # a class may be named by what a terminal would obey
                    click.echo(escape_terminal(line.decode("utf-8").rstrip("\r\n")))
            else:
                shutil.copyfileobj(written, sys.stdout.buffer)
    sys.stdout.flush()
