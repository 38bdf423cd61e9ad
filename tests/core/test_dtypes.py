"""Element types by name, and the one that several have in common."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chainrule.core.dtypes import ALL, FLOATS, LONG, SHORT, convert, dtype_name, is_float, promote, to_numpy
from chainrule.core.errors import DTypeError


def test_names_are_numpys_and_short_forms_are_unique():
    for name in ALL:
        assert to_numpy(name).name == name == dtype_name(name) == LONG[SHORT[name]]
    assert set(SHORT) == ALL


@pytest.mark.parametrize("dtype", ["float16", "complex64", "int8", "uint64", "U3", "O", "M8[s]"])
def test_other_types_are_refused_by_name(dtype):
    with pytest.raises(DTypeError, match=r"is not supported; convert to one of float32"):
        dtype_name(dtype)


TABLE = {
    ("bool", "uint32"): "uint32",
    ("bool", "int32"): "int32",
    ("bool", "float32"): "float32",
    ("uint32", "int32"): "int64",
    ("uint32", "int64"): "int64",
    ("int32", "int64"): "int64",
    ("int64", "float32"): "float32",
    ("uint32", "float32"): "float32",
    ("int64", "float64"): "float64",
    ("float32", "float64"): "float64",
    ("int64", "bfloat16"): "bfloat16",
    ("bfloat16", "float32"): "float32",
    ("bfloat16", "float64"): "float64",
}


@pytest.mark.parametrize("pair", TABLE, ids=str)
def test_promotion(pair):
    assert promote(*pair) == promote(*reversed(pair)) == TABLE[pair]


def test_promotion_is_idempotent_symmetric_and_holds_every_integer():
    for a, b in itertools.product(ALL, ALL):
        assert promote(a, a) == a
        assert promote(a, b) == promote(b, a)
        if not {a, b} & FLOATS:
            assert promote(a, b) == np.promote_types(a, b).name


def test_floats_are_known_by_their_numpy_types():
    assert {name for name in ALL if is_float(to_numpy(name))} == FLOATS
    assert is_float(np.dtype(np.float16))
    assert not is_float(np.dtype("V2"))


def bits(x):
    return np.asarray(x).view(np.uint16)


def narrow(x):
    with np.errstate(all="ignore"):
        return convert(x, "bfloat16")


def test_float32_is_rounded_to_nearest_even_as_in_pytorch():
    """Every bfloat16, with every way of lying between it and the next; infinities, overflow and denormal numbers among them."""
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    wide = (np.arange(2**16, dtype=np.uint32)[:, None] << 16 | lower).ravel().view(np.float32)
    found, expected = narrow(wide), torch.from_numpy(wide).to(torch.bfloat16)
    nan = np.isnan(wide)
    np.testing.assert_array_equal(bits(found)[~nan], expected.view(torch.uint16).numpy()[~nan])
    assert np.isnan(found[nan].astype(np.float32)).all()
    assert np.isnan(wide[nan]).all()


EVERY = np.arange(0x7F80, dtype=np.uint16).view(to_numpy("bfloat16")).astype(np.float64)
LIMIT = 2.0**128  # where the next one would be, were there room for its exponent


def nearest(x):
    """The bfloat16 nearest to a number, of two equally near the one whose last bit is 0; found by exact arithmetic."""
    size = abs(Fraction(x))
    k = int(np.searchsorted(EVERY, float(size), side="right")) - 1
    while k and Fraction(EVERY[k]) > size:  # float(size) may have been rounded up
        k -= 1
    below, above = EVERY[k], EVERY[k + 1] if k + 1 < len(EVERY) else LIMIT
    rest = 2 * (size - Fraction(below)) - (Fraction(above) - Fraction(below))
    chosen = above if rest > 0 or (rest == 0 and k % 2) else below
    return np.copysign(np.inf if chosen == LIMIT else chosen, x)


def test_float64_is_rounded_once():
    """A number just off the middle between two must not be rounded to the middle first."""
    middle = (EVERY[1:] + EVERY[:-1]) / 2
    for wide, expected in (
        (np.nextafter(middle, 0), EVERY[:-1]),
        (np.nextafter(middle, np.inf), EVERY[1:]),
        (middle, np.where(np.arange(len(middle)) % 2, EVERY[1:], EVERY[:-1])),
    ):
        np.testing.assert_array_equal(narrow(wide).astype(np.float64), expected)
        np.testing.assert_array_equal(narrow(-wide).astype(np.float64), -expected)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float64_is_rounded_to_the_nearest(x):
    assert narrow(np.array(x)).item() == nearest(x)
    assert np.signbit(narrow(np.array(x)).item()) == np.signbit(x)


@given(
    st.builds(lambda k, d: k * 2**54 + d, st.integers(-(2**9), 2**9 - 1), st.integers(0, 4) | st.integers(0, 2**54 - 1))
)
def test_whole_numbers_are_rounded_once(x):
    assert narrow(np.array([x], np.int64)).item() == nearest(x)


def test_other_conversions():
    assert narrow(np.array([True, False])).tolist() == [1.0, 0.0]
    assert narrow(np.array([257, 259, 2**32 - 1], np.uint32)).tolist() == [256.0, 260.0, 2.0**32]
    special = narrow(np.array([np.inf, -np.inf, -0.0, 1e300]))
    np.testing.assert_array_equal(bits(special), [0x7F80, 0xFF80, 0x8000, 0x7F80])
    assert np.isnan(narrow(np.array(np.nan)).item())
    x = narrow(np.arange(3.0))
    assert convert(x, "bfloat16") is x
