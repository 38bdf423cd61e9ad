"""Sums, means and maxima of learned vectors: an embedding of a bag of integers."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from chainrule.core.errors import ConfigError, DataError, ShapeError
from chainrule.nn.embedding import STANDARD_NORMAL, Table, looked_up
from chainrule.nn.initialisers import Initialiser
from chainrule.ops.arrays import arange, argmax, broadcast_to, extent, scatter_add, take, take_along
from chainrule.ops.math import maximum, stop_gradient, where
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

Mode = Literal["mean", "sum", "max"]


class EmbeddingBag(Table):
    """``y[b] = Σ weight[x]`` over the integers x of bag b, their mean by default, or the largest of each feature.

    ``layer(x)`` takes bags of one size (batch, size); ``layer(x, offsets)`` integers (n,) of which bag b holds those from
    ``offsets[b]`` up to the next offset, the last bag those up to the end (or with ``include_last_offset`` up to the last
    offset, which is n and begins no bag). The result is (batch, dim), and 0 for a bag of nothing. ``padding_idx`` is a row
    that counts for nothing, not in a mean either. With ``mode="sum"`` a call takes ``per_sample_weights`` w of the shape of
    x, for ``Σ w·weight[x]``. In ``mode="max"`` the first of equal elements gets the gradient. The other options and the
    errors are those of :class:`Embedding`; ``scale_grad_by_freq`` is not for maxima. Joulin et al., EACL 2017.
    """

    def __init__(
        self,
        num: int,
        dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: Mode = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        init: Initialiser = STANDARD_NORMAL,
        key: Any = None,
    ) -> None:
        super().__init__(num, dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, init=init, key=key)
        if mode not in get_args(Mode):
            raise ConfigError(f"the mode of EmbeddingBag is 'mean', 'sum' or 'max', not {mode!r}")
        if mode == "max" and scale_grad_by_freq:
            raise ConfigError("scale_grad_by_freq of EmbeddingBag is for sums and means, not for mode='max'")
        self.mode = mode
        self.include_last_offset = bool(include_last_offset)

    def forward(
        self, x: ArrayLike, offsets: ArrayLike | None = None, per_sample_weights: ArrayLike | None = None
    ) -> Any:
        return _bagged(x, offsets, per_sample_weights, self)


@operation
def _bagged(x: ArrayLike, offsets: ArrayLike | None, weights: ArrayLike | None, layer: EmbeddingBag) -> Any:
    places = as_array(x)
    if places.ndim != (2 if offsets is None else 1):
        wanted = "(batch, size), or (n,) together with offsets" if offsets is None else "(n,) beside offsets"
        raise ShapeError(f"EmbeddingBag takes integers of shape {wanted}, not {show_shape(places.shape)}")
    rows: Array = looked_up(x, layer)
    counts = places == places if layer.padding_idx is None else places != layer.padding_idx
    if weights is not None:
        if layer.mode != "sum":
            raise ConfigError(f"per_sample_weights of EmbeddingBag are for mode='sum', not {layer.mode!r}")
        shares = as_array(weights)
        if shares.shape != places.shape:
            raise ShapeError(
                f"there should be a weight for each of the integers of shape {show_shape(places.shape)}, not weights of shape "
                f"{show_shape(shares.shape)}"
            )
        rows = rows * shares.astype(rows.dtype)[..., None]
    if offsets is None:
        return _of_one_size(rows, counts, layer.mode)
    starts = _starts(offsets, places, layer.include_last_offset)
    return _between_offsets(rows, counts, starts, layer.mode)


def _of_one_size(rows: Array, counts: Array, mode: str) -> Array:
    """Rows (B, N, dim) over the bags (B, N)."""
    number = counts.astype(rows.dtype).sum(1)[:, None]
    if mode == "max":
        by_feature = rows.transpose(0, 2, 1)
        first = argmax(where(counts[:, None], stop_gradient(by_feature), -np.inf), -1)
        largest: Array = where(number > 0, take_along(by_feature, first), 0)
        return largest
    total: Array = where(counts[..., None], rows, 0).sum(1)
    return total / maximum(number, 1) if mode == "mean" else total


def _starts(offsets: ArrayLike, places: Array, with_end: bool) -> Array:
    """Where bags begin."""
    starts = as_array(offsets)
    if starts.ndim != 1:
        raise ShapeError(f"the offsets of EmbeddingBag have the shape (batch,), not {show_shape(starts.shape)}")
    if not isinstance(offsets, Array):
        known = np.asarray(offsets)
        if known.size and (known[0] != 0 or (np.diff(known) < 0).any() or known[-1] > int(places.shape[0])):
            raise DataError(
                f"the offsets of EmbeddingBag begin at 0 and do not fall or pass the end, {places.shape[0]}, as {known.tolist()} do"
            )
    starts = starts.astype("int64")
    return starts[:-1] if with_end else starts


def _between_offsets(rows: Array, counts: Array, starts: Array, mode: str) -> Array:
    """Rows (n, dim) over the bags that begin at ``starts``."""
    bags = starts.shape[0]
    bag = _bag_of_each(starts, rows.shape[0])
    number = scatter_add(counts.astype(rows.dtype), bag, bags)[:, None]
    if mode == "max":
        by_feature = rows.transpose(1, 0)
        chosen = take(_first_largest(where(counts[:, None], stop_gradient(rows), -np.inf), bag), starts)
        largest = Array(by_feature.home.gather(by_feature.value, chosen.transpose(1, 0).value, 1), by_feature.home)
        found: Array = where(number > 0, largest.transpose(1, 0), 0)
        return found
    total: Array = scatter_add(where(counts[:, None], rows, 0), bag, bags)
    return total / maximum(number, 1) if mode == "mean" else total


def _bag_of_each(starts: Array, count: Any) -> Array:
    """For each position the last bag that does not begin after it, by bisection."""
    place, bags = arange(count), starts.shape[0]
    found: Array = 0 * place
    last = extent(bags)
    for power in reversed(range(bags.bit_length() if isinstance(bags, int) else 31)):
        later = found + 2**power
        begun = (later < last) & (take(starts, where(later < last, later, 0)) <= place)
        found = where(begun, later, found)
    return found


def _first_largest(x: Array, bag: Array) -> Array:
    """At the first position of each bag, for each feature, where its first largest element is: by doubling the reach."""
    count = x.shape[0]
    if not isinstance(count, int):
        raise ShapeError(
            "EmbeddingBag takes maxima between offsets of a fixed number of integers, not of the batch size"
        )
    place: Array = broadcast_to(arange(count)[:, None], x.shape)
    reach = 1
    while reach < count:
        after, later = (pad(a[reach:], [(0, reach), (0, 0)], -np.inf if a is x else 0) for a in (x, place))
        together = pad(bag[reach:], [(0, reach)], -1) == bag
        better = together[:, None] & (after > x)
        x, place, reach = where(better, after, x), where(better, later, place), 2 * reach
    return place
