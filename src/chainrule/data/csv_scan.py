r"""Where the records and fields of a delimited text are, found without a guess and checked record by record.

The dialect is RFC 4180's with any of four delimiters: records end with LF, CRLF or CR; a field that begins with ``"``
ends with the next ``"`` that is not doubled, and may hold delimiters and line ends. If no field of the file begins
with a quote character, quotes are ordinary characters (``5" pipe``).

Whether a byte is inside quotes is the parity of the number of quotes before it, because a doubled quote counts twice;
so everything here is a few passes of NumPy over the bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import DataError
from chainrule.data.columns import shown

DELIMITERS = (b",", b";", b"\t", b"|")
LONGEST_FIELD = 131_072  # characters
_QUOTE, _LF, _CR = 34, 10, 13
_BLOCK = 1 << 24
_SAMPLE = 1 << 20
_SEPARATOR_LINE = re.compile(rb"sep=([,;\t|])(?:\r\n|\n|\r)", re.IGNORECASE)

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scan:
    """``text`` with LF as the end of every record, the last included, and the position of the end of every field.

    ``ends`` has the shape (records, fields), the header being record 0; ``lines`` holds the line on which each record
    begins, counted from 1 in the file as it was; ``quoted`` says that quote characters quote.
    """

    text: bytes
    delimiter: bytes
    quoted: bool
    ends: Positions
    lines: Positions

    def header(self) -> list[str]:
        """The fields of record 0, unquoted."""
        bounds = [-1, *self.ends[0].tolist()]
        fields = [self.text[start + 1 : end].decode("utf-8") for start, end in pairwise(bounds)]
        if not self.quoted:
            return fields
        return [field[1:-1].replace('""', '"') if field.startswith('"') else field for field in fields]

    def body(self) -> memoryview:
        """The text of all records but the header."""
        return memoryview(self.text)[int(self.ends[0, -1]) + 1 :]

    def content_bytes(self) -> Positions:
        """The bytes of every value, without its quoting, in all records but the header: (records - 1, fields)."""
        flat = self.ends.ravel()
        lengths = np.diff(flat, prepend=-1) - 1
        if self.quoted:
            fields, quotes = np.unique(np.searchsorted(flat, positions_of(self.text, _QUOTE)), return_counts=True)
            lengths[fields] -= quotes // 2 + 1  # the two around the value, and one of each doubled pair inside
        return lengths.reshape(self.ends.shape)[1:]


def scan(text: bytes, source: str, *, tabs_first: bool, notices: list[str]) -> Scan:
    """Finds the dialect and all fields of ``text`` (UTF-8).

    Raises DataError, naming ``source`` and the line, for a quote that is never closed or is misplaced, for records
    that have another number of fields than the header, for an empty line between records, and for a field of more
    than :data:`LONGEST_FIELD` characters.
    """
    first_line = 1
    announced = _SEPARATOR_LINE.match(text)
    if announced:
        notices.append(f"{source}: the first line, 'sep={announced[1].decode()}', names the delimiter")
        text, first_line = text[announced.end() :], 2
    text = text.rstrip(b"\r\n")
    if not text:
        raise DataError(f"{source} is empty")
    delimiter = announced[1] if announced else _choose_delimiter(text, tabs_first)
    quoted = _uses_quotes(text, delimiter)
    text = _end_records_with_lf(text + b"\n", quoted)
    if quoted:
        _check_quotes(text, delimiter, source, first_line)
    separators = _separators(text, delimiter, quoted)
    newlines = positions_of(text, _LF)
    is_end = np.frombuffer(text, np.uint8)[separators] == _LF
    record_ends = np.flatnonzero(is_end)
    widths = np.diff(record_ends, prepend=-1)
    starts = np.concatenate([[0], separators[record_ends[:-1]] + 1])
    lines = first_line + np.searchsorted(newlines, starts).astype(np.int64)
    _check_widths(text, starts, widths, lines, delimiter, source)
    result = Scan(text, delimiter, quoted, separators.reshape(len(widths), -1), lines)
    _check_lengths(result, source)
    return result


def positions_of(text: bytes, byte: int) -> Positions:
    """The positions of ``byte`` in ``text``, ascending."""
    array = np.frombuffer(text, np.uint8)
    blocks = [np.flatnonzero(array[low : low + _BLOCK] == byte) + low for low in range(0, len(array), _BLOCK)]
    return np.concatenate(blocks).astype(np.int64, copy=False)


def _choose_delimiter(text: bytes, tabs_first: bool) -> bytes:
    """The delimiter that splits the header and, most consistently, the records after it; a comma if none does."""
    sample = text[:_SAMPLE]
    best, best_score = b"\t" if tabs_first else b",", (0.0, 0, 0)
    for delimiter in DELIMITERS:
        quoted = _uses_quotes(sample, delimiter)
        ended = _end_records_with_lf(sample + b"\n", quoted)
        separators = _separators(ended, delimiter, quoted)
        is_end = np.frombuffer(ended, np.uint8)[separators] == _LF
        widths = np.diff(np.flatnonzero(is_end), prepend=-1)
        if len(widths) > 2 and len(text) > len(sample):
            widths = widths[:-1]
        if not len(widths) or widths[0] < 2:
            continue
        consistency = float((widths == widths[0]).mean())
        score = (consistency, int(tabs_first and delimiter == b"\t"), int(widths[0]))
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _uses_quotes(text: bytes, delimiter: bytes) -> bool:
    return b'"' in text and (
        text.startswith(b'"') or re.search(b"[\n\r" + re.escape(delimiter) + b']"', text) is not None
    )


def _separators(text: bytes, delimiter: bytes, quoted: bool) -> Positions:
    """The positions of all delimiters and line feeds outside quotes."""
    array = np.frombuffer(text, np.uint8)
    found: list[NDArray[np.intp]] = []
    parity = np.uint8(0)
    for low in range(0, len(array), _BLOCK):
        block = array[low : low + _BLOCK]
        mask = (block == delimiter[0]) | (block == _LF)
        if quoted:
            inside, parity = _inside_quotes(block, parity)
            mask &= ~inside
        found.append(np.flatnonzero(mask) + low)
    return np.concatenate(found).astype(np.int64, copy=False)


def _inside_quotes(block: Bytes, parity: np.uint8) -> tuple[NDArray[np.bool_], np.uint8]:
    """Which bytes of a block follow an odd number of quotes, given the parity before the block; and that after it."""
    count = np.cumsum(block == _QUOTE, dtype=np.uint8)  # wraps around at 256, which leaves the parity right
    count += parity
    return (count & 1).astype(np.bool_), np.uint8(count[-1] & 1)


def _end_records_with_lf(text: bytes, quoted: bool) -> bytes:
    """``text`` with CRLF and CR outside quotes as LF."""
    if b"\r" not in text:
        return text
    if not quoted:
        return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    array = np.frombuffer(text, np.uint8).copy()
    returns: list[NDArray[np.intp]] = []
    parity = np.uint8(0)
    for low in range(0, len(array), _BLOCK):
        inside, parity = _inside_quotes(array[low : low + _BLOCK], parity)
        returns.append(np.flatnonzero((array[low : low + _BLOCK] == _CR) & ~inside) + low)
    positions = np.concatenate(returns)
    with_lf = positions[array[positions + 1] == _LF]  # the text ends with LF, so there is a next byte
    array[positions] = _LF
    return np.delete(array, with_lf).tobytes()


def _check_quotes(text: bytes, delimiter: bytes, source: str, first_line: int) -> None:
    """Every quote must open a field, close one before its end, or be doubled inside one."""
    array = np.frombuffer(text, np.uint8)
    quotes = positions_of(text, _QUOTE)
    unclosed = len(quotes) % 2 == 1
    opening, closing = quotes[0::2], quotes[1::2]
    is_boundary = np.zeros(256, np.bool_)
    is_boundary[[delimiter[0], _LF]] = True
    begins = is_boundary[array[opening - 1]] | (opening == 0)
    continues = np.zeros(len(opening), np.bool_)
    continues[1:] = opening[1:] == closing[: len(opening) - 1] + 1
    bad_opening = opening[~(begins | continues)]
    doubled = np.zeros(len(closing), np.bool_)
    doubled[: len(opening) - 1] = continues[1:]
    bad_closing = closing[~(is_boundary[array[closing + 1]] | doubled)]
    first_bad = min([*bad_opening[:1].tolist(), *bad_closing[:1].tolist()], default=None)
    if first_bad is None and not unclosed:
        return

    def line(position: int) -> int:
        return text.count(b"\n", 0, position) + first_line

    openers = opening[begins & ~continues]
    if first_bad is not None and first_bad in bad_opening[:1]:
        raise DataError(
            f"{source}, line {line(first_bad)}: a quote character stands inside a value that is not quoted; put the "
            "value in quotes and double the quotes inside it"
        )
    opener = int(openers[-1] if first_bad is None else openers[np.searchsorted(openers, first_bad) - 1])
    if first_bad is None or line(opener) != line(first_bad):
        raise DataError(f"{source}, line {line(opener)}: the quote that opens there is never closed")
    raise DataError(
        f"{source}, line {line(first_bad)}: text follows the closing quote of a value; double the quotes that belong "
        "to the value"
    )


def _check_widths(
    text: bytes, starts: Positions, widths: Positions, lines: Positions, delimiter: bytes, source: str
) -> None:
    expected = int(widths[0])
    if text[0] == _LF:
        raise DataError(f"{source}, line {lines[0]}: the line is empty where the header should be")
    wrong = np.flatnonzero(widths != expected)
    if expected > 1:
        empty = wrong[np.frombuffer(text, np.uint8)[starts[wrong]] == _LF]
        if len(empty) and empty[0] == wrong[0]:
            raise DataError(f"{source}, line {lines[empty[0]]}: the line is empty; remove it")
    if not len(wrong):
        return
    row = int(wrong[0])
    others = f" (and {len(wrong) - 1} more such lines)" if len(wrong) > 1 else ""
    name = {b",": "comma", b";": "semicolon", b"\t": "tab", b"|": "|"}[delimiter]
    raise DataError(
        f"{source}, line {lines[row]}: {_fields(int(widths[row]))} where the header has {expected}, with the {name} as "
        f"delimiter{others}"
    )


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _check_lengths(result: Scan, source: str) -> None:
    flat = result.ends.ravel()
    lengths = np.diff(flat, prepend=-1) - 1
    for field in np.flatnonzero(lengths > LONGEST_FIELD).tolist():
        content = result.text[int(flat[field] - lengths[field]) : int(flat[field])]
        characters = len(content.decode("utf-8"))
        if characters <= LONGEST_FIELD:
            continue
        record, position = divmod(field, result.ends.shape[1])
        column = f"column {shown(result.header()[position])}" if record else f"the header, field {position + 1}"
        raise DataError(
            f"{source}, line {result.lines[record]}, {column}: a value of {characters} characters; "
            f"at most {LONGEST_FIELD} are allowed"
        )
