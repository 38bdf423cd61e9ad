"""Element types by name, with the short forms used in graph text (``f32``, ``i64``...).

Names are plain strings rather than ``numpy.dtype`` objects, since one type is not NumPy's own: arrays of bfloat16, the upper half
of a float32 (8 bits of exponent, 8 of significand), have the element type of the ``ml_dtypes`` package. It is for storage: what is
computed of it is computed in float32.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from chainrule.core.errors import DTypeError

DType = str

BFLOAT16: Final = "bfloat16"
FLOAT32: Final = "float32"
FLOAT64: Final = "float64"
INT32: Final = "int32"
INT64: Final = "int64"
UINT32: Final = "uint32"
BOOL: Final = "bool"

SHORT: Final[dict[DType, str]] = {
    FLOAT32: "f32",
    FLOAT64: "f64",
    INT32: "i32",
    INT64: "i64",
    UINT32: "u32",
    BOOL: "bool",
    BFLOAT16: "bf16",
}
LONG: Final[dict[str, DType]] = {short: name for name, short in SHORT.items()}

# What arithmetic is done in, and all that have gradients.
WIDE_FLOATS: Final = frozenset({FLOAT32, FLOAT64})
FLOATS: Final = WIDE_FLOATS | {BFLOAT16}
INTEGERS: Final = frozenset({INT32, INT64, UINT32})
NUMBERS: Final = FLOATS | INTEGERS
ALL: Final = NUMBERS | {BOOL}

_NUMPY: Final[dict[DType, np.dtype[Any]]] = {
    name: np.dtype(ml_dtypes.bfloat16 if name == BFLOAT16 else name) for name in SHORT
}
_NAMES: Final[dict[np.dtype[Any], DType]] = {dtype: name for name, dtype in _NUMPY.items()}

# A wider type wins; a float always wins over an integer of any width, so that an index never widens a network.
_RANK: Final = {BOOL: 0, UINT32: 1, INT32: 2, INT64: 3, BFLOAT16: 4, FLOAT32: 5, FLOAT64: 6}


def dtype_name(dtype: npt.DTypeLike) -> DType:
    """The Chainrule name of a NumPy type; raises :class:`DTypeError` for a type Chainrule does not compute with."""
    found = np.dtype(dtype)
    name = _NAMES.get(found) or _NAMES.get(found.newbyteorder("="))
    if name is None:
        raise DTypeError(f"element type {found.name} is not supported; convert to one of {', '.join(SHORT)}")
    return name


def to_numpy(dtype: DType) -> np.dtype[Any]:
    return _NUMPY[dtype]


def promote(*dtypes: DType) -> DType:
    """The common type of several operands: the highest of bool < uint32 < int32 < int64 < bfloat16 < float32 < float64."""
    best = max(dtypes, key=lambda d: _RANK[d])
    if best == INT32 and UINT32 in dtypes:
        return INT64
    return best


def accumulator(dtype: DType) -> DType:
    """The type that sums of elements are kept in, and come out in: float32 for bfloat16, otherwise the same."""
    return FLOAT32 if dtype == BFLOAT16 else dtype


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a NumPy type holds floating-point numbers; NumPy itself does not count bfloat16 among them."""
    return dtype.kind == "f" or dtype == _NUMPY[BFLOAT16]


def convert(array: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """An array as another element type, itself if it has that type; to bfloat16 rounded once, to nearest, ties to even.

    NumPy would round a wider number to float32 first, and then once more. Floats become integers as in Rust and XLA: rounded
    towards zero, the end of the type where they lie beyond it, and 0 for NaN; NumPy leaves that to the machine. Integers wrap.
    """
    if dtype in INTEGERS and is_float(array.dtype):
        return _to_integers(array, dtype)
    if dtype != BFLOAT16 or array.dtype == np.float32:
        return array.astype(_NUMPY[dtype], copy=False)
    if array.dtype == _NUMPY[BFLOAT16]:
        return array
    return _towards_odd(array).astype(_NUMPY[BFLOAT16])


def _to_integers(array: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    wanted, limits = _NUMPY[dtype], np.iinfo(_NUMPY[dtype])
    # Of both limits and of every float, float64 holds the exact number, once the highest limit is made even.
    exact, end = array.astype(np.float64, copy=False), float(int(limits.max) + 1)
    inside = (exact >= limits.min) & (exact < end)
    if inside.all():
        return exact.astype(wanted)
    beyond = np.where(exact >= end, limits.max, np.where(exact < limits.min, limits.min, 0))
    return np.where(inside, np.where(inside, exact, 0).astype(wanted), beyond.astype(wanted))


def _towards_odd(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As float32 from which a type with two bits less is rounded as from the number itself: what is inexact becomes odd.

    Boldo & Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.
    """
    if array.dtype == np.int64:
        # Whole numbers of more than 53 bits are made odd in the twelfth, which leaves as many as a float64 holds.
        high = array >> 53
        large = (high != 0) & (high != -1)
        array = np.where(large, (array >> 11 | ((array & 2047) != 0)) << 11, array)
    exact = array.astype(np.float64)
    nearest = exact.astype(np.float32)
    bits = nearest.view(np.uint32)
    inexact = (nearest != exact) & (exact == exact)
    below = bits - (np.abs(nearest) > np.abs(exact)).astype(np.uint32)
    return np.where(inexact, below | np.uint32(1), bits).view(np.float32)
