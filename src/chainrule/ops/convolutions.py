"""Convolutions of any rank, channels last, each as one contraction.

Arrays have the shape (..., *spatial, channels) with any number of leading axes, weights (*window, in, out). The rank of
the convolution is the number of axes of the window. Strides and dilations are one number for all axes or one for each;
padding is also "valid" (none), "same" (the output has ``ceil(size / stride)`` positions), or has a pair (before, after)
for some axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ir.contraction import Contraction, affine, plain
from chainrule.ir.sizes import Dim, Shape
from chainrule.ops.arrays import contract
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

PerAxis = int | Sequence[int]
Padding = int | str | Sequence[int | Sequence[int]]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@operation
def convolution(
    x: ArrayLike,
    weight: ArrayLike,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
) -> Any:
    """``out[..., o, m] = Σ_k,c x[..., stride·o + dilation·k - before, c] · weight[k, c, m]``; outside x counts as 0.

    x is (..., *spatial, in), ``weight`` (*window, in / groups, out), the result (..., *positions, out) with ``⌊(size +
    before + after - dilation·(window - 1) - 1) / stride⌋ + 1`` positions along an axis. (In signal processing this is a
    cross-correlation: the window is not flipped.) With groups, the channels are cut into as many runs, and each run of
    outputs sees its own run of inputs alone; ``groups = in`` is the depthwise convolution. A ``padding_mode`` of
    "reflect", "replicate" or "circular" puts copies of x outside x, as :func:`chainrule.ops.pad` does. Where a window reaches
    outside, infinite or NaN factors may give NaN instead of what the others give. Raises
    :class:`ShapeError` for channels that do not fit and windows larger than the padded input.
    """
    array, window = as_array(x), as_array(weight)
    rank = window.ndim - 2
    spatial, lead = spatial_axes(array, rank, "a convolution"), array.shape[: array.ndim - rank - 1]
    inner, outer = int(window.shape[-2]), int(window.shape[-1])
    if array.shape[-1] != inner * groups:
        raise ShapeError(
            f"a convolution with weights of shape {show_shape(window.shape)} in {groups} groups reads {inner * groups} channels, but "
            f"the input has shape {show_shape(array.shape)}"
        )
    if outer % groups:
        raise ShapeError(f"{outer} output channels cannot be cut into {groups} groups")
    kernel = tuple(int(size) for size in window.shape[:-2])
    strides, dilations = per_axis(stride, rank, "stride"), per_axis(dilation, rank, "dilation")
    margins = padding_of(padding, spatial, kernel, strides, dilations)
    check_padding_mode("a convolution", padding_mode)
    if padding_mode != "zeros":
        array = pad(array, [*[(0, 0)] * len(lead), *margins, (0, 0)], mode=padding_mode)
        spatial, margins = spatial_axes(array, rank, "a convolution"), ((0, 0),) * rank
    sizes = tuple(
        window_positions(axis, size, k, s, m, d)
        for axis, (size, k, s, m, d) in enumerate(zip(spatial, kernel, strides, margins, dilations, strict=True))
    )
    box = _Box([*lead, *sizes, groups, outer // groups, *kernel, inner], len(lead), rank)
    spec = Contraction(
        box.extents,
        (*plain(*box.lead, *box.place, box.group, box.outer),),
        (*plain(*box.lead), *box.windows(strides, dilations, margins), *plain(box.group, box.inner)),
        (*plain(*box.window, box.inner, box.group, box.outer),),
        (*lead, *sizes, groups, outer // groups),
    )
    summed: Array = contract(
        spec, array.reshape((*lead, *spatial, groups, inner)), window.reshape((*kernel, inner, groups, outer // groups))
    )
    return summed.reshape((*lead, *sizes, outer))


@operation
def transposed_convolution(
    x: ArrayLike,
    weight: ArrayLike,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    output_padding: PerAxis = 0,
) -> Any:
    """``out[..., stride·i + dilation·k - before, m] += x[..., i, c] · weight[k, c, m]``: the input gradient of a convolution.

    x is (..., *spatial, in), ``weight`` (*window, in, out / groups), the result (..., *sizes, out) with ``stride·(size
    - 1) + dilation·(window - 1) + 1 - before - after + output_padding`` positions along an axis. A convolution with the
    same stride, padding and dilation maps the sizes back; ``output_padding``, below the stride, chooses among the sizes
    that it maps to the same one. Raises :class:`ShapeError` for channels that do not fit and results without positions.
    """
    array, window = as_array(x), as_array(weight)
    rank = window.ndim - 2
    spatial = spatial_axes(array, rank, "a transposed convolution")
    lead = array.shape[: array.ndim - rank - 1]
    channels, outer = int(window.shape[-2]), int(window.shape[-1])
    if array.shape[-1] != channels:
        raise ShapeError(
            f"a transposed convolution with weights of shape {show_shape(window.shape)} reads {channels} channels, but the input "
            f"has shape {show_shape(array.shape)}"
        )
    if channels % groups:
        raise ShapeError(f"{channels} input channels cannot be cut into {groups} groups")
    kernel = tuple(int(size) for size in window.shape[:-2])
    strides, dilations = per_axis(stride, rank, "stride"), per_axis(dilation, rank, "dilation")
    if padding == "same":
        raise ConfigError(
            "a transposed convolution has no padding 'same'; give the number of positions to cut from each side"
        )
    margins = padding_of(padding, spatial, kernel, strides, dilations)
    more = per_axis(output_padding, rank, "output_padding", least=0)
    sizes = tuple(
        s * (size - 1) + d * (k - 1) + 1 - sum(m) + extra
        for size, k, s, d, m, extra in zip(spatial, kernel, strides, dilations, margins, more, strict=True)
    )
    if any(size < 1 for size in sizes):
        raise ShapeError(
            f"a transposed convolution of spatial shape {show_shape(spatial)} would have the shape {sizes}"
        )
    inner = channels // groups
    box = _Box([*lead, *spatial, groups, outer, *kernel, inner], len(lead), rank)
    spec = Contraction(
        box.extents,
        (*plain(*box.lead), *box.windows(strides, dilations, margins), *plain(box.group, box.outer)),
        (*plain(*box.lead, *box.place, box.group, box.inner),),
        (*plain(*box.window, box.group, box.inner, box.outer),),
        (*lead, *sizes, groups, outer),
    )
    summed: Array = contract(
        spec, array.reshape((*lead, *spatial, groups, inner)), window.reshape((*kernel, groups, inner, outer))
    )
    return summed.reshape((*lead, *sizes, groups * outer))


class _Box:
    """The indices of a convolution by name: leading axes, places, group, output channel, window, input channel."""

    def __init__(self, extents: Sequence[Dim], lead: int, rank: int) -> None:
        self.extents = tuple(extents)
        self.lead = range(lead)
        self.place = range(lead, lead + rank)
        self.group, self.outer = lead + rank, lead + rank + 1
        self.window = range(self.outer + 1, self.outer + 1 + rank)
        self.inner = self.outer + 1 + rank

    def windows(
        self, strides: Sequence[int], dilations: Sequence[int], margins: Sequence[tuple[int, int]]
    ) -> Sequence[Any]:
        """For each axis the position under element k of the window at place o: ``stride·o + dilation·k - before``."""
        return [
            affine((o, s), (k, d), offset=-before)
            for o, k, s, d, (before, _) in zip(self.place, self.window, strides, dilations, margins, strict=True)
        ]


def spatial_axes(x: Array, rank: int, what: str) -> tuple[int, ...]:
    """The sizes of the axes that windows slide along, those before the channels."""
    if rank < 1 or x.ndim < rank + 1:
        raise ShapeError(
            f"{what} over {rank} axes needs an array of rank {rank + 1} or more, not one of shape {show_shape(x.shape)}"
        )
    sizes: Shape = x.shape[x.ndim - rank - 1 : -1]
    known = tuple(size for size in sizes if isinstance(size, int))
    if len(known) < rank:
        raise ShapeError(
            f"{what} over {rank} axes cannot slide along the batch axis of an array of shape {show_shape(x.shape)}; "
            "the channels are the last axis, also where there is one channel"
        )
    return known


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0


def per_axis(value: PerAxis, rank: int, name: str, least: int = 1) -> tuple[int, ...]:
    """One integer per axis."""
    given: list[Any] = list(value) if isinstance(value, list | tuple) else [value] * rank
    sizes = tuple(int(item) for item in given if _is_count(item) and item >= least)
    if len(sizes) != rank or len(given) != rank:
        raise ConfigError(f"{name} is an integer of at least {least}, or {rank} of them, not {value!r}")
    return sizes


def padding_of(
    padding: Padding, spatial: Sequence[int], window: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """How many positions are added before and after each axis.

    "same" adds what ``ceil(size / stride)`` positions need, the smaller half before, as PyTorch (for stride 1) and
    TensorFlow do.
    """
    if padding == "same":
        reaches = [d * (k - 1) + 1 for k, d in zip(window, dilations, strict=True)]
        totals = [
            max(0, (-(-size // s) - 1) * s + reach - size)
            for size, s, reach in zip(spatial, strides, reaches, strict=True)
        ]
        return tuple((total // 2, total - total // 2) for total in totals)
    return padding_pairs(padding, len(spatial))


def padding_pairs(padding: Padding, rank: int) -> tuple[tuple[int, int], ...]:
    """Padding other than "same" as a pair for each axis; raises :class:`ConfigError` for what is none."""
    if padding == "valid":
        padding = 0
    given = list(padding) if isinstance(padding, list | tuple) else [padding] * rank
    pairs = [tuple(item) if isinstance(item, list | tuple) else (item, item) for item in given]
    if len(pairs) == rank and all(len(pair) == 2 and all(map(_is_count, pair)) for pair in pairs):
        return tuple((int(pair[0]), int(pair[1])) for pair in pairs)
    raise ConfigError(
        f"padding is 'same', 'valid', an integer of at least 0, or {rank} integers or (before, after) pairs, not {padding!r}"
    )


def check_padding_mode(what: str, mode: Any) -> None:
    """Raise :class:`ConfigError` for a mode that is none."""
    if mode not in get_args(PaddingMode):
        raise ConfigError(f"the padding_mode of {what} is one of {', '.join(get_args(PaddingMode))}, not {mode!r}")


def window_positions(axis: int, size: int, window: int, stride: int, margin: tuple[int, int], dilation: int = 1) -> int:
    """The number of places of a window along an axis."""
    reach, padded = dilation * (window - 1) + 1, size + sum(margin)
    if reach > padded:
        raise ShapeError(
            f"a window that reaches over {reach} positions does not fit into the {padded} of spatial axis {axis} (size {size}, "
            f"padding {sum(margin)}); use a smaller window, more padding or a larger input"
        )
    return (padded - reach) // stride + 1
