"""Losses of vectors that should lie near each other or apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.losses.examples import Reduction, aligned, floats, over_examples
from chainrule.nn.losses.margins import positive_part
from chainrule.ops.known import refuse_outside
from chainrule.ops.math import sqrt, where
from chainrule.ops.vectors import pairwise_distance
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


@operation
def triplet_margin(
    outputs: Any,
    targets: Any = None,
    weights: ArrayLike | None = None,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    distance: Callable[[Any, Any], Any] | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """``max(0, margin + |a - p| - |a - n|)`` for outputs (a, p, n), three arrays (..., features): anchor, positive, negative.

    Distances are norms of the power ``p``, Euclidean by default, of differences to which ``eps`` is added as in PyTorch, so
    that the gradient exists at 0; or what a function ``distance(u, v)`` of two arrays (..., features) returns. With ``swap``
    |p - n| takes the place of |a - n| where it is smaller (Balntas et al., BMVC 2016). Targets are not used. Schroff,
    Kalenichenko & Philbin, CVPR 2015. Raises :class:`ShapeError` when the three shapes differ.
    """
    anchor, positive, negative = _together("triplet_margin", outputs, 3)

    def between(u: Array, v: Array) -> Array:
        return pairwise_distance(u, v, p, eps) if distance is None else as_array(distance(u, v))

    apart = between(anchor, negative)
    if swap:
        other = between(positive, negative)
        apart = where(other < apart, other, apart)
    return over_examples(positive_part(margin + between(anchor, positive) - apart), weights, reduction)


@operation
def cosine_embedding(
    outputs: Any,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Any:
    """``1 - cos(u, v)`` where the target is 1, ``max(0, cos(u, v) - margin)`` where it is 0, for outputs (u, v).

    Both have the shape (..., features). Targets 1 mark pairs that belong together (PyTorch marks the others by -1).
    ``cos = u·v / √((|u|² + 10⁻¹²)(|v|² + 10⁻¹²))``. Raises :class:`ShapeError` when shapes differ, and
    :class:`DataError` for other targets where they are known.
    """
    left, right = _together("cosine_embedding", outputs, 2)
    if not -1 <= margin <= 1:
        raise ConfigError(f"the margin of cosine_embedding is a cosine from -1 to 1, not {margin!r}")
    lengths = _length(left) * _length(right)
    cosine: Array = (left * right).sum(-1) / lengths
    refuse_outside(targets, 0, 1, "cosine_embedding needs targets 0 and 1")
    goal = aligned(targets, cosine)
    return over_examples(where(goal > 0, 1 - cosine, positive_part(cosine - margin)), weights, reduction)


def _length(x: Array) -> Array:
    length: Array = sqrt((x * x).sum(-1) + 1e-12)
    return length


def _together(loss: str, outputs: Any, count: int) -> list[Array]:
    if not isinstance(outputs, tuple | list) or len(outputs) != count:
        raise ShapeError(f"{loss} needs {count} arrays as outputs in a tuple, not {type(outputs).__name__}")
    arrays = [floats(output) for output in outputs]
    if len({array.shape for array in arrays}) > 1 or not arrays[0].ndim:
        shapes = ", ".join(show_shape(array.shape) for array in arrays)
        raise ShapeError(f"{loss} needs {count} arrays of one shape (..., features), not {shapes}")
    return arrays
