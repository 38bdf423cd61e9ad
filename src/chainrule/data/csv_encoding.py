"""From the bytes of a text file to UTF-8: byte-order marks, UTF-16, Latin-1, and files that are no text at all."""

from __future__ import annotations

import codecs
import re
import string

from chainrule.core.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_OTHER_FORMATS = (
    (b"PK\x03\x04", "is a workbook or an archive, not a text file; save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook, not a text file; save the sheet as CSV"),
    (b"\x1f\x8b", "is compressed; unpack it first"),
    (b"BZh", "is compressed; unpack it first"),
    (b"\xfd7zXZ\x00", "is compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed; unpack it first"),
    (b"%PDF", "is a PDF document, not a table"),
    (b"\x89PNG", "is an image, not a table"),
    (b"\xff\xd8\xff", "is an image, not a table"),
    (b"GIF8", "is an image, not a table"),
)
_HTML = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title|meta|script|table|div)\b",
    re.IGNORECASE | re.DOTALL,
)
_JSON = re.compile(r"\s*(?:\{\s*\"|\[\s*[\[{])")
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1f\x7f]")
_HIGH_LETTERS = bytes(range(0xC0, 0x100))
_LETTERS = string.ascii_letters.encode()
# 0xFF occurs in next to no text, but all over binary data.
_NEVER_IN_LATIN1 = re.compile(rb"\xff")
_C1 = re.compile(rb"[\x80-\x9f]")
_SAMPLE = 1 << 16


def to_utf8(data: bytes, source: str, notices: list[str]) -> bytes:
    """``data`` as UTF-8 without a byte-order mark; what had to be recognised for it is appended to ``notices``.

    Raises DataError, naming ``source`` and where possible the line, for an empty file, for another file format
    (HTML, JSON, a workbook, an image …), for NUL characters and for bytes that are no text in any of the encodings.
    """
    if not data.strip():
        raise DataError(f"{source} is empty")
    for magic, problem in _OTHER_FORMATS:
        if data.startswith(magic):
            raise DataError(f"{source} {problem}")
    text = _decode(data, source, notices)
    _refuse_markup(text, source)
    nul = text.find(b"\0")
    if nul >= 0:
        raise DataError(f"{source}, line {_line(text, nul)}: there is a NUL byte; this is not a text file, or damaged")
    return text


def _decode(data: bytes, source: str, notices: list[str]) -> bytes:
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            body = data[len(mark) :]
            if not body.strip(b"\0 \t\r\n"):
                raise DataError(f"{source} is empty apart from its byte-order mark")
            notices.append(f"{source}: {name} recognised by its byte-order mark")
            return _from_codec(body, codec, name, source)
    utf16 = _utf16_without_mark(data)
    if utf16 is not None:
        notices.append(f"{source}: UTF-16 without a byte-order mark recognised")
        return _from_codec(data, utf16, "UTF-16", source)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _from_latin1(data, error, source, notices)
    return data


def _from_codec(body: bytes, codec: str, name: str, source: str) -> bytes:
    try:
        return body.decode(codec).encode("utf-8")
    except UnicodeDecodeError as error:
        before = body[: error.start].decode(codec, "replace")
        raise DataError(
            f"{source}, line {before.count(chr(10)) + 1}: byte {error.start} is not valid {name}; the file is damaged"
        ) from None


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 of mostly ASCII text has a NUL in nearly every other byte and in no other place."""
    sample = data[:_SAMPLE]
    if len(data) % 2 or len(sample) < 4:
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if even == 0 and odd >= 0.7 * half:
        return "utf-16-le"
    return "utf-16-be" if odd == 0 and even >= 0.7 * half else None


def _from_latin1(data: bytes, error: UnicodeDecodeError, source: str, notices: list[str]) -> bytes:
    """Latin-1, or its Windows form if it has printable characters at 0x80-0x9F; refused if the bytes are no text."""
    line = _line(data, error.start)
    refusal = DataError(
        f"{source}, line {line}: byte 0x{data[error.start]:02x} is not valid UTF-8, and the file is not plausible as "
        "UTF-16 or Latin-1 either; save it as UTF-8"
    )
    kept = data.decode("utf-8", "ignore")
    valid = sum(not char.isascii() for char in kept)
    invalid = len(data) - len(kept.encode("utf-8"))
    if valid >= invalid:
        raise refusal  # UTF-8 with damage, which Latin-1 would turn into wrong characters everywhere
    if b"\0" in data or _CONTROL.search(data) or _NEVER_IN_LATIN1.search(data):
        raise refusal
    if _count(data, _HIGH_LETTERS) > _count(data, _LETTERS) + 8:
        raise refusal  # another alphabet, or no text
    codec, name = ("cp1252", "Windows-1252 (Latin-1)") if _C1.search(data) else ("latin-1", "Latin-1")
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        raise refusal from None
    notices.append(f"{source}: the text is not UTF-8 (first at line {line}) and was read as {name}")
    return text.encode("utf-8")


def _refuse_markup(text: bytes, source: str) -> None:
    head = text[:4096].decode("utf-8", "ignore")
    if _HTML.match(head):
        raise DataError(f"{source} is an HTML page, not a table; download the file itself, not the page that shows it")
    if _JSON.match(head):
        raise DataError(f"{source} is JSON, not a table of lines and fields; convert it to CSV")


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _count(data: bytes, characters: bytes) -> int:
    return len(data) - len(data.translate(None, characters))
