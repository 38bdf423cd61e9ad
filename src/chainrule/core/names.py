"""Names that come from outside, such as column names, file names and tensor names, made safe wherever they are written.

A name is data. It may hold terminal escapes, text-direction overrides, path separators or nothing at all. The functions
here either make such a name harmless (:func:`escape_terminal`, :func:`safe_file_name`, :func:`tensor_name_part`) or
refuse it (:func:`safe_tensor_name`).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from chainrule.core.errors import WeightsError

LONGEST_TENSOR_NAME = 512
LONGEST_FILE_NAME = 200  # bytes; file systems allow 255, and a suffix or a temporary prefix must still fit

_FORBIDDEN_IN_FILE_NAMES = frozenset('<>:"/\\|?*%')
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))]
)


def escape_terminal(text: object, *, limit: int | None = None) -> str:
    r"""``str(text)`` with everything that a terminal would obey, or a reader could not see, written as an escape.

    Control characters, ANSI sequences, direction overrides, zero-width characters, line separators, odd spaces and
    lone surrogates become ``\n``, ``\x1b``, ``\u202e`` and so on; the result is one printable line. With ``limit``,
    longer text is cut to that many characters, the last of them an ellipsis.
    """
    shown = "".join(char if char.isprintable() else _backslash_escape(char) for char in str(text))
    if limit is not None and len(shown) > limit:
        return shown[: limit - 1] + "…"
    return shown


def _backslash_escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def shown_path(path: Path | str) -> str:
    """A path as error messages show it: escaped for the terminal, in full."""
    return escape_terminal(path)


def safe_tensor_name(name: str) -> str:
    """Returns ``name`` if it may name a tensor in a weight file.

    Allowed are up to 512 printable characters in parts joined by dots (``layers.2.weight``), none of the parts empty.
    That leaves out ``..``, leading and trailing dots; path separators and ``__metadata__`` are refused too.

    Raises:
        WeightsError: for any other name; the message shows it escaped and says what is wrong with it.
    """
    problem = _tensor_name_problem(name)
    if problem is None:
        return name
    raise WeightsError(f"'{escape_terminal(name, limit=80)}' cannot be the name of a tensor: {problem}")


def _tensor_name_problem(name: str) -> str | None:
    if not name:
        return "it is empty"
    if len(name) > LONGEST_TENSOR_NAME:
        return f"it has {len(name)} characters, and {LONGEST_TENSOR_NAME} are allowed"
    if not name.isprintable():
        return "it contains characters that cannot be printed"
    if "/" in name or "\\" in name:
        return "it contains a path separator"
    if "" in name.split("."):
        return "one of its parts between dots is empty"
    if name == "__metadata__":
        return "the safetensors format reserves it"
    return None


def tensor_name_part(text: str) -> str:
    """Any text, such as a column name, as one part of a tensor name; different texts give different parts.

    Dots, path separators, ``%`` and characters that cannot be printed are percent-encoded as UTF-8 bytes; text that is
    empty becomes ``%``, and text too long for a part is cut and given a hash of the whole.
    """
    encoded = _percent_encode(text, lambda char: char in "./\\%" or not char.isprintable())
    return _shortened(encoded, 160) or "%"


def safe_file_name(name: str) -> str:
    """Any text as one file name that is legal on Linux, macOS and Windows.

    Texts that differ in more than letter case give different names, also where letter case does not count.
    Separators, wildcards, ``%`` and characters that cannot be printed are percent-encoded as UTF-8 bytes, and so are a
    leading dot (hidden files, ``..``), a trailing dot or space, and the first letter of Windows device names. A name
    over 200 bytes is cut and given a hash of the whole.
    """
    encoded = _percent_encode(name, lambda char: char in _FORBIDDEN_IN_FILE_NAMES or not char.isprintable())
    if encoded.startswith(".") or encoded.split(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES:
        encoded = _percent_encode(encoded[0], lambda char: True) + encoded[1:]
    encoded = _shortened(encoded, LONGEST_FILE_NAME)
    if encoded.endswith((".", " ")):
        encoded = encoded[:-1] + _percent_encode(encoded[-1], lambda char: True)
    return encoded or "%"


def _percent_encode(text: str, must_encode: Callable[[str], bool]) -> str:
    return "".join(
        "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass")) if must_encode(char) else char
        for char in text
    )


def _shortened(text: str, longest: int) -> str:
    """``text`` itself if it has at most ``longest`` bytes in UTF-8, otherwise its beginning and a hash of all of it."""
    raw = text.encode("utf-8")
    if len(raw) <= longest:
        return text
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return raw[: longest - 17].decode("utf-8", "ignore") + "~" + digest


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``name`` was most likely meant to be, or None when none is similar; for "did you mean".

    Letter case, surrounding spaces and the difference between spaces, hyphens and underscores do not count. Similarity
    is the Ratcliff–Obershelp ratio of :mod:`difflib`, at least 0.6.
    """
    by_plain_form: dict[str, str] = {}
    for candidate in candidates:
        by_plain_form.setdefault(_plain_form(candidate), candidate)
    matches = difflib.get_close_matches(_plain_form(name), by_plain_form, n=1, cutoff=0.6)
    return by_plain_form[matches[0]] if matches else None


def hint(name: str, known: Collection[str]) -> str:
    """What to say after a name that is none of those known: ``did you mean 'x'?``, or ``there are a, b`` where none is similar."""
    found = nearest(name, known)
    if found is not None:
        return f"did you mean '{escape_terminal(found, limit=60)}'?"
    return f"there are {', '.join(escape_terminal(each, limit=60) for each in known) or 'none'}"


def _plain_form(name: str) -> str:
    return name.strip().casefold().replace("_", " ").replace("-", " ")
