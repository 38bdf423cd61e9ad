"""The way back from a maximum pool: every largest element to where it came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.ops.arrays import ones
from chainrule.ops.convolutions import per_axis, spatial_axes
from chainrule.ops.known import refuse_outside
from chainrule.ops.math import maximum
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


@operation
def max_unpool(x: ArrayLike, indices: ArrayLike, output_size: Sequence[int]) -> Any:
    """``y[..., indices[..., o, c], c] = x[..., o, c]``, and 0 at all other positions: a partial inverse of :func:`max_pool`.

    x is (..., *places, channels) and the result (..., *output_size, channels); ``indices`` are those of
    ``max_pool(return_indices=True)``, of the shape of x. Where windows overlap and several chose one position it gets their
    mean, which is their common value if they hold what the pool returned (PyTorch keeps any one of them). Zeiler & Fergus,
    ECCV 2014. Raises :class:`ShapeError` for indices of another shape, :class:`DTypeError` for indices that are no integers,
    and :class:`DataError` for an index outside the output where the numbers are known; in a traced step it is left out.
    """
    array, places = as_array(x), as_array(indices)
    sizes = per_axis(output_size, len(output_size), "output_size")
    rank, positions = len(sizes), math.prod(sizes)
    spatial = spatial_axes(array, rank, "unpooling")
    if places.shape != array.shape:
        raise ShapeError(
            f"unpooling needs an index for each element of {show_shape(array.shape)}, not indices of shape {show_shape(places.shape)}"
        )
    if places.value.dtype in FLOATS or places.value.dtype == "bool":
        raise DTypeError(f"unpooling needs integer indices, as max_pool(return_indices=True) gives, not {places.dtype}")
    refuse_outside(indices, 0, positions - 1, f"indices of unpooling into the size {sizes} are 0 to {positions - 1}")
    lead = array.ndim - rank - 1
    order = [*range(lead), array.ndim - 1, *range(lead, array.ndim - 1)]
    shape = (*array.shape[:lead], array.shape[-1], math.prod(spatial))
    by_channel, where_to = (a.transpose(*order).reshape(shape) for a in (array, places))
    batch = lead + 1

    def scattered(what: Array) -> Array:
        return Array(what.home.scatter_add(what.value, where_to.value, positions, batch), what.home)

    count = scattered(ones(shape, array.dtype))
    total = scattered(by_channel) / maximum(count, 1)
    back = [*range(lead), *range(lead + 1, array.ndim), lead]
    return total.reshape((*array.shape[:lead], array.shape[-1], *sizes)).transpose(*back)
