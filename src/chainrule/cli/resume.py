"""``chainrule resume``: the rest of a training that was cut short."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from chainrule import tabular
from chainrule.cli.options import json_option, quiet_option
from chainrule.cli.terminal import Terminal
from chainrule.cli.training import run_training

_EPILOG = """
\b
Example:
  chainrule resume runs/patients
"""


@click.command(epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@json_option
@quiet_option
def resume(run: Path, as_json: bool, quiet: bool) -> int:
    """Finish the training in the folder RUN, which was interrupted or killed, from its newest checkpoint.

    The data must be where they were, unchanged. The weights come out bit for bit as if training had never stopped.
    """
    return run_training(Terminal(json=as_json, quiet=quiet), partial(tabular.resume, run), run)
