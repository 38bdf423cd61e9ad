"""Pieces of contractions: every element of a result once, from few terms, and with the right sum."""

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chainrule.engines.cpu.indexing import Index
from chainrule.engines.cpu.lattice import pieces_of
from chainrule.ir.contraction import Contraction, affine, plain

SMALL, SEVERAL = st.integers(1, 7), st.integers(2, 7)


def of_input(positions, taps, stride, dilation, before, size):
    """The gradient of the input of a convolution along one axis, from the cotangent and the weights."""
    read = (affine((0, stride), (1, dilation), offset=-before),)
    return Contraction((positions, taps), plain(0), read, plain(1), (positions,)).for_a((size,))


def summed_by_definition(spec, a, b):
    out = np.zeros(spec.shape, int)
    for at in product(*map(range, spec.extents)):
        out_at, a_at, b_at = (
            sum(c * at[index] for index, c in coordinate.terms) + coordinate.offset
            for (coordinate,) in (spec.out, spec.a, spec.b)
        )
        if 0 <= out_at < len(out) and 0 <= a_at < len(a) and 0 <= b_at < len(b):
            out[out_at] += a[a_at] * b[b_at]
    return out


def summed_in_pieces(spec, a, b):
    """The result, how often each element is written, and how many terms there are."""
    out, times, terms = np.zeros(spec.shape, int), np.zeros(spec.shape, int), 0
    for piece in pieces_of(spec, a.shape, b.shape):
        for kept in product(*(range(var.extent) for var in piece.kept)):
            total = 0
            for summed in product(*(range(var.extent) for var in piece.summed)):
                values = zip((*piece.kept, *piece.summed), (*kept, *summed), strict=True)
                known = {var: Index((), value) for var, value in values}
                out_at, a_at, b_at = (index.replace(known).number for (index,) in (piece.out, piece.a, piece.b))
                inside = all(0 <= index.replace(known).number < size for index, size in piece.guards)
                terms += not piece.is_zero
                if inside and not piece.is_zero and 0 <= a_at < len(a) and 0 <= b_at < len(b):
                    total += a[a_at] * b[b_at]
            out[out_at] += total
            times[out_at] += 1
    return out, times, terms


# As many taps as elements, and a border behind them alone: two indices of which one counts the elements.
@example(positions=2, taps=3, stride=1, dilation=1, before=0, size=3)
@example(positions=3, taps=2, stride=1, dilation=1, before=0, size=3)
@given(SEVERAL, SEVERAL, st.integers(1, 4), st.integers(1, 4), st.integers(0, 7), SMALL)
def test_pieces_are_the_sums(positions, taps, stride, dilation, before, size):
    spec = of_input(positions, taps, stride, dilation, before, size)
    a, b = np.arange(1, positions + 1), np.arange(3, taps + 3) ** 2
    out, times, _ = summed_in_pieces(spec, a, b)
    np.testing.assert_array_equal(out, summed_by_definition(spec, a, b))
    assert (times == 1).all()


@pytest.mark.parametrize(
    ("positions", "taps", "stride", "dilation", "terms"),
    [
        (8, 5, 1, 1, 5),
        (3, 5, 1, 1, 3),
        # Of positions in steps of 2, an element has one of two taps; of so few positions, every tap.
        (8, 5, 2, 1, 2.5),
        (4, 5, 2, 1, 2.5),
        (3, 5, 2, 1, 2.5),
        (2, 5, 2, 1, 2),
        (2, 4, 2, 1, 2),
        (3, 7, 3, 1, 7 / 3),
        # Likewise of taps at distances: of few positions one in two.
        (5, 3, 1, 2, 2.5),
        (9, 3, 1, 2, 3),
        # Positions in steps of 4, taps in steps of 2: half of all elements have none, the others every other tap.
        (7, 3, 4, 2, 0.75),
        (7, 3, 2, 2, 1.5),
    ],
)
def test_an_element_has_as_few_terms_as_there_are(positions, taps, stride, dilation, terms):
    size = 12
    spec = of_input(positions, taps, stride, dilation, 1, size)
    assert summed_in_pieces(spec, np.ones(positions, int), np.ones(taps, int))[2] == terms * size
