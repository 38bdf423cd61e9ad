"""Sizes of axes: integers, except that one batch size B stays a symbol.

A symbolic size is a polynomial in B with integer coefficients, so that ``(B, T, D)`` can be reshaped to ``(B*T, D)`` and
back, and a step compiled once serves every batch size. ``B`` is taken to be neither 0 nor 1 where the two would mean
something else (broadcasting).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from chainrule.core.errors import GraphError, TraceError


class Size:
    """The polynomial ``sum(c[i] * B**i)``, of degree at least 1 (a constant is a plain ``int``)."""

    __slots__ = ("coefficients",)

    def __init__(self, coefficients: tuple[int, ...]) -> None:
        self.coefficients = coefficients

    def at(self, batch: int) -> int:
        """The number this size is when the batch size is ``batch``."""
        return sum(c * batch**power for power, c in enumerate(self.coefficients))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.coefficients == other.coefficients

    def __hash__(self) -> int:
        return hash(("Size", self.coefficients))

    def __add__(self, other: Dim) -> Dim:
        a, b = self.coefficients, _coefficients(other)
        width = max(len(a), len(b))
        return _from(tuple((a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0) for i in range(width)))

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _from(tuple(-c for c in self.coefficients))

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        a, b = self.coefficients, _coefficients(other)
        product = [0] * (len(a) + len(b) - 1)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                product[i + j] += x * y
        return _from(tuple(product))

    __rmul__ = __mul__

    def __str__(self) -> str:
        terms: list[str] = []
        for power in range(len(self.coefficients) - 1, -1, -1):
            c = self.coefficients[power]
            if c:
                symbol = "" if power == 0 else "B" if power == 1 else f"B^{power}"
                number = str(abs(c)) if abs(c) != 1 or not symbol else ""
                sign = "-" if c < 0 else "+" if terms else ""
                terms.append(f"{sign}{number}{'*' if number and symbol else ''}{symbol}")
        return "".join(terms)

    __repr__ = __str__

    def _no_number(self, what: str) -> TraceError:
        return TraceError(
            f"the size {self} depends on the batch size, which is only known when the step runs, so it cannot be "
            f"{what}; compute with it as an array through chainrule.ops.extent, or fix the batch size"
        )

    def __index__(self) -> int:
        raise self._no_number("used as a number")

    def __int__(self) -> int:
        raise self._no_number("used as a number")

    def __bool__(self) -> bool:
        raise self._no_number("used as a condition")

    def __lt__(self, other: object) -> bool:
        raise self._no_number("compared")

    __le__ = __gt__ = __ge__ = __lt__


Dim = int | Size
Shape = tuple[Dim, ...]

BATCH = Size((0, 1))


def _coefficients(dim: Dim) -> tuple[int, ...]:
    return dim.coefficients if isinstance(dim, Size) else (dim,)


def _from(coefficients: tuple[int, ...]) -> Dim:
    end = len(coefficients)
    while end > 1 and coefficients[end - 1] == 0:
        end -= 1
    return coefficients[0] if end == 1 else Size(coefficients[:end])


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements of a shape."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def divide(numerator: Dim, denominator: Dim) -> Dim | None:
    """The exact quotient of two sizes, or None where the division leaves a remainder."""
    if denominator == 0:
        return None
    top, bottom = list(_coefficients(numerator)), _coefficients(denominator)
    quotient = [0] * max(1, len(top) - len(bottom) + 1)
    for shift in range(len(top) - len(bottom), -1, -1):
        factor, rest = divmod(top[shift + len(bottom) - 1], bottom[-1])
        if rest:
            return None
        quotient[shift] = factor
        for i, c in enumerate(bottom):
            top[shift + i] -= factor * c
    return None if any(top) else _from(tuple(quotient))


def at(dim: Dim, batch: int) -> int:
    """A size as a number, once the batch size is known."""
    return dim.at(batch) if isinstance(dim, Size) else dim


def shape_at(shape: Shape, batch: int) -> tuple[int, ...]:
    return tuple(at(dim, batch) for dim in shape)


def is_symbolic(dims: Iterable[Dim]) -> bool:
    return any(isinstance(dim, Size) for dim in dims)


_TERM = re.compile(r"([+-]?)(?:(?:(\d{1,18})\*)?(B)(?:\^(\d{1,2}))?|(\d{1,18}))", re.ASCII)


def parse_dim(text: str) -> Dim:
    """The inverse of ``str`` for sizes."""
    position = 0
    total: Dim = 0
    while position < len(text) or not text:
        match = _TERM.match(text, position)
        if match is None or (position and not match[1]):
            raise GraphError(f"{text!r} is not a size")
        power = int(match[4] or 1) if match[3] else 0
        number = int(match[2] or match[5] or 1) * (-1 if match[1] == "-" else 1)
        total = total + _from((*(0 for _ in range(power)), number))
        position = match.end()
    return total
