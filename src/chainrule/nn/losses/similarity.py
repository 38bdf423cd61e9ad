"""Losses of vectors that should lie near each other or apart."""

from __future__ import annotations

from typing import Any

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.losses.examples import Reduction, aligned, floats, over_examples, refuse_outside
from chainrule.ops.math import sqrt, where
from chainrule.trace.array import Array, ArrayLike, operation
from chainrule.trace.values import show_shape


@operation
def triplet_margin(
    outputs: Any,
    targets: Any = None,
    weights: ArrayLike | None = None,
    *,
    margin: float = 1.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: Reduction = "mean",
) -> Any:
    """``max(0, margin + |a - p| - |a - n|)`` for outputs (a, p, n), three arrays (..., features): anchor, positive, negative.

    Distances are Euclidean, of differences to which ``eps`` is added as in PyTorch, so that the gradient exists at 0.
    With ``swap`` |p - n| takes the place of |a - n| where it is smaller (Balntas et al., BMVC 2016). Targets are not
    used. Schroff, Kalenichenko & Philbin, CVPR 2015. Raises :class:`ShapeError` when the three shapes differ.
    """
    anchor, positive, negative = _together("triplet_margin", outputs, 3)
    apart = _distance(anchor - negative + eps)
    if swap:
        other = _distance(positive - negative + eps)
        apart = where(other < apart, other, apart)
    surplus = margin + _distance(anchor - positive + eps) - apart
    return over_examples(where(surplus > 0, surplus, 0), weights, reduction)


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
    lengths = _distance(left, 1e-12) * _distance(right, 1e-12)
    cosine: Array = (left * right).sum(-1) / lengths
    refuse_outside(targets, 1, "cosine_embedding needs targets 0 and 1")
    goal = aligned(targets, cosine)
    apart = where(cosine > margin, cosine - margin, 0)
    return over_examples(where(goal > 0, 1 - cosine, apart), weights, reduction)


def _distance(difference: Array, added: float = 0.0) -> Array:
    squares = (difference * difference).sum(-1)
    length: Array = sqrt(squares + added if added else squares)
    return length


def _together(loss: str, outputs: Any, count: int) -> list[Array]:
    if not isinstance(outputs, tuple | list) or len(outputs) != count:
        raise ShapeError(f"{loss} needs {count} arrays as outputs in a tuple, not {type(outputs).__name__}")
    arrays = [floats(output) for output in outputs]
    if len({array.shape for array in arrays}) > 1 or not arrays[0].ndim:
        shapes = ", ".join(show_shape(array.shape) for array in arrays)
        raise ShapeError(f"{loss} needs {count} arrays of one shape (..., features), not {shapes}")
    return arrays
