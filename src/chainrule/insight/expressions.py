"""Formulas that are shown twice: once with the names of their quantities, once with their numbers.

z = w1·x + b        symbols
  = (0.4)(0.5) + 1  numbers
  = 1.2             value
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


def number(value: float) -> str:
    """A number to 9 significant digits, with an ASCII minus sign so that it can be copied into a program."""
    return format(value + 0.0, ".9g")


class Expression(Protocol):
    @property
    def symbols(self) -> str: ...

    @property
    def numbers(self) -> str: ...

    @property
    def value(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Term:
    """One quantity, or a formula written out; ``written`` are its numbers where they are more than the value."""

    symbols: str
    value: float
    written: str = ""

    @property
    def numbers(self) -> str:
        return self.written or number(self.value)


@dataclass(frozen=True, slots=True)
class Product:
    """``(0.4)(0.5)``: factors, joined by ``dot`` between their names."""

    factors: Sequence[Expression]
    dot: str = "·"

    @property
    def symbols(self) -> str:
        return self.dot.join(f"({f.symbols})" if isinstance(f, Sum) else f.symbols for f in self.factors)

    @property
    def numbers(self) -> str:
        return "".join(f"({factor.numbers})" for factor in self.factors)

    @property
    def value(self) -> float:
        return math.prod(factor.value for factor in self.factors)


@dataclass(frozen=True, slots=True)
class Sum:
    """``a + b``. ``general`` names all terms at once where they differ only in the example that they belong to."""

    terms: Sequence[Expression]
    general: str = ""

    @property
    def symbols(self) -> str:
        return self.general or " + ".join(term.symbols for term in self.terms)

    @property
    def numbers(self) -> str:
        first, *rest = (term.numbers for term in self.terms)
        return first + "".join(f" − {text[1:]}" if text.startswith("-") else f" + {text}" for text in rest)

    @property
    def value(self) -> float:
        return sum(term.value for term in self.terms)


def product(*factors: Expression, dot: str = "·") -> Expression:
    """The product of the factors, those of nested products among them; a single factor stays as it is."""
    flat = [inner for factor in factors for inner in (factor.factors if isinstance(factor, Product) else [factor])]
    return flat[0] if len(flat) == 1 else Product(flat, dot)


def total(terms: Sequence[Expression], general: str = "") -> Expression:
    """The sum of the terms; a single one stays as it is."""
    return terms[0] if len(terms) == 1 else Sum(terms, general)


@dataclass(frozen=True, slots=True)
class Equation:
    """``symbol = formula = numbers = value``. The value was read off the graph, not computed from the formula.

    ``of`` is the unit or parameter that the equation is about; ``relation`` is ``←`` for an update.
    """

    of: str
    symbol: str
    expression: Expression
    value: float
    relation: str = "="

    def sides(self) -> list[str]:
        """What stands between the signs of equality; the same text is not repeated."""
        found = [self.symbol]
        for side in (self.expression.symbols, self.expression.numbers, number(self.value)):
            if side != found[-1]:
                found.append(side)
        return found
