"""Whatever a command raises becomes one line on standard error and the exit code that the documentation names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click
import pytest

from chainrule.cli.failures import describe, run_guarded
from chainrule.core.errors import DataError, NonFiniteError


def failing(error: BaseException) -> int:
    def command() -> None:
        raise error

    return run_guarded(command)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a.csv, line 3: too few cells"), 2, "chainrule: a.csv, line 3: too few cells\n"),
        (NonFiniteError("the loss is NaN in layers.0"), 3, "chainrule: the loss is NaN in layers.0\n"),
        (click.BadParameter("wrong"), 2, "chainrule: invalid value: wrong; see chainrule --help\n"),
        (click.FileError("x.toml", "gone"), 2, "chainrule: Could not open file 'x.toml': gone\n"),
        (KeyboardInterrupt(), 130, "chainrule: interrupted\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "chainrule: the disk is full\n"),
        (PermissionError(errno.EACCES, "no", "secret.csv"), 2, "chainrule: secret.csv: permission was denied\n"),
        (
            MemoryError("Unable to allocate 9 TiB"),
            2,
            "chainrule: there is not enough memory (Unable to allocate 9 TiB)\n",
        ),
    ],
)
def test_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(error) == code
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


def test_a_mistake_of_our_own_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHAINRULE_DEBUG", raising=False)
    assert failing(ZeroDivisionError("division by zero")) == 70
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "ZeroDivisionError: division by zero" in line
    assert "CHAINRULE_DEBUG=1" in line
    assert "Traceback" not in line


def test_the_traceback_is_shown_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAINRULE_DEBUG", "1")
    assert failing(ZeroDivisionError("division by zero")) == 70
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.splitlines()[-1].startswith("chainrule: a mistake in Chainrule itself")


def test_a_hostile_name_in_a_message_cannot_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    failing(DataError("column '\x1b[2J\u202eevil\nchainrule: all is well' is missing"))
    assert capsys.readouterr().err == "chainrule: column '\\x1b[2J\\u202eevil\\nchainrule: all is well' is missing\n"


def test_a_closed_pipe_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(BrokenPipeError()) == 141
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (130, 130), ("text", 0)])
def test_a_command_may_return_its_exit_code(result: object, code: int) -> None:
    assert run_guarded(lambda: result) == code


@pytest.mark.parametrize(("given", "code"), [(None, 0), (5, 5), ("words", 2)])
def test_exits_keep_their_code(given: str | int | None, code: int) -> None:
    assert failing(SystemExit(given)) == code


def test_usage_errors_name_the_command() -> None:
    command = click.Command("train")
    context = click.Context(command, info_name="chainrule train")
    sentence, code = describe(click.UsageError("Missing option '--target'.", ctx=context))
    assert (sentence, code) == ("missing option '--target'; see chainrule train --help", 2)


def test_a_file_in_an_error_is_escaped() -> None:
    sentence, _ = describe(FileNotFoundError(errno.ENOENT, "no", Path("a\x1b.csv")))
    assert sentence == "a\\x1b.csv: it does not exist"
