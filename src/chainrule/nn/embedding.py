"""A table of learned vectors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.nn.initialisers import Initialiser, normal
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_size
from chainrule.ops.arrays import take
from chainrule.ops.math import stop_gradient, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation

_STANDARD_NORMAL = functools.partial(normal, std=1.0)


class Embedding(Module):
    """``y[...] = weight[x[...]]``: a vector of ``dim`` numbers for each integer from 0 to ``num`` - 1, x of any shape.

    The gradient of a row is the sum over the places where it was used. ``padding_idx`` is a row that starts at 0 and
    gets no gradient, for positions of a sequence that hold nothing. ``weight`` has shape (num, dim) and starts from
    ``init``, the standard normal by default, as in PyTorch. Bengio et al., JMLR 2003. Raises :class:`DTypeError` for
    floating-point input, and :class:`DataError` for an integer outside the table where the numbers are known; in a
    traced step such a place becomes NaN.
    """

    def __init__(
        self,
        num: int,
        dim: int,
        padding_idx: int | None = None,
        *,
        init: Initialiser = _STANDARD_NORMAL,
        key: Any = None,
    ) -> None:
        check_size("Embedding", "num", num)
        check_size("Embedding", "dim", dim)
        if padding_idx is not None and not -num <= padding_idx < num:
            raise ConfigError(f"Embedding of {num} rows has no row padding_idx={padding_idx!r}")
        self.padding_idx = None if padding_idx is None else int(padding_idx) % num
        weight = init((num, dim), key=key)
        if weight.shape != (num, dim):
            raise ShapeError(f"the initialiser of Embedding returned shape {weight.shape} when asked for {(num, dim)}")
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        self.weight = weight

    def forward(self, x: ArrayLike) -> Any:
        return _embedded(x, self.weight, self.padding_idx)


@operation
def _embedded(x: ArrayLike, weight: ArrayLike, padding: int | None) -> Any:
    places, table = as_array(x), as_array(weight)
    rows = int(table.shape[0])
    if places.value.dtype in FLOATS:
        raise DTypeError(
            f"Embedding needs integers from 0 to {rows - 1}, not {places.dtype}; convert them with .astype(int)"
        )
    if not isinstance(x, Array):
        known = np.asarray(x)
        wrong = np.argwhere((known < 0) | (known >= rows))
        if len(wrong):
            place = tuple(map(int, wrong[0]))
            raise DataError(
                f"Embedding has rows 0 to {rows - 1}, but position {place} of its input holds {known[place]}"
            )
    if places.value.dtype == "bool":
        places = places.astype("int64")
    taken: Array = take(table, places)
    used = places.reshape((*places.shape, 1))
    if padding is not None:
        taken = where(used == padding, stop_gradient(table[padding]), taken)
    return where((used >= 0) & (used < rows), taken, np.nan)
