"""Lengths of vectors, and how near or alike two of them are."""

from __future__ import annotations

import math
from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.ops.arrays import max, sum
from chainrule.ops.math import abs, maximum, sqrt, stop_gradient, where
from chainrule.trace.array import Array, ArrayLike, Axes, as_array, operation


@operation
def vector_norm(x: ArrayLike, p: float = 2.0, axis: Axes = -1, keepdims: bool = False) -> Any:
    """``(Σ |x|**p)**(1/p)`` over axes, the last by default; ``max |x|`` for p infinite. The derivative at 0 is 0.

    Raises :class:`ConfigError` unless p is more than 0.
    """
    if not p > 0:
        raise ConfigError(f"the power of a norm is more than 0, not {p!r}")
    array = as_array(x)
    array = array if array.dtype.kind == "f" else array.astype("float32")
    if p == math.inf:
        return max(abs(array), axis, keepdims)
    if p == 1:
        return sum(abs(array), axis, keepdims)
    # The powers of 0 have no derivative, so they are taken of something else.
    total = sum(array * array if p == 2 else _power(abs(array), p), axis, keepdims)
    return _power(total, 1 / p)


def _power(x: Array, p: float) -> Array:
    """``x**p`` for x from 0 on, with the derivative 0 at 0."""
    positive = x > 0
    safe = where(positive, x, 1)
    powered: Array = where(positive, sqrt(safe) if p == 0.5 else safe**p, 0)
    return powered


@operation
def cosine_similarity(x: ArrayLike, y: ArrayLike, axis: int = -1, eps: float = 1e-8) -> Any:
    """``x·y / (max(|x|, eps) max(|y|, eps))`` along an axis, the last by default; other axes are broadcast.

    The limit acts on the number alone, as in PyTorch: the gradient is that of ``x·y / (|x| |y|)``. Raises
    :class:`ConfigError` for a negative eps.
    """
    if not eps >= 0:
        raise ConfigError(f"eps of cosine_similarity is a length from 0 on, not {eps!r}")
    units = []
    for vector in (x, y):
        array = as_array(vector)
        length = vector_norm(array, 2.0, axis, keepdims=True)
        units.append(array / (length + stop_gradient(maximum(eps - length, 0))))
    return sum(units[0] * units[1], axis)


@operation
def pairwise_distance(
    x: ArrayLike, y: ArrayLike, p: float = 2.0, eps: float = 1e-6, axis: int = -1, keepdims: bool = False
) -> Any:
    """``(Σ |x - y + eps|**p)**(1/p)`` along an axis, the last by default; other axes are broadcast.

    ``eps`` makes the gradient exist where x is y, as in PyTorch.
    """
    return vector_norm(as_array(x) - as_array(y) + eps, p, axis, keepdims)
