"""Text from data is never obeyed: not by the terminal, not as markup; and streams carry what they should."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest

from chainrule.cli.terminal import Terminal, in_sentence, joined, listing, open_console, printable_json, safe


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


HOSTILE = "[bold red]x[/] \x1b[31m\x9b2J\u202e\r\n:smile:"


def test_hostile_text_is_shown_escaped_and_not_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.say(HOSTILE)
    terminal.line(HOSTILE, (HOSTILE, "bold"))
    terminal.facts([("label", HOSTILE)])
    table = listing(["a"])
    table.add_row(safe(HOSTILE))
    terminal.table(table)
    terminal.warn(HOSTILE)
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert shown.count("[bold red]x[/] \\x1b[31m\\x9b2J\\u202e\\r\\n:smile:") == 6
    assert not any(sign in shown for sign in "\x1b\x9b\u202e\r")


@pytest.mark.parametrize("hostile_title", ["[red]h", "\x1b[31m"])
def test_headings_are_text_too(hostile_title: str, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().table(listing([hostile_title]))
    assert safe(hostile_title) in capsys.readouterr().out


def test_json_mode_keeps_standard_output_for_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(json=True)
    terminal.say("for people")
    terminal.result({"accuracy": np.float32(0.5), "auc": float("nan"), "rows": np.int64(3), "n": [float("inf")]})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"accuracy": 0.5, "auc": None, "rows": 3, "n": [None]}
    assert captured.err == "for people\n"


def test_without_json_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.result({"a": 1})
    terminal.say("for people")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("for people\n", "")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(quiet=True)
    for show in (terminal.say, terminal.line, terminal.warn):
        show("words")
    terminal.facts([("a", "b")])
    terminal.table(listing(["a"]))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_json_is_harmless_on_a_terminal_and_the_same_to_a_program() -> None:
    content = {"größe\x1b\u202e\x9b": "日本\ud800"}
    written = printable_json(content)
    assert all(char.isprintable() or char == "\n" for char in written)
    assert "größe" in written
    assert json.loads(written) == content


def test_nothing_is_wrapped_or_cut_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    long = "word " * 100
    terminal.say(long, indent=2)
    terminal.line(long)
    table = listing(["a"])
    table.add_row("x" * 3000)
    terminal.table(table)
    assert [len(line.rstrip()) for line in capsys.readouterr().out.splitlines()] == [501, 499, 3, 3002]


def on_a_screen(width: int, show: Callable[[Terminal], object]) -> list[str]:
    """What a terminal of that width would get."""
    stream = Screen()
    terminal = Terminal()
    terminal.people = open_console(stream)
    terminal.people.no_color = True
    terminal.people.width = width
    show(terminal)
    return stream.getvalue().splitlines()


def test_paragraphs_are_wrapped_on_a_terminal_and_commands_are_not() -> None:
    assert max(map(len, on_a_screen(40, lambda terminal: terminal.say("word " * 30, indent=4)))) <= 40
    assert max(map(len, on_a_screen(200, lambda terminal: terminal.say("word " * 50)))) <= 100
    assert len(on_a_screen(40, lambda terminal: terminal.line("chainrule predict " + "x" * 100))) == 1


def test_a_narrow_encoding_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    terminal = Terminal()
    terminal.say("größe 日本")
    terminal.people.file.flush()
    assert buffer.getvalue() == b"gr\\xf6\\xdfe \\u65e5\\u672c\n"


def test_a_closed_pipe_is_reported_as_such() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        open_console(Closed()).print("x")


def test_a_command_that_goes_on_without_readers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    terminal = Terminal()
    with pytest.raises(BrokenPipeError):
        terminal.say("x")
    terminal.may_close = True
    terminal.say("x")
    terminal.line("x")
    terminal.facts([("a", "b")])
    assert terminal.closed


def test_numbers_are_written_with_signs_that_can_be_copied() -> None:
    assert safe("12\u202f345 \u22121 97.4\u00a0%") == "12,345 -1 97.4 %"
    assert safe("a\u202fb \u00a0") == "a\\u202fb \\xa0"  # in a name these are no signs of numbers
    assert joined("a", ("b", "bold"), indent=2).plain == "  ab"


@pytest.mark.parametrize(
    ("title", "inside"),
    [("Accuracy", "accuracy"), ("F1", "F1"), ("R²", "R²"), ("Area under the ROC curve", "area under the ROC curve")],
)
def test_titles_inside_a_sentence(title: str, inside: str) -> None:
    assert in_sentence(title) == inside
