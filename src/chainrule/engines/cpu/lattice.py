"""Contractions brought into the form in which every output coordinate is an index of its own.

    out[γ(i)] += A[α(i)]·B[β(i)]   becomes   out[p] = Σ A[α'(p, k)]·B[β'(p, k)]

Each output coordinate is solved for the index that leaves the fewest terms, that of the largest extent times its coefficient: of the
other indices, one value in as many as the coefficient is consistent with an element. Where the coefficient is a d other than ±1,
the coordinate is split into its residues modulo d, and every consistent combination of residues is a piece of its own: a
contraction without divisions onto a sub-lattice of the output (a strided convolution's input gradient becomes its parity phases).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

from chainrule.engines.cpu.indexing import Index, Var, at_least, variable
from chainrule.ir.contraction import Affine, Contraction
from chainrule.ir.sizes import Dim, Shape, Size


@dataclass(slots=True)
class Piece:
    """``out[...] = Σ a[...]·b[...]`` over the free variables; zero where a guard (index, size) says that it lies outside."""

    out: tuple[Index, ...]
    a: tuple[Index, ...]
    b: tuple[Index, ...]
    guards: list[tuple[Index, Dim]]
    kept: list[Var]
    summed: list[Var]
    is_zero: bool = False


class NotSolvableError(Exception):
    """The output map has no such form; the contraction has to be computed by adding into its result."""


def pieces_of(spec: Contraction, a_shape: Shape, b_shape: Shape) -> list[Piece]:
    """The pieces, which together write every element of the result exactly once. Raises :class:`NotSolvableError`."""
    vars = [index_variable(number, extent) for number, extent in enumerate(spec.extents)]
    maps = {name: _indices(getattr(spec, name), vars) for name in ("out", "a", "b")}
    state = _State(maps, [], [], [var for var in vars if var.extent != 1])
    states = [state]
    for axis, size in enumerate(spec.shape):
        states = [solved for state in states for solved in _solve(state, axis, size)]
    return [_finish(state, a_shape, b_shape) for state in states]


def index_variable(number: int, extent: Dim) -> Var:
    """The variable of an index of the box, which a piece has too unless an output coordinate was solved for it."""
    return Var(f"k{number}", extent)


@dataclass(slots=True)
class _State:
    maps: dict[str, tuple[Index, ...]]
    guards: list[tuple[Index, Dim]]
    owned: list[Var]
    free: list[Var]
    is_zero: bool = False

    def replaced(self, known: Mapping[Var, Index], free: Sequence[Var], *owned: Var) -> _State:
        return _State(
            {name: tuple(i.replace(known) for i in indices) for name, indices in self.maps.items()},
            [(index.replace(known), size) for index, size in self.guards],
            [*self.owned, *owned],
            list(free),
            self.is_zero,
        )


def _indices(index_map: Sequence[Affine], vars: Sequence[Var]) -> tuple[Index, ...]:
    found = []
    for coordinate in index_map:
        index = Index((), coordinate.offset)
        for number, c in coordinate.terms:
            index = index + variable(vars[number]) * c
        found.append(index)
    return tuple(found)


def _reach(var: Var, c: Dim) -> tuple[bool, int]:
    """How much of a coordinate an index covers, for comparison: a symbolic extent counts as larger than any number."""
    assert isinstance(c, int), "coefficients of a contraction are numbers"
    return (True, 0) if isinstance(var.extent, Size) else (False, (var.extent or 0) * abs(c))


def _solve(state: _State, axis: int, size: Dim) -> Iterator[_State]:
    coordinate = state.maps["out"][axis]
    candidates = [(var, c) for var, c in coordinate.terms if var in state.free]
    if not candidates:
        if size == 1 and coordinate == Index():
            yield state
            return
        raise NotSolvableError
    if _counts(coordinate, size) and len(candidates) == len(coordinate.terms):
        owned = [var for var, _ in candidates]
        yield state.replaced({}, [v for v in state.free if v not in owned], *owned)
        return
    var, c = max(candidates, key=lambda pair: _reach(*pair))
    assert isinstance(c, int), "coefficients of a contraction are numbers"
    assert var.extent is not None, "an index of a contraction has an extent"
    rest = coordinate - Index(((var, c),))
    if abs(c) == 1:
        p = Var(f"p{axis}", size)
        solved = (variable(p) - rest) * c
        yield _with(state, var, solved, p)
        return
    yield from _residues(state, axis, size, var, c, rest)


def _counts(coordinate: Index, size: Dim) -> bool:
    """Whether a coordinate takes every value below the size once, counting by its indices as by the digits of a number."""
    digits = {c: var for var, c in coordinate.terms}
    if len(digits) < len(coordinate.terms):
        return False
    step: Dim = 1
    while step in digits:
        extent = digits.pop(step).extent
        assert extent is not None, "an index of a contraction has an extent"
        step = step * extent
    return not digits and step == size and coordinate.offset == 0


def _with(state: _State, var: Var, solved: Index, p: Var) -> _State:
    assert var.extent is not None, "an index of a contraction has an extent"
    following = state.replaced({var: solved}, [v for v in state.free if v != var], *([p] if p.extent != 1 else []))
    following.guards.append((solved, var.extent))
    return following


def _residues(state: _State, axis: int, size: Dim, var: Var, c: int, rest: Index) -> Iterator[_State]:
    """One state for each residue of the output coordinate modulo |c|."""
    step = abs(c)
    others: list[tuple[Var, int]] = []  # indices, and the modulus that each matters for
    for v, factor in rest.terms:
        assert isinstance(factor, int), "coefficients of a contraction are numbers"
        if factor % step != 0:
            others.append((v, step // gcd(step, factor)))
    if isinstance(size, Size) or any(isinstance(v.extent, Size) or v not in state.free for v, _ in others):
        raise NotSolvableError
    for r in range(min(step, size)):
        p = Var(f"p{axis}", -(-(size - r) // step))
        place = variable(p) * step + r
        found = []
        for offsets in itertools.product(*(range(min(modulus, int(v.extent or 0))) for v, modulus in others)):
            known = {}
            fresh = []
            for (v, modulus), s in zip(others, offsets, strict=True):
                assert isinstance(v.extent, int), "checked above"
                t = Var(f"{v.name}r", -(-(v.extent - s) // modulus))
                known[v] = variable(t) * modulus + s
                fresh.append(t)
            difference = place - rest.replace(known)
            if isinstance(difference.offset, int) and difference.offset % step == 0:
                found.append((known, fresh, difference))
        if not found:
            zero = state.replaced({var: Index()}, [v for v in state.free if v != var], *([p] if p.extent != 1 else []))
            zero.maps["out"] = (*zero.maps["out"][:axis], place, *zero.maps["out"][axis + 1 :])
            zero.is_zero = True
            yield zero
            continue
        if len(found) > 1:
            raise NotSolvableError
        known, fresh, difference = found[0]
        solved = _quotient(difference, c)
        free = [v for v in state.free if v not in known] + [t for t in fresh if t.extent != 1]
        following = state.replaced(known, free)
        yield _with(following, var, solved, p)


def _quotient(index: Index, divisor: int) -> Index:
    """An index all of whose coefficients the divisor divides."""
    terms = []
    for var, c in (*index.terms, (None, index.offset)):
        assert isinstance(c, int), "coefficients of a contraction are numbers"
        terms.append((var, c // divisor))
    return Index(tuple((var, c) for var, c in terms if var is not None), terms[-1][1])


def _finish(state: _State, a_shape: Shape, b_shape: Shape) -> Piece:
    maps = state.maps
    coordinates = [*zip(maps["a"], a_shape), *zip(maps["b"], b_shape)]
    guards = [
        (index, size)
        for index, size in state.guards
        if not index.within(size) and not any(index == place and size == extent for place, extent in coordinates)
    ]
    used = {var for name in ("a", "b") for index in maps[name] for var, _ in index.terms}
    # An index of size 0 that nothing uses still empties the sum.
    summed = [var for var in state.free if var in used or var.extent != 1]
    return Piece(maps["out"], maps["a"], maps["b"], guards, state.owned, summed, state.is_zero)


def margins(index: Index, size: Dim) -> tuple[Dim, Dim] | None:
    """How far an index reaches below 0 and beyond the size; None where that is not known or not a number."""
    bounds = index.bounds()
    if bounds is None:
        return None
    low, high = -bounds[0], bounds[1] - size + 1
    below: Dim = 0 if at_least(-low, 0) else low
    above: Dim = 0 if at_least(-high, 0) else high
    return below, above
