"""Encodings: the same table in each of them, with a notice where something had to be recognised."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrule.data.csv_encoding import to_utf8
from chainrule.data.tables import read_table

TEXT = "größe,preis\nklein,1\ncafé,2\n"


@pytest.mark.parametrize(
    ("codec", "notice"),
    [
        ("utf-8", None),
        ("utf-8-sig", "UTF-8 recognised by its byte-order mark"),
        ("utf-16", "UTF-16 recognised by its byte-order mark"),
        ("utf-16-le", "UTF-16 without a byte-order mark recognised"),
        ("utf-16-be", "UTF-16 without a byte-order mark recognised"),
        ("utf-32", "UTF-32 recognised by its byte-order mark"),
        ("latin-1", "not UTF-8 (first at line 1) and was read as Latin-1"),
    ],
)
def test_the_same_table_in_every_encoding(codec: str, notice: str | None, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.encode(codec))
    notices: list[str] = []
    table = read_table(path, notices=notices)
    assert table.names == ("größe", "preis")
    assert table.column("größe").values.tolist() == ["klein", "café"]
    if notice is None:
        assert notices == []
    else:
        assert len(notices) == 1
        assert notice in notices[0]


def test_big_endian_mark() -> None:
    notices: list[str] = []
    assert to_utf8(b"\xfe\xff" + TEXT.encode("utf-16-be"), "t.csv", notices) == TEXT.encode()
    assert "UTF-16" in notices[0]


def test_windows_characters_are_not_turned_into_controls() -> None:
    notices: list[str] = []
    assert to_utf8("preis,währung\n5,€\n".encode("cp1252"), "t.csv", notices) == "preis,währung\n5,€\n".encode()
    assert "Windows-1252" in notices[0]


def test_symbols_alone_are_plausible_latin1() -> None:
    text = "t,u\n" + "1°,5µ\n" * 50
    assert to_utf8(text.encode("latin-1"), "t.csv", []) == text.encode()
