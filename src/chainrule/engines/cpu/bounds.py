"""Proof that what the generated C reads and writes lies within its buffers, for every batch size from 1 on.

Every access is an :class:`Index` into a buffer of known size. It is proved where it becomes text: from the extents of the loop
variables, and for a guarded access also from the facts that its guard states. A fact ``0 <= e < n`` is used by putting a new
variable u of extent n in the place of e: from ``at = q·e + rest`` follows ``at = q·u + rest``, whatever q is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import gcd

from chainrule.engines.cpu.indexing import Index, Var, at_least
from chainrule.ir.sizes import Dim, Size, divide

_FEW_FACTS = 4
# That an index lies in [0, size).
Fact = tuple[Index, Dim]


def prove(what: str, at: Index, size: Dim, facts: Sequence[Fact] = ()) -> None:
    """Raise AssertionError, naming the access, unless ``at`` is known to lie in [0, size)."""
    if not follows(at, size, facts):
        known = ", ".join(f"{index} in [0, {extent})" for index, extent in facts)
        raise AssertionError(
            f"{what}[{at}] may lie outside its {size} elements; {_ranges([at, *(index for index, _ in facts)])}"
            + (f", and the guard says that {known}" if known else "")
        )


def follows(at: Index, size: Dim, facts: Sequence[Fact] = ()) -> bool:
    """Whether ``at`` is known to lie in [0, size) wherever the facts hold (sufficient, not necessary)."""
    if at.within(size) or any(never(*fact) for fact in facts):
        return True
    for number, (index, extent) in enumerate(_tightened(*fact) for fact in facts):
        fresh = Index(((Var(f"fact {len(facts)}", extent), 1),))
        # Which fact comes first matters where facts share variables; many facts never do.
        others = [*(facts[:number] if len(facts) <= _FEW_FACTS else ()), *facts[number + 1 :]]
        for factor in _factors(at, index):
            if follows(at - index * factor + fresh * factor, size, others):
                return True
    return False


def never(index: Index, extent: Dim) -> bool:
    """Whether an index is known to lie outside [0, extent), so that what is guarded by it never runs."""
    found = index.bounds()
    return found is not None and (at_least(-found[1], 1) or at_least(found[0] - extent, 0))


def _tightened(index: Index, size: Dim) -> Fact:
    """The same fact without a common factor of the coefficients: from ``0 <= 2·i + 1 < 4`` follows ``0 <= i < 2``."""
    coefficients = [c for _, c in index.terms]
    if isinstance(index.offset, Size) or isinstance(size, Size) or any(isinstance(c, Size) for c in coefficients):
        return index, size
    factor = gcd(*(c for c in coefficients if isinstance(c, int)))
    if factor < 2:
        return index, size
    terms = tuple((var, c // factor) for var, c in index.terms if isinstance(c, int))
    least, most = -(index.offset // factor), (size - 1 - index.offset) // factor
    return Index(terms, -least), most - least + 1


def _factors(at: Index, index: Index) -> Iterator[Dim]:
    """The multiples of an index that take one of its variables out of another."""
    found: dict[Dim, None] = {}
    for var, c in index.terms:
        factor = divide(at.coefficient(var), c)
        if factor is not None and factor != 0:
            found[factor] = None
    yield from found


def _ranges(indices: Iterable[Index]) -> str:
    vars = dict.fromkeys(var for index in indices for var, _ in index.terms)
    return ", ".join(f"{var.name} in [0, {var.extent})" for var in vars) or "it has no variables"
