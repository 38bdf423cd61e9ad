"""A table of learned vectors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import ConfigError, DTypeError, ShapeError
from chainrule.nn.initialisers import Initialiser, normal
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_size
from chainrule.ops.arrays import ones, scatter_add, take
from chainrule.ops.known import refuse_outside
from chainrule.ops.loops import operation_with_rule
from chainrule.ops.math import stop_gradient, where
from chainrule.ops.vectors import vector_norm
from chainrule.trace.array import Array, ArrayLike, as_array, operation

STANDARD_NORMAL = functools.partial(normal, std=1.0)


class Table(Module):
    """``num`` vectors of ``dim`` numbers, and how they are looked up: what :class:`Embedding` and ``EmbeddingBag`` share."""

    def __init__(
        self,
        num: int,
        dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        *,
        init: Initialiser = STANDARD_NORMAL,
        key: Any = None,
    ) -> None:
        name = type(self).__name__
        check_size(name, "num", num)
        check_size(name, "dim", dim)
        if padding_idx is not None and not -num <= padding_idx < num:
            raise ConfigError(f"{name} of {num} rows has no row padding_idx={padding_idx!r}")
        if (max_norm is not None and not max_norm > 0) or not norm_type > 0:
            raise ConfigError(f"{name} needs max_norm and norm_type above 0, not {max_norm!r} and {norm_type!r}")
        self.padding_idx = None if padding_idx is None else int(padding_idx) % num
        self.max_norm = None if max_norm is None else float(max_norm)
        self.norm_type = float(norm_type)
        self.scale_grad_by_freq = bool(scale_grad_by_freq)
        weight = init((num, dim), key=key)
        if weight.shape != (num, dim):
            raise ShapeError(f"the initialiser of {name} returned shape {weight.shape} when asked for {(num, dim)}")
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        self.weight = weight


class Embedding(Table):
    """``y[...] = weight[x[...]]``: a vector of ``dim`` numbers for each integer from 0 to ``num`` - 1, x of any shape.

    The gradient of a row is the sum over the places where it was used, or with ``scale_grad_by_freq`` their mean.
    ``padding_idx`` is a row that starts at 0 and gets no gradient, for positions of a sequence that hold nothing. ``weight``
    has shape (num, dim) and starts from ``init``, the standard normal by default, as in PyTorch. Bengio et al., JMLR 2003.
    Raises :class:`DTypeError` for floating-point input, and :class:`DataError` for an integer outside the table where the
    numbers are known; in a traced step such a place becomes NaN.

    With ``max_norm`` a vector v whose norm, of the power ``norm_type``, is larger comes out as ``v · max_norm / (norm +
    1e-7)``. PyTorch shortens the rows of its table when they are looked up. Here a call changes nothing: what comes out is
    shortened, its gradient goes to the row as if that had been short (as in PyTorch), and the row stays as long as it is;
    :func:`chainrule.optim.limit_norm` behind the optimiser shortens the rows themselves.
    """

    def forward(self, x: ArrayLike) -> Any:
        return looked_up(x, self)


@operation
def looked_up(x: ArrayLike, layer: Table) -> Any:
    """The row of a table for each integer."""
    places, table, padding = as_array(x), as_array(layer.weight), layer.padding_idx
    rows = int(table.shape[0])
    if places.value.dtype in FLOATS:
        raise DTypeError(
            f"{type(layer).__name__} needs integers from 0 to {rows - 1}, not {places.dtype}; convert them with .astype(int)"
        )
    refuse_outside(x, 0, rows - 1, f"{type(layer).__name__} needs integers from 0 to {rows - 1}")
    if places.value.dtype == "bool":
        places = places.astype("int64")
    taken: Array = take(table, places)
    if layer.max_norm is not None:
        taken = _limited(taken, layer.max_norm, layer.norm_type)
    if layer.scale_grad_by_freq:
        count = take(scatter_add(ones(places.shape, taken.dtype), places, rows), places)
        taken = _with_gradient_times(taken, (1 / where(count > 0, count, 1))[..., None])
    used = places.reshape((*places.shape, 1))
    if padding is not None:
        taken = where(used == padding, stop_gradient(taken), taken)
    return where((used >= 0) & (used < rows), taken, np.nan)


def _limited(x: Array, most: float, p: float) -> Array:
    """Vectors that are not longer; the gradient is that of what comes out."""
    length = vector_norm(x, p, keepdims=True)
    share = where(length > most, most / (length + 1e-7), 1)
    limited: Array = operation_with_rule(lambda x, share: x * share, lambda _, __, g: [g[0], None], label="limit")(
        x, share
    )
    return limited


def _with_gradient_times(x: Array, factor: Array) -> Array:
    """x, whose cotangent is multiplied on its way back."""
    scaled: Array = operation_with_rule(lambda x, _: x, lambda i, _, g: [g[0] * i[1], None], label="scale")(x, factor)
    return scaled
