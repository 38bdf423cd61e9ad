"""Affine index expressions over loop variables, with sizes that may contain the batch size B.

Every address and every position in the generated C is an :class:`Index`, so that loops can be merged, divisions removed and bounds
checked by algebra instead of by looking at text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import comb

from chainrule.ir.sizes import Dim, Shape, Size, divide


@dataclass(frozen=True, slots=True)
class Var:
    """An integer variable of the C program, from 0 to below its extent (None where nothing is known)."""

    name: str
    extent: Dim | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """``offset + sum(coefficient * variable)``, terms in the order in which they were first added."""

    terms: tuple[tuple[Var, Dim], ...] = ()
    offset: Dim = 0

    def __add__(self, other: Index | Dim) -> Index:
        if not isinstance(other, Index):
            return Index(self.terms, self.offset + other)
        total = dict(self.terms)
        for var, coefficient in other.terms:
            total[var] = total.get(var, 0) + coefficient
        return Index(tuple((v, c) for v, c in total.items() if c != 0), self.offset + other.offset)

    def __sub__(self, other: Index | Dim) -> Index:
        return self + other * -1 if isinstance(other, Index) else self + -other

    def __mul__(self, factor: Dim) -> Index:
        if factor == 0:
            return Index()
        return Index(tuple((var, c * factor) for var, c in self.terms), self.offset * factor)

    def coefficient(self, var: Var) -> Dim:
        return next((c for v, c in self.terms if v == var), 0)

    def replace(self, known: Mapping[Var, Index]) -> Index:
        """The expression with variables replaced."""
        if not any(var in known for var, _ in self.terms):
            return self
        total = Index((), self.offset)
        for var, c in self.terms:
            total = total + (known[var] * c if var in known else Index(((var, c),)))
        return total

    @property
    def number(self) -> Dim | None:
        """The size that this is, if no variable occurs."""
        return None if self.terms else self.offset

    def bounds(self) -> tuple[Dim, Dim] | None:
        """The least and the largest value over all variables, or None where that is not known."""
        low: Dim = self.offset
        high: Dim = self.offset
        for var, c in self.terms:
            if var.extent is None:
                return None
            reach = c * (var.extent - 1)
            if at_least(c, 0):
                high = high + reach
            elif at_least(-c, 0):
                low = low + reach
            else:
                return None
        return low, high

    def within(self, size: Dim) -> bool:
        """Whether the value is known to lie in [0, size)."""
        found = self.bounds()
        return found is not None and at_least(found[0], 0) and at_least(size - found[1], 1)

    def __str__(self) -> str:
        text = ""
        for var, c in self.terms:
            negative = isinstance(c, int) and c < 0
            size = -c if negative else c
            factor = "" if size == 1 else f"{c_size(size)} * "
            text += ("-" if negative else "") if not text else (" - " if negative else " + ")
            text += f"{factor}{var.name}"
        if self.offset != 0 or not text:
            if isinstance(self.offset, int) and text:
                text += f" {'-' if self.offset < 0 else '+'} {abs(self.offset)}"
            else:
                text += (" + " if text else "") + c_size(self.offset)
        return text


def variable(var: Var) -> Index:
    return Index(((var, 1),)) if var.extent != 1 else Index()


def at_least(dim: Dim, bound: int) -> bool:
    """Whether a size is at least ``bound`` for every batch size from 1 on (sufficient, not necessary)."""
    if not isinstance(dim, Size):
        return dim >= bound
    # In powers of (B - 1), no negative coefficient is enough.
    shifted = [
        sum(c * comb(power, k) for power, c in enumerate(dim.coefficients)) for k in range(len(dim.coefficients))
    ]
    return shifted[0] >= bound and min(shifted[1:]) >= 0


def c_size(dim: Dim) -> str:
    """A size as a C expression in ``B``."""
    if not isinstance(dim, Size):
        return str(dim)
    terms = []
    for power in range(len(dim.coefficients) - 1, -1, -1):
        c = dim.coefficients[power]
        if c or not power:
            factors = (["B"] * power if c == 1 else [str(c), *["B"] * power]) if power else [str(c)]
            if c:
                terms.append(" * ".join(factors))
    text = " + ".join(terms)
    return f"({text})" if len(terms) > 1 or " * " in text else text


def strides_of(shape: Shape) -> tuple[Dim, ...]:
    """Row-major strides in elements."""
    strides: list[Dim] = []
    step: Dim = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def linear(indices: Iterable[Index], shape: Shape) -> Index:
    """The position in a contiguous array."""
    total = Index()
    for index, stride in zip(indices, strides_of(shape), strict=True):
        total = total + index * stride
    return total


def split(index: Index, divisor: Dim) -> tuple[Index, Index] | None:
    """Quotient and remainder of an index by a size, where algebra can tell them."""
    quotient = Index()
    rest = Index()
    for var, c in index.terms:
        whole = divide(c, divisor)
        if whole is None:
            rest = rest + Index(((var, c),))
        else:
            quotient = quotient + Index(((var, whole),))
    if isinstance(index.offset, int) and isinstance(divisor, int):
        quotient, rest = quotient + index.offset // divisor, rest + index.offset % divisor
    else:
        whole = divide(index.offset, divisor)
        quotient, rest = (quotient + whole, rest) if whole is not None else (quotient, rest + index.offset)
    return (quotient, rest) if rest.within(divisor) else None
