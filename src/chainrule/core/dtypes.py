"""Element types by name, with the short forms used in graph text (``f32``, ``i64``...).

Names are plain strings rather than ``numpy.dtype`` objects so that a type NumPy lacks (bfloat16) can be added.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import DTypeError

DType = str

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
}
LONG: Final[dict[str, DType]] = {short: name for name, short in SHORT.items()}

FLOATS: Final = frozenset({FLOAT32, FLOAT64})
INTEGERS: Final = frozenset({INT32, INT64, UINT32})
NUMBERS: Final = FLOATS | INTEGERS
ALL: Final = NUMBERS | {BOOL}

_NUMPY: Final[dict[DType, np.dtype[Any]]] = {name: np.dtype(name) for name in SHORT}
_NAMES: Final[dict[np.dtype[Any], DType]] = {dtype: name for name, dtype in _NUMPY.items()}

# A wider type wins; a float always wins over an integer of any width, so that an index never widens a network.
_RANK: Final = {BOOL: 0, UINT32: 1, INT32: 2, INT64: 3, FLOAT32: 4, FLOAT64: 5}


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
    """The common type of several operands: the highest of bool < uint32 < int32 < int64 < float32 < float64."""
    best = max(dtypes, key=lambda d: _RANK[d])
    if best == INT32 and UINT32 in dtypes:
        return INT64
    return best
