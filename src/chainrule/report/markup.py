"""HTML and SVG elements that escape by construction: text is escaped unless it is already :class:`Markup`."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from typing import TypeAlias

Child: TypeAlias = str | int | float | Iterable["Child"] | None

_VOID = frozenset({"meta", "br", "hr", "col", "rect", "circle", "line", "path", "polyline"})
# Characters that HTML and XML forbid, and those that reverse the reading direction of what follows them.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


class Markup(str):
    """A string that is already markup and is inserted as it stands."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Text as markup: ``& < > " '`` become entities; forbidden and direction-changing characters become U+FFFD."""
    return Markup(html.escape(_UNSAFE.sub("\ufffd", text), quote=True))


def fragment(*children: Child) -> Markup:
    """Children one after another: markup as it is, text escaped, None left out, sequences in order."""
    return Markup("".join(_pieces(children)))


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """``<tag …>children</tag>``.

    Attribute names lose a trailing underscore and turn others into hyphens (``class_``, ``aria_label``); None and
    False leave an attribute out, True writes it without a value's meaning (``open=""``).
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    inner = fragment(*children)
    if tag in _VOID and not inner:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{inner}</{tag}>")


def coordinate(value: float) -> str:
    """A drawing coordinate with at most two decimals and no needless zeros."""
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written in ("-0", "") else written


def shorten(text: str, limit: int) -> str:
    """``text`` cut in the middle to ``limit`` characters, because both ends of a name tell it apart."""
    if len(text) <= limit:
        return text
    head = math.ceil((limit - 1) * 0.6)
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _pieces(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str):
            yield escape(child)
        elif isinstance(child, (int, float)):
            yield coordinate(child) if isinstance(child, float) else str(child)
        else:
            yield from _pieces(child)


def _attribute(value: str | float | bool) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        return coordinate(value)
    return escape(str(value))
