"""Measurements that are processes of their own: the command lines that take them, and the one that each of them runs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence


def parser_of(
    module: str, description: str | None, kind: str, names: Sequence[str], seconds: float
) -> argparse.ArgumentParser:
    """The arguments that such command lines share: ``names``, those to measure, ``seconds``, and ``one``."""

    def known(name: str) -> str:
        if name not in names:
            raise argparse.ArgumentTypeError(f"there is no {kind} {name!r}; there are {', '.join(names)}")
        return name

    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    metavar, listed = kind.upper(), ", ".join(names)
    parser.add_argument("names", nargs="*", type=known, default=list(names), metavar=metavar, help=listed)
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"time of steps for each measurement ({seconds})"
    )
    parser.add_argument("--one", action="store_true", help="measure in this process and print the result as JSON")
    return parser


def in_a_process(module: str, name: str, arguments: Sequence[str], cache: str) -> dict[str, float]:
    """What ``--one`` of a module prints for a name, measured in a process with this folder for compiled programs."""
    command = [sys.executable, "-m", module, name, "--one", *arguments]
    environment = {**os.environ, "CHAINRULE_CACHE": cache}
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found
