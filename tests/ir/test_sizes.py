"""Sizes are polynomials in the batch size: arithmetic, exact division, text."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chainrule.core.errors import ChainruleError, GraphError, TraceError
from chainrule.ir.sizes import BATCH, Size, at, divide, is_symbolic, parse_dim, product, shape_at

numbers = st.integers(-50, 50)


@st.composite
def dims(draw):
    total = draw(numbers)
    for power in range(1, draw(st.integers(0, 3)) + 1):
        total = total + product([BATCH] * power) * draw(st.integers(-9, 9))
    return total


batches = st.integers(0, 1000)


@given(dims(), dims(), batches)
def test_arithmetic_agrees_with_numbers(a, b, batch):
    x, y = at(a, batch), at(b, batch)
    assert at(a + b, batch) == x + y
    assert at(a - b, batch) == x - y
    assert at(a * b, batch) == x * y
    assert at(-a, batch) == -x


@given(dims(), dims(), dims())
def test_it_is_a_ring(a, b, c):
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0
    assert isinstance(a - a, int), "a constant is a plain number"


@given(dims(), dims())
def test_division_inverts_multiplication(a, b):
    assume(b != 0)
    assert divide(a * b, b) == a


@given(dims(), dims())
def test_division_is_exact_or_refused(a, b):
    quotient = divide(a, b)
    if quotient is None:
        assert b == 0 or not isinstance(a, int) or not isinstance(b, int) or a % b
    else:
        assert quotient * b == a


def test_division_examples():
    assert divide(12, 4) == 3
    assert divide(13, 4) is None
    assert divide(BATCH * 6, 3) == BATCH * 2
    assert divide(BATCH * BATCH - 1, BATCH + 1) == BATCH - 1
    assert divide(BATCH, BATCH * BATCH) is None
    assert divide(0, BATCH) == 0
    assert divide(5, 0) is None


@given(dims())
def test_text_is_read_back(a):
    assert parse_dim(str(a)) == a


@given(dims(), dims())
def test_equal_sizes_have_equal_hashes_and_texts(a, b):
    assert (a == b) == (str(a) == str(b))
    if a == b:
        assert hash(a) == hash(b)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("-3", -3),
        ("B", BATCH),
        ("2*B", BATCH * 2),
        ("B^2+B-1", BATCH * BATCH + BATCH - 1),
        ("+B", BATCH),
        ("B^0", 1),
    ],
)
def test_texts(text, size):
    assert parse_dim(text) == size


@pytest.mark.parametrize(
    "text", ["", " ", "B2", "2B", "5*", "2 3", "--B", "B^", "B^999", "C", "1.5", "9" * 5000, "B+", "∞", "٣"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(GraphError):
        parse_dim(text)


@given(st.text(max_size=12) | st.text("B0123456789+-*^ ", max_size=12))
def test_any_text_is_a_size_or_refused(text):
    try:
        size = parse_dim(text)
    except ChainruleError:
        return
    assert parse_dim(str(size)) == size


def test_shapes():
    assert product(()) == 1
    assert product((BATCH, 2, BATCH)) == BATCH * BATCH * 2
    assert product((BATCH, 0)) == 0
    assert shape_at((BATCH, BATCH * 2 + 1, 3), 5) == (5, 11, 3)
    assert is_symbolic((1, BATCH))
    assert not is_symbolic((1, 2))


@pytest.mark.parametrize("use", [int, bool, range, lambda s: [0][s], lambda s: s < 3, lambda s: s >= 3])
def test_a_symbolic_size_is_no_number(use):
    with pytest.raises(TraceError, match=r"the size B depends on the batch size.*chainrule\.ops\.extent"):
        use(BATCH)


def test_a_symbolic_size_is_comparable():
    assert Size((0, 1)) == BATCH
    assert BATCH != 5
    assert BATCH != BATCH * 2
