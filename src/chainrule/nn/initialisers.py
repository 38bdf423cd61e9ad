"""Initial weights.

An initialiser is a function ``(shape, *, key=None, dtype="float32") -> array``. Some have more options, which
``functools.partial(initialisers.normal, std=0.02)`` sets. Fans are read from the last two axes, (..., in, out), of a
channels-last weight; axes before them are a convolution's window and multiply both.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chainrule.core.blas import one_thread
from chainrule.core.errors import ShapeError
from chainrule.ops import random

NDArray = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Initialiser(Protocol):
    def __call__(self, shape: Shape, *, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray: ...


def fans(shape: Shape) -> tuple[int, int]:
    """``(fan_in, fan_out)``: how many inputs each output sums, and how many outputs each input reaches."""
    if len(shape) < 2:
        raise ShapeError(
            f"a weight of shape {tuple(shape)} has no fan-in and fan-out; use zeros, constant, normal or uniform for it"
        )
    window = math.prod(shape[:-2])
    return max(1, window * shape[-2]), max(1, window * shape[-1])


def glorot_uniform(shape: Shape, *, gain: float = 1.0, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """Uniform with variance ``gain² · 2 / (fan_in + fan_out)``. Glorot & Bengio, AISTATS 2010."""
    return _uniform_of_variance(shape, gain**2 * 2 / sum(fans(shape)), key, dtype)


def glorot_normal(shape: Shape, *, gain: float = 1.0, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """Normal with variance ``gain² · 2 / (fan_in + fan_out)``. Glorot & Bengio, AISTATS 2010."""
    return normal(shape, std=gain * math.sqrt(2 / sum(fans(shape))), key=key, dtype=dtype)


def he_uniform(shape: Shape, *, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """Uniform with variance ``2 / fan_in``, for layers before a ReLU. He et al., ICCV 2015."""
    return _uniform_of_variance(shape, 2 / fans(shape)[0], key, dtype)


def he_normal(shape: Shape, *, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """Normal with variance ``2 / fan_in``, for layers before a ReLU. He et al., ICCV 2015."""
    return normal(shape, std=math.sqrt(2 / fans(shape)[0]), key=key, dtype=dtype)


def lecun_normal(shape: Shape, *, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """Normal with variance ``1 / fan_in``. LeCun et al., Efficient BackProp, 1998."""
    return normal(shape, std=math.sqrt(1 / fans(shape)[0]), key=key, dtype=dtype)


def orthogonal(shape: Shape, *, gain: float = 1.0, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """``gain`` times a matrix with orthonormal rows or columns, whichever are fewer; leading axes count as rows.

    Uniform over such matrices: the QR decomposition of a normal matrix with R's diagonal made positive. Saxe, McClelland &
    Ganguli, ICLR 2014; Mezzadri 2007.
    """
    fans(shape)  # refuses vectors
    rows, columns = math.prod(shape[:-1]), shape[-1]
    source = np.asarray(random.normal((max(rows, columns), min(rows, columns)), key=key, dtype="float64"))
    with one_thread():
        q, r = np.linalg.qr(source)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray((gain * (q if rows >= columns else q.T)).reshape(shape), dtype=dtype)


def normal(
    shape: Shape, *, mean: float = 0.0, std: float = 0.01, key: Any = None, dtype: npt.DTypeLike = "float32"
) -> NDArray:
    """Normal with a given mean and standard deviation."""
    drawn: NDArray = random.normal(shape, mean, std, key=key, dtype=dtype)
    return drawn


def uniform(
    shape: Shape, *, low: float = -0.05, high: float = 0.05, key: Any = None, dtype: npt.DTypeLike = "float32"
) -> NDArray:
    """Uniform in [low, high)."""
    drawn: NDArray = random.uniform(shape, low, high, key=key, dtype=dtype)
    return drawn


def constant(shape: Shape, *, value: float, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """One value everywhere; the key is not used."""
    return np.full(shape, value, dtype)


def zeros(shape: Shape, *, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """0 everywhere; the key is not used."""
    return np.zeros(shape, dtype)


def ones(shape: Shape, *, key: Any = None, dtype: npt.DTypeLike = "float32") -> NDArray:
    """1 everywhere; the key is not used."""
    return np.ones(shape, dtype)


def _uniform_of_variance(shape: Shape, variance: float, key: Any, dtype: npt.DTypeLike) -> NDArray:
    bound = math.sqrt(3 * variance)
    return uniform(shape, low=-bound, high=bound, key=key, dtype=dtype)
