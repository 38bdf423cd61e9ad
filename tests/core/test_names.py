"""Names from outside are made harmless or refused, never passed on as they are."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.core.errors import WeightsError
from chainrule.core.names import escape_terminal, hint, nearest, safe_file_name, safe_tensor_name, tensor_name_part

ANY_TEXT = st.text(st.characters(), max_size=300)  # also control characters and lone surrogates
NASTY_TEXT = st.text(st.sampled_from('a.~ /\\:%*?"<>|\0\x1b\n\u202e\u200bCONnul1é日\ud800'), max_size=12)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mean radius, μm", "mean radius, μm"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of the same escape
        ("a\nb\r\tc\x00\x7f", r"a\nb\r\tc\x00\x7f"),
        ("abc\u202edef", r"abc\u202edef"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028separator", r"line\u2028separator"),
        ("lone \ud800 surrogate", r"lone \ud800 surrogate"),
        ("tag \U000e0041", r"tag \U000e0041"),
        (Path("a/b\n"), r"a/b\n"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: object, shown: str) -> None:
    assert escape_terminal(text) == shown


@given(ANY_TEXT)
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = escape_terminal(text)
    assert shown.isprintable()
    assert escape_terminal(shown) == shown
    assert len(escape_terminal(text, limit=20)) <= 20


@pytest.mark.parametrize(
    "name", ["w", "layers.2.weight", "encoder.layers.0.linear.bias", "größe", "mean radius", "x" * 512]
)
def test_ordinary_tensor_names_pass(name: str) -> None:
    assert safe_tensor_name(name) == name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "empty"),
        ("../../etc/passwd", "path separator"),
        ("..", "part"),
        ("a..b", "part"),
        (".hidden", "part"),
        ("layers.", "part"),
        ("a\\b", "path separator"),
        ("a\x00b", "cannot be printed"),
        ("\x1b[2J", "cannot be printed"),
        ("w\u202e", "cannot be printed"),
        ("\ud800", "cannot be printed"),
        ("x" * 513, "513 characters"),
        ("__metadata__", "reserves"),
    ],
)
def test_hostile_tensor_names_are_refused_in_one_printable_sentence(name: str, problem: str) -> None:
    with pytest.raises(WeightsError, match=problem) as caught:
        safe_tensor_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@given(ANY_TEXT | NASTY_TEXT)
def test_any_text_becomes_one_part_of_a_tensor_name(text: str) -> None:
    part = tensor_name_part(text)
    assert "." not in part
    assert safe_tensor_name(f"columns.{part}.table")


@given(NASTY_TEXT | ANY_TEXT, NASTY_TEXT | ANY_TEXT)
def test_different_texts_become_different_names(one: str, other: str) -> None:
    if one != other:
        assert tensor_name_part(one) != tensor_name_part(other)
    if one.casefold() != other.casefold() and one.lower() != other.lower():
        assert safe_file_name(one) != safe_file_name(other)


def test_long_texts_that_differ_at_the_end_become_different_names() -> None:
    assert tensor_name_part("é" * 500 + "a") != tensor_name_part("é" * 500 + "b")
    assert safe_file_name("é" * 500 + "a") != safe_file_name("é" * 500 + "b")


@pytest.mark.parametrize("name", ["report", "model-2.safetensors", "größe", "two words", "console"])
def test_harmless_file_names_stay_as_they_are(name: str) -> None:
    assert safe_file_name(name) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("km/h", "km%2Fh"),
        ("..", "%2E."),
        ("../x", "%2E.%2Fx"),
        ("CON", "%43ON"),
        ("nul.txt", "%6Eul.txt"),
        ("ends with dot.", "ends with dot%2E"),
        ("100%", "100%25"),
        ("a\nb", "a%0Ab"),
        ("", "%"),
    ],
)
def test_file_names_that_a_system_would_refuse_or_follow_are_encoded(name: str, safe: str) -> None:
    assert safe_file_name(name) in (safe, safe[:-1] + "%2E")


@given(NASTY_TEXT | ANY_TEXT)
def test_any_text_becomes_a_portable_file_name(text: str) -> None:
    name = safe_file_name(text)
    assert 0 < len(name.encode("utf-8")) <= 203
    assert not set(name) & set('<>:"/\\|?*')
    assert name.isprintable()
    assert name[0] != "."
    assert name[-1] not in ". "
    assert name.split(".")[0].strip().upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}


def test_any_file_name_can_be_created(tmp_path: Path) -> None:
    for number, text in enumerate(["a/b", "..", "\0", "é" * 300, "\ud800", "", string.punctuation]):
        (tmp_path / safe_file_name(text)).write_text(str(number))
    assert len(list(tmp_path.iterdir())) == 7


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("diagnossis", "diagnosis"),
        ("Diagnosis", "diagnosis"),
        ("mean-radius", "mean radius"),
        ("mean_raduis", "mean radius"),
        (" price ", "price"),
        ("zzz", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_the_one_meant(name: str, meant: str | None) -> None:
    assert nearest(name, ["id", "diagnosis", "mean radius", "mean area", "price"]) == meant


def test_there_is_no_nearest_name_among_none() -> None:
    assert nearest("x", []) is None


def test_a_hint_is_the_nearest_name_or_all_there_are() -> None:
    assert hint("epoch", ["epochs", "seed"]) == "did you mean 'epochs'?"
    assert hint("colour", ["epochs", "se\x1b[0med"]) == "there are epochs, se\\x1b[0med"
    assert hint("colour", []) == "there are none"
