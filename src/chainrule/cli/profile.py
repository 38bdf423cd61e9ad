"""``chainrule profile``: where the time of a run's training step goes."""

from __future__ import annotations

from pathlib import Path

import click

from chainrule import tabular
from chainrule.cli.options import refuse_part_of_run
from chainrule.core.files import write_text
from chainrule.core.names import escape_terminal

_EPILOG = """
\b
Example:
  chainrule profile runs/patients
"""


@click.command(epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--repeats", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Steps to measure.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the profile to FILE too."
)
def profile(run: Path, repeats: int, json_file: Path | None) -> None:
    """Show where the time of a training step of the run in the folder RUN goes, loop nest by loop nest.

    The step is compiled by the cpu engine, whatever engine the run was trained with. The data must be where they were,
    unchanged; where they are not, the inference graph is profiled instead, and the first line says so. Nothing is learned.
    """
    if json_file is not None:
        refuse_part_of_run(run, json_file)
    found = tabular.profile(run, repeats=repeats)
    click.echo(f"Profile of {escape_terminal(found.subject)}.\n")
    click.echo("\n".join(escape_terminal(line) for line in str(found.profile).splitlines()))
    if json_file is not None:
        write_text(json_file, found.profile.to_json() + "\n")
