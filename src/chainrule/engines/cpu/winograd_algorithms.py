"""Winograd's algorithms for short convolutions.

A short convolution has m results of r taps. Winograd's algorithms compute it with m + r - 1 multiplications instead of m·r:

    Σ_{p<m, k<r} x[p + k]·u[p]·w[k]  =  Σ_{a<m+r-1} (X x)[a] · (U u)[a] · (W w)[a]        for all x, u and w

Each of the three may be the result: with p in the result it is a convolution or its input gradient, with k in it a gradient of
weights. For p = 0 no x takes part that is not read for it; likewise for the last p.

Source: S. Winograd, "Arithmetic Complexity of Computations" (1980); A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural
Networks" (2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]

# Results of a tile along each axis. More would save more multiplications, and lose digits.
TILE = 2


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The matrices X, U and W for :data:`TILE` positions and so many taps."""

    x: Matrix
    u: Matrix
    w: Matrix

    @property
    def size(self) -> int:
        """Multiplications, which are as many as elements of x."""
        return len(self.x)


# The rows of every U are among those of the next, in the same order: what fewer taps make adds up with what more do.
ALGORITHMS: Mapping[int, Algorithm] = {
    1: Algorithm(
        x=((1, 0), (0, -1)),
        u=((1, 0), (0, -1)),
        w=((1,), (1,)),
    ),
    2: Algorithm(
        x=((1, -1, 0), (0, 1, 0), (0, 1, -1)),
        u=((1, 0), (1, 1), (0, -1)),
        w=((1, 0), (1, 1), (0, 1)),
    ),
    3: Algorithm(
        x=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        u=((1, 0), (1, 1), (1, -1), (0, -1)),
        w=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    ),
}
