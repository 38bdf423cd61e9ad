"""The contraction: matrix products, convolutions, pooling sums and all their gradients as one thing.

    out[γ(i)] += A[α(i)] · B[β(i)]      for every i of an integer box

α, β and γ map the indices of the box affinely to positions in the operands. Reads outside an operand give zero, writes
outside the result are dropped. The gradient with respect to A is the same contraction with the places of A and out
exchanged; differentiation only permutes the three maps.

A term with a place outside is 0 for every finite factor. Beside an infinite or NaN factor an engine may multiply the zero, which
gives NaN, or leave the term out: loops over the places of one operand reach outside of another, and which are taken is its choice.

The notation is that of Vasilache et al., *Tensor Comprehensions* (2018) and Zerrell & Bruestle, *Stripe/PlaidML* (2019).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chainrule.core.errors import GraphError, ShapeError
from chainrule.ir.sizes import Dim, Shape, parse_dim


@dataclass(frozen=True, slots=True)
class Affine:
    """One coordinate: ``offset + sum(c * index)`` over ``terms = ((index, c), ...)``, sorted by index, no c zero."""

    terms: tuple[tuple[int, int], ...] = ()
    offset: int = 0

    @property
    def plain(self) -> int | None:
        """The index this coordinate simply is, or None."""
        if self.offset == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            return self.terms[0][0]
        return None


def affine(*terms: tuple[int, int], offset: int = 0) -> Affine:
    """An affine coordinate from (index, coefficient) pairs in any order."""
    total: dict[int, int] = {}
    for index, coefficient in terms:
        total[index] = total.get(index, 0) + coefficient
    return Affine(tuple(sorted((i, c) for i, c in total.items() if c)), offset)


def plain(*indices: int) -> tuple[Affine, ...]:
    """The map that reads the given box indices directly: ``plain(0, 2)`` is ``[i0, i2]``."""
    return tuple(Affine(((index, 1),)) for index in indices)


IndexMap = tuple[Affine, ...]


@dataclass(frozen=True, slots=True)
class Contraction:
    """``out[γ(i)] += A[α(i)]·B[β(i)]``: the extents of the box, the maps γ, α, β, and the shape of the result."""

    extents: tuple[Dim, ...]
    out: IndexMap
    a: IndexMap
    b: IndexMap
    shape: Shape

    def __post_init__(self) -> None:
        if len(self.out) != len(self.shape):
            raise ShapeError(f"a contraction into {self.shape} needs {len(self.shape)} output coordinates")
        for coordinate in (*self.out, *self.a, *self.b):
            for index, _ in coordinate.terms:
                if not 0 <= index < len(self.extents):
                    raise GraphError(f"contraction index i{index} is outside the box of {len(self.extents)} indices")

    def for_a(self, a_shape: Shape) -> Contraction:
        """The contraction of (cotangent, B) that is the cotangent of A."""
        return replace(self, out=self.a, a=self.out, shape=a_shape)

    def for_b(self, b_shape: Shape) -> Contraction:
        """The contraction of (A, cotangent) that is the cotangent of B."""
        return replace(self, out=self.b, b=self.out, shape=b_shape)

    def __str__(self) -> str:
        box = " ".join(f"i{n}:{extent}" for n, extent in enumerate(self.extents))
        shape = ", ".join(map(str, self.shape))
        return f"[{shape}] {box} | {_show(self.out)} += {_show(self.a)} * {_show(self.b)}"


def _show(index_map: IndexMap) -> str:
    return "[" + ", ".join(_show_coordinate(c) for c in index_map) + "]"


def _show_coordinate(coordinate: Affine) -> str:
    text = ""
    for index, c in coordinate.terms:
        text += ("-" if c < 0 else "+" if text else "") + (f"{abs(c)}*" if abs(c) != 1 else "") + f"i{index}"
    if coordinate.offset or not text:
        text += f"{coordinate.offset:+d}" if text else str(coordinate.offset)
    return text


_WHOLE = re.compile(r"\[([^\]]*)\]\s*([^|]*)\|\s*\[([^\]]*)\]\s*\+=\s*\[([^\]]*)\]\s*\*\s*\[([^\]]*)\]")
_TERM = re.compile(r"([+-]?)(?:(?:(\d{1,18})\*)?i(\d{1,3})|(\d{1,18}))", re.ASCII)


def parse_contraction(text: str) -> Contraction:
    """The inverse of ``str`` for contractions."""
    match = _WHOLE.fullmatch(text.strip())
    if match is None:
        raise GraphError(f"{text!r} is not a contraction")
    shape = tuple(parse_dim(part) for part in _parts(match[1]))
    extents: list[Dim] = []
    for number, part in enumerate(match[2].split()):
        name, _, extent = part.partition(":")
        if name != f"i{number}":
            raise GraphError(f"index {name!r} of contraction {text!r} should be i{number}")
        extents.append(parse_dim(extent))
    maps = [tuple(_parse_coordinate(part) for part in _parts(match[n])) for n in (3, 4, 5)]
    return Contraction(tuple(extents), maps[0], maps[1], maps[2], shape)


def _parts(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _parse_coordinate(text: str) -> Affine:
    position, terms, offset = 0, [], 0
    while position < len(text) or not text:
        match = _TERM.match(text, position)
        if match is None or (position and not match[1]):
            raise GraphError(f"{text!r} is not a contraction coordinate")
        sign = -1 if match[1] == "-" else 1
        if match[3] is not None:
            terms.append((int(match[3]), sign * int(match[2] or 1)))
        else:
            offset += sign * int(match[4])
        position = match.end()
    return affine(*terms, offset=offset)
