"""Delimited text: what is refused, with the line it is on, and what is recognised."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from chainrule.core.errors import DataError, MissingExtraError
from chainrule.data.csv_scan import LONGEST_FIELD, Scan
from chainrule.data.tables import Table, read_table


def read(folder: Path, content: str | bytes, name: str = "t.csv") -> tuple[Table, list[str]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    notices: list[str] = []
    return read_table(path, notices=notices), notices


REFUSED = {
    "empty": ("", "t.csv is empty"),
    "white space": (" \n\n\t\n", "t.csv is empty"),
    "header only": ("a,b\n", "t.csv has a header but no rows"),
    "header only, blank lines": ("a,b\n\n\n", "t.csv has a header but no rows"),
    "single row": ("a,b\n1,2\n", "t.csv has a single row"),
    "blank first line": ("\na,b\n1,2\n3,4\n", "line 1: the line is empty where the header should be"),
    "blank header": (",\n1,2\n3,4\n", "line 1: the header is blank"),
    "too few fields": ("a,b,c\n1,2,3\n4,5\n6,7,8\n", "line 3: 2 fields where the header has 3"),
    "too many fields": ("a,b\n1,2\n3,4\n5,6,7\n", "line 4: 3 fields where the header has 2"),
    "many ragged lines": ("a,b\n1\n2\n3,4\n", r"line 2: 1 field where .* \(and 1 more such line"),
    "ragged after quoted lines": ('a,b\n"x\ny\nz",1\n2\n', "line 5: 1 field where the header has 2"),
    "empty line": ("a,b\n1,2\n\n3,4\n", "line 3: the line is empty"),
    "unclosed quote": ('a,b\n1,x\n2,"y\n3,z\n', "line 3: the quote that opens there is never closed"),
    "unclosed quote before others": ('a,b\n1,"x\n2,"y"\n3,"z"\n', "line 2: the quote that opens there is never"),
    "unclosed quote with doubled ones": ('a,b\n1,"x ""q""\n2,y\n', "line 2: the quote that opens there is never"),
    "unclosed quote in the header": ('a,"b\n1,2\n', "line 1: the quote that opens there is never closed"),
    "text after a quote": ('a,b\n"x"y,1\n2,3\n', "line 2: text follows the closing quote"),
    "quote inside a value": ('a,b\n1,"x"\n2,y"z\n3,4"\n', "line 3: a quote character stands inside a value"),
    "NUL": (b"a,b\n1,2\n3,\x004\n", "line 3: there is a NUL byte"),
    "HTML": ("\n <!DOCTYPE html>\n<html><body>a,b</body></html>", "t.csv is an HTML page"),
    "HTML table": ("<table><tr><td>1</td></tr></table>", "t.csv is an HTML page"),
    "XHTML": ('<?xml version="1.0"?>\n<html>\n', "t.csv is an HTML page"),
    "JSON": ('[{"a": 1}, {"a": 2}]', "t.csv is JSON"),
    "workbook": (b"PK\x03\x04\x14\x00\x06\x00", "t.csv is a workbook or an archive"),
    "compressed": (b"\x1f\x8b\x08\x00\x00", "t.csv is compressed"),
    "image": (b"\x89PNG\r\n\x1a\n\x00\x00", "t.csv is an image"),
    "binary": (bytes(range(256)) * 4, "not valid UTF-8|NUL"),
    "undecodable": (b"a,b\n1,x\n2,\xff\xfe\n", "line 3: byte 0xff is not valid UTF-8"),
    "undecodable in Windows-1252": (b"a,b\n1,x\n2,\x81\x8d\n", "line 3: byte 0x81 is not valid UTF-8"),
    "damaged UTF-8": ("a,b\né,ü\nß,".encode() + b"\xc3\n", "line 3: byte 0xc3 is not valid UTF-8"),
    "another alphabet": ("имя,b\nмир,труд\n".encode("cp1251"), "not plausible as UTF-16 or Latin-1"),
    "damaged UTF-16": ("a,b\n1,2\n3,4\n".encode("utf-16") + b"\x00", "line 4: byte 24 is not valid UTF-16"),
    "only a mark": (b"\xef\xbb\xbf\n", "t.csv is empty"),
    "duplicate names": ("a,b,a\n1,2,3\n4,5,6\n", "the column name 'a' appears twice, in fields 1 and 3"),
    "numbers for a header": ("1.5,2\n3,4\n5,6\n", "line 1: the first line holds numbers"),
    "huge field": ("a,b\n1,x\n2," + "y" * 10**6 + "\n", "line 3, column 'b': a value of 1000000 characters"),
    "huge name": ("a," + "b" * 10**6 + "\n1,x\n2,y\n", "line 1, the header, field 2: a value of 1000000 characters"),
    "infinity": ("a,b\n1,2\n3,-Infinity\n", "line 3, column 'b': '-Infinity' is infinite"),
    "overflow": ("a,b\n1,2\n3,1e400\n", "line 3, column 'b': '1e400' is infinite or too large"),
    "infinities alone": ("a,b\n1,inf\n3,inf\n4,5\n", "line 2, column 'b': 'inf' is infinite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence_that_names_the_place(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_terminal_escapes_in_a_file_are_not_repeated_in_messages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice") as caught:
        read(tmp_path, "\x1b[31mred,\x1b[31mred\n1,2\n")
    assert "\x1b" not in str(caught.value)


def test_the_longest_allowed_field_is_read(tmp_path: Path) -> None:
    long = "é" * LONGEST_FIELD
    table, _ = read(tmp_path, f"a,b\n{long},1\nx,2\n")
    assert table.column("a").values[0] == long
    with pytest.raises(DataError, match=f"a value of {LONGEST_FIELD + 1} characters"):
        read(tmp_path, f"a,b\n{long}e,1\nx,2\n")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(delimiter: str, line_end: str, tmp_path: Path) -> None:
    records = [["n", "text", "m"], ["1", "x", "2.5"], ["3", f'"p{delimiter}""q"""', "4"]]
    table, notices = read(tmp_path, line_end.join(delimiter.join(record) for record in records) + line_end)
    assert table.names == ("n", "text", "m")
    assert table.column("n").values.tolist() == [1, 3]
    assert table.column("text").values.tolist() == ["x", f'p{delimiter}"q"']
    assert table.column("m").values.tolist() == [2.5, 4]
    assert table.line_numbers.tolist() == [2, 3]
    assert notices == []


def test_quoted_line_ends_are_kept_and_counted(tmp_path: Path) -> None:
    table, _ = read(tmp_path, 'a,b\r\n"one\r\ntwo",1\r\n"three\nfour\rfive",2\r\nsix,3\r\n')
    assert table.column("a").values.tolist() == ["one\r\ntwo", "three\nfour\rfive", "six"]
    assert table.line_numbers.tolist() == [2, 4, 6]


def test_quote_characters_that_never_begin_a_field_are_ordinary(tmp_path: Path) -> None:
    table, _ = read(tmp_path, 'size,kind\n5",a"b"\n6",c\n')
    assert table.column("size").values.tolist() == ['5"', '6"']
    assert table.column("kind").values.tolist() == ['a"b"', "c"]


def test_the_delimiter_that_splits_all_records_alike_wins(tmp_path: Path) -> None:
    table, _ = read(tmp_path, "name, first;age\nA, b;1\nC, d, e;2\n")
    assert table.names == ("name, first", "age")
    table, _ = read(tmp_path, "a;b,c;d\n1;2,5;3\n4;5,5;6\n")
    assert table.names == ("a", "b,c", "d")
    assert table.column("b,c").values.tolist() == [2.5, 5.5]


def test_a_line_that_names_the_delimiter(tmp_path: Path) -> None:
    table, notices = read(tmp_path, "sep=|\na|b,c,d\n1|2\n3|4\n")
    assert table.names == ("a", "b,c,d")
    assert table.line_numbers.tolist() == [3, 4]
    assert "sep=|" in notices[0]


def test_a_single_column_has_missing_values_in_its_empty_lines(tmp_path: Path) -> None:
    table, _ = read(tmp_path, "a\n1\n\n3\n")
    np.testing.assert_array_equal(table.column("a").values, [1, np.nan, 3])


def test_a_field_without_a_name_is_called_by_its_position_with_a_notice(tmp_path: Path) -> None:
    table, notices = read(tmp_path, ",x,\n0,5,\n1,6,\n2,6,\n")
    assert table.names == ("column_1", "x", "column_3")
    assert any("2 fields without a name in the header, called 'column_1', 'column_3'" in notice for notice in notices)
    assert table.column("column_1").kind == "identifier"
    assert any("column 'column_3': every value is missing" in notice for notice in notices)


def test_a_name_given_to_a_nameless_field_must_not_be_taken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'column_2' appears twice"):
        read(tmp_path, "column_2,\n1,2\n3,4\n")


def test_integers_may_be_names(tmp_path: Path) -> None:
    table, _ = read(tmp_path, "0,1,target\n3,4,5\n6,7,8\n")
    assert table.names == ("0", "1", "target")
    table, _ = read(tmp_path, "0,1\n3,4\n6,7\n")
    assert table.names == ("0", "1")


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    table, _ = read(tmp_path, '" a ","b\nc",d""e\n1,2,3\n4,5,6\n'.replace('d""e', '"d""e"'))
    assert table.names == (" a ", "b\nc", 'd"e')


@pytest.mark.parametrize("name", ["w[1].csv", "a*b?.csv", "it's.csv", "{x}.csv", "é ü.csv"])
def test_file_names_are_not_patterns(name: str, tmp_path: Path) -> None:
    table, _ = read(tmp_path, "a,b\n1,2\n3,4\n", name)
    assert table.rows == 2
    assert table.source == name


def test_a_tab_is_preferred_in_a_tsv_file(tmp_path: Path) -> None:
    content = "a,x\tb,y\n1,2\t3,4\n5,6\t7,8\n"
    assert read(tmp_path, content, "t.tsv")[0].names == ("a,x", "b,y")


def test_duckdb_missing_is_said_with_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chainrule\[tables\]'"):
        read(tmp_path, "a,b\n1,2\n3,4\n")


def test_a_disagreement_with_duckdb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever DuckDB may skip or cut one day, here a body that lost a row or a character, must not go unnoticed."""
    whole = Scan.body
    monkeypatch.setattr(Scan, "body", lambda self: whole(self)[4:])
    with pytest.raises(DataError, match="has 2 rows, but DuckDB reads 1"):
        read(tmp_path, "a,b\n1,2\n3,4\n")
    monkeypatch.setattr(Scan, "body", lambda self: bytes(whole(self)).replace(b"33", b"3"))
    with pytest.raises(DataError, match="column 'a': its values have 3 bytes, but DuckDB reads 2"):
        read(tmp_path, "a,b\n1,2\n33,4\n")
