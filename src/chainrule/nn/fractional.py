"""Maxima under windows at random places, so that an image shrinks by any factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from chainrule.core.dtypes import FLOAT32, WIDE_FLOATS
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.ops import random
from chainrule.ops.arrays import arange, argmax, broadcast_to, concatenate, take_along
from chainrule.ops.convolutions import PerAxis, per_axis
from chainrule.ops.math import floor
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class _FractionalMaxPool(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: PerAxis,
        output_size: PerAxis | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
    ) -> None:
        name = type(self).__name__
        if (output_size is None) == (output_ratio is None):
            raise ConfigError(f"{name} needs either output_size or output_ratio")
        self.kernel_size = per_axis(kernel_size, self.rank, "kernel_size")
        self.output_size = None if output_size is None else per_axis(output_size, self.rank, "output_size")
        self.output_ratio = None if output_ratio is None else _ratios(name, output_ratio, self.rank)
        self.return_indices = bool(return_indices)

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None, samples: ArrayLike | None = None) -> Any:
        return _pooled(x, self.kernel_size, self.output_size, self.output_ratio, self.return_indices, key, samples)


class FractionalMaxPool2d(_FractionalMaxPool):
    """The largest of each channel under ``output_size`` windows at random places of (batch, height, width, channels).

    Along an axis of n positions the window number i of o, of size k, begins at ``⌊(i + u)α⌋ - ⌊uα⌋`` with ``α = (n - k)/(o -
    1)``, the last at n - k: u is uniform in [0, 1), drawn for each example, channel and axis, in training and at inference.
    There are ``output_size`` windows, or ``⌊n · output_ratio⌋``. Where several elements are the largest the first gets the
    gradient; ``return_indices`` as in :class:`MaxPool2d`. Random numbers come from ``key=`` of the call, else from the
    step's key or :func:`chainrule.seed`, or are the ``samples`` u (batch, channels, 2) of the call: of the width before the
    height, as in PyTorch. Graham 2014. Raises :class:`ShapeError` for an image that is too small, or without batch axis.
    """

    rank = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """The largest under windows at random places of volumes; ``samples`` are those of depth, height and width.

    See :class:`FractionalMaxPool2d`.
    """

    rank = 3


def _ratios(layer: str, ratio: float | Sequence[float], rank: int) -> tuple[float, ...]:
    given: list[Any] = list(ratio) if isinstance(ratio, list | tuple) else [ratio] * rank
    if len(given) != rank or not all(isinstance(r, int | float) and 0 < r < 1 for r in given):
        raise ConfigError(f"output_ratio of {layer} is a number between 0 and 1, or {rank} of them, not {ratio!r}")
    return tuple(float(one) for one in given)


@operation
def _pooled(
    x: ArrayLike,
    kernel: tuple[int, ...],
    size: tuple[int, ...] | None,
    ratio: tuple[float, ...] | None,
    return_indices: bool,
    key: ArrayLike | None,
    samples: ArrayLike | None,
) -> Any:
    array = as_array(x)
    rank = len(kernel)
    spatial = [n for n in array.shape[1:-1] if isinstance(n, int)]
    if array.ndim != rank + 2 or len(spatial) != rank:
        raise ShapeError(
            f"fractional pooling over {rank} axes needs input of shape (batch, *spatial, channels), not {show_shape(array.shape)}"
        )
    places = size or tuple(math.floor(n * r) for n, r in zip(spatial, ratio or (), strict=True))
    if any(o < 1 or o + k - 1 > n for o, k, n in zip(places, kernel, spatial, strict=True)):
        raise ShapeError(f"{places} windows {kernel} do not fit into the positions {tuple(spatial)}")
    planes = (array.shape[0], array.shape[-1])
    dtype = array.value.dtype if array.value.dtype in WIDE_FLOATS else FLOAT32
    drawn = random.uniform((*planes, rank), key=key, dtype=dtype) if samples is None else as_array(samples)
    if drawn.shape != (*planes, rank):
        raise ShapeError(f"the samples should have shape {show_shape((*planes, rank))}, not {show_shape(drawn.shape)}")
    order = range(rank) if rank == 3 else range(rank - 1, -1, -1)
    # For each axis the positions that windows read, (batch, channels, places, elements).
    read = [
        _starts(drawn[..., number], n, o, k)[..., None] + arange(k)
        for number, n, o, k in zip(order, spatial, places, kernel, strict=True)
    ]
    under = array.transpose(0, rank + 1, *range(1, rank + 1))
    for positions, o, k in zip(read, places, kernel, strict=True):
        index = positions.reshape((*planes, o * k))
        taken = Array(under.home.gather(under.value, index.value, 2), under.home)
        under = taken.transpose(0, 1, *range(3, rank + 2), 2)
    elements = _by_window(under, planes, places, kernel)
    winner = argmax(elements, -1)
    last = (0, *range(2, rank + 2), 1)
    largest = take_along(elements, winner).transpose(*last)
    if not return_indices:
        return largest
    number: Any = 0
    for axis, positions in enumerate(read):
        flat = positions.reshape(
            (*planes, *(o * k if a == axis else 1 for a, (o, k) in enumerate(zip(places, kernel))))
        )
        number = number + flat * math.prod(spatial[axis + 1 :])
    return largest, take_along(_by_window(number, planes, places, kernel), winner).transpose(*last)


def _starts(sample: Array, size: int, places: int, window: int) -> Array:
    """Where the windows along an axis begin, (batch, channels, places)."""
    last: Array = broadcast_to(as_array(size - window).astype("int64"), (*sample.shape, 1))
    if places == 1:
        return last
    alpha = (size - window) / (places - 1)
    first = floor(sample * alpha)[..., None]
    begins = (floor((sample[..., None] + arange(places - 1, sample.dtype)) * alpha) - first).astype("int64")
    joined: Array = concatenate([begins, last], -1)
    return joined


def _by_window(x: Array, planes: tuple[Any, ...], places: Sequence[int], kernel: Sequence[int]) -> Array:
    """(batch, channels, places · elements of each axis) as (batch, channels, *places, elements)."""
    rank = len(places)
    apart = x.reshape((*planes, *(n for pair in zip(places, kernel, strict=True) for n in pair)))
    axes = [*range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    ordered: Array = apart.transpose(0, 1, *axes)
    return ordered.reshape((*planes, *places, math.prod(kernel)))
