"""The command ``chainrule``: finds the subcommand, and turns whatever goes wrong into one line and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from chainrule.cli.failures import run_guarded, telling_closed_pipes
from chainrule.core.names import hint


class Subcommand(NamedTuple):
    """The module that defines a subcommand, its name there, and the line about it in the list of all."""

    module: str
    attribute: str
    summary: str


SUBCOMMANDS = {
    "train": Subcommand("chainrule.cli.train", "train", "Train a network on a table, and check it."),
    "evaluate": Subcommand("chainrule.cli.evaluate", "evaluate", "Score a trained network on a table with its target."),
    "predict": Subcommand("chainrule.cli.predict", "predict", "Predict the target for every row of a table."),
    "resume": Subcommand("chainrule.cli.resume", "resume", "Finish a training that was interrupted or killed."),
    "continue": Subcommand(
        "chainrule.cli.continuation", "continue_training", "Train a finished network further, on new rows."
    ),
    "show": Subcommand("chainrule.cli.show", "show", "Show a run, or compare several."),
    "profile": Subcommand("chainrule.cli.profile", "profile", "Show where the time of a run's training step goes."),
    "step": Subcommand("chainrule.cli.step", "step", "Print one whole training step, number by number."),
}

_EXAMPLES = """
\b
Examples:
  chainrule train patients.csv --target diagnosis
  chainrule predict runs/patients new.csv -o predictions.csv
  chainrule evaluate runs/patients later.csv
  chainrule show runs/patients runs/patients-2
  chainrule step examples/worked_1.toml
"""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is asked for.

    This is the one place in Chainrule where a module of its own is imported late: ``chainrule --help`` must answer at
    once, and a command must not wait for what only other commands need.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with telling_closed_pipes():  # --help is written here
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with telling_closed_pipes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = SUBCOMMANDS.get(cmd_name)
        if found is None:
            return None
        command = getattr(importlib.import_module(found.module), found.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{found.module}.{found.attribute} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in SUBCOMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command '{args[0]}'; {hint(args[0], SUBCOMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in SUBCOMMANDS.items()])


@click.group(
    cls=LazyGroup,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(package_name="chainrule", message="chainrule %(version)s")
@click.pass_context
def chainrule(context: click.Context) -> None:
    """Train neural networks on tables, from the command line.

    A command and its options are explained by chainrule COMMAND --help. Results go to standard output, everything else
    to standard error. A command that fails says why in one line and exits with 2 (the input cannot be used), 3 (training
    met a NaN), 70 (a mistake in Chainrule) or 130 (interrupted).
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (by default the process's own) and returns its exit code."""
    given = None if arguments is None else list(arguments)
    return run_guarded(lambda: chainrule.main(args=given, prog_name="chainrule", standalone_mode=False))


def main() -> None:
    """The entry point of the program ``chainrule``."""
    sys.exit(run())
