"""Padding: more elements around an array, of one value or of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ops.arrays import broadcast_to, concatenate, flip
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

PadMode = Literal["constant", "reflect", "replicate", "circular"]
PAD_MODES: tuple[str, ...] = get_args(PadMode)


@operation
def pad(x: ArrayLike, widths: Sequence[tuple[int, int]], value: float = 0, mode: PadMode = "constant") -> Any:
    """x with ``widths[axis] = (before, after)`` more elements along each axis: of a value, or of its own.

    ``mode="reflect"`` mirrors x at its first and last element, which are not repeated; "replicate" repeats those two;
    "circular" goes on with the other end. The names are PyTorch's. Axis follows axis, so that a corner is reflected
    twice. Raises :class:`ShapeError` for a mirror image that needs more elements than there are, and a circle of more
    than one turn.
    """
    array = as_array(x)
    if len(widths) != array.ndim:
        raise ShapeError(
            f"padding an array of rank {array.ndim} needs {array.ndim} (before, after) pairs, not {len(widths)}"
        )
    if mode not in PAD_MODES:
        raise ConfigError(f"the mode of padding is one of {', '.join(PAD_MODES)}, not {mode!r}")
    if mode == "constant":
        low, high = [w[0] for w in widths], [w[1] for w in widths]
        return Array(array.home.pad(array.value, low, high, value=value), array.home)
    for axis, (before, after) in enumerate(widths):
        if before or after:
            array = _between_borders(array, axis, before, after, mode)
    return array


def _between_borders(x: Array, axis: int, before: int, after: int, mode: PadMode) -> Array:
    size = x.shape[axis]
    if not isinstance(size, int):
        raise ShapeError(f"padding in mode {mode!r} copies elements of an axis of fixed size, not of the batch axis")
    most = {"reflect": size - 1, "circular": size}.get(mode, max(before, after))
    if min(before, after) < 0 or max(before, after) > most or not size:
        raise ShapeError(
            f"axis {axis} of an array of shape {show_shape(x.shape)} cannot be padded by {before} and {after} in mode {mode!r}"
            + (f", but by at most {most}" if mode != "replicate" else "")
        )

    def part(start: int, stop: int) -> Array:
        return x[(*[slice(None)] * axis, slice(start, stop))]

    def repeated(end: Array, count: int) -> Any:
        return broadcast_to(end, (*x.shape[:axis], count, *x.shape[axis + 1 :]))

    if mode == "reflect":
        borders = flip(part(1, before + 1), axis), flip(part(size - 1 - after, size - 1), axis)
    elif mode == "circular":
        borders = part(size - before, size), part(0, after)
    else:
        borders = repeated(part(0, 1), before), repeated(part(size - 1, size), after)
    pieces = [*[borders[0]] * bool(before), x, *[borders[1]] * bool(after)]
    joined: Array = concatenate(pieces, axis)
    return joined
