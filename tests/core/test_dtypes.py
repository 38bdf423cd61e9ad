"""Element types by name, and the one that several have in common."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from chainrule.core.dtypes import ALL, FLOATS, LONG, SHORT, dtype_name, promote, to_numpy
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
