"""What a command that fails says and returns: one line on standard error, and an exit code.

====  =============================================================================================================
code  meaning
====  =============================================================================================================
0     done
2     the input, an option or a file cannot be used; the line says what and why
3     training met a NaN or an infinity and stopped
70    a mistake in Chainrule itself; ``CHAINRULE_DEBUG=1`` shows the traceback
130   interrupted with Ctrl-C (a training has kept its best weights and written its report, if the line says so)
141   whoever read the output closed it
====  =============================================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from chainrule.core.errors import ChainruleError
from chainrule.core.files import reason
from chainrule.core.names import escape_terminal, shown_path

EXIT_USER = 2
EXIT_MISTAKE = 70
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141


class ClosedPipeError(Exception):
    """A BrokenPipeError under a name that click does not catch."""


@contextlib.contextmanager
def telling_closed_pipes() -> Iterator[None]:
    """Click would end the process with exit code 1 at a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError as error:
        raise ClosedPipeError from error


def run_guarded(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit code; whatever it raises becomes one line on standard error."""
    try:
        code = command()
        sys.stdout.flush()
    except (BrokenPipeError, ClosedPipeError):
        _discard_output()
        return EXIT_CLOSED_PIPE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_USER if error.code else 0
    except BaseException as error:
        return _tell(error)
    return code if isinstance(code, int) else 0


def describe(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code for an exception."""
    if isinstance(error, click.UsageError):
        return _usage(error), EXIT_USER
    if isinstance(error, click.ClickException):
        return error.format_message(), EXIT_USER
    if isinstance(error, click.exceptions.Exit):
        return "", error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted", EXIT_INTERRUPTED
    if isinstance(error, ChainruleError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f' ({error})' if str(error) else ''}", EXIT_USER
    if isinstance(error, OSError) and error.errno is not None:
        named = f"{shown_path(Path(os.fsdecode(error.filename)))}: " if error.filename is not None else ""
        return f"{named}{'it does not exist' if error.errno == errno.ENOENT else reason(error)}", EXIT_USER
    return (
        f"a mistake in Chainrule itself ({type(error).__name__}: {escape_terminal(error, limit=200)}); please report it "
        "with what the same command prints under CHAINRULE_DEBUG=1"
    ), EXIT_MISTAKE


def _usage(error: click.UsageError) -> str:
    message = error.format_message().strip().rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else "chainrule"
    return f"{message[:1].lower()}{message[1:]}; see {path} --help"


def _tell(error: BaseException) -> int:
    sentence, code = describe(error)
    with contextlib.suppress(BrokenPipeError):
        if os.environ.get("CHAINRULE_DEBUG", "") not in ("", "0") and sentence:
            traceback.print_exception(error)
        if sentence:
            _write_line(f"chainrule: {escape_terminal(sentence)}")
    return code


def _write_line(line: str) -> None:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stderr.flush()


def _discard_output() -> None:
    """Points standard output at nothing, or Python would complain when it flushes the rest at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
