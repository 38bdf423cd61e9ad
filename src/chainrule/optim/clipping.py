"""Limits on gradients, for use before an optimiser: ``chain(clip_by_global_norm(1.0), Adam(1e-3))``."""

from __future__ import annotations

from typing import Any

from chainrule import ops
from chainrule.core import trees
from chainrule.core.trees import Tree
from chainrule.optim.optimizer import Arrays, Transform, stateless
from chainrule.optim.settings import positive
from chainrule.trace import as_array, operation


@operation
def global_norm(tree: Tree) -> Any:
    """``√(Σ x²)`` over every element of every array of a tree, as a scalar of the widest element type; 0 for an empty tree.

    Squares are summed within each array in its own element type. NaN if any element is; infinite if one is, or if a square
    overflows (elements beyond 1.8e19 in float32).
    """
    squares = [(array * array).sum() for leaf in trees.leaves(tree) for array in [as_array(leaf)]]
    total = squares[0] if squares else ops.zeros(())
    for square in squares[1:]:
        total = total + square
    return ops.sqrt(total)


def clip_by_global_norm(limit: float) -> Transform:
    """``g ← g·min(1, limit/‖g‖)`` with the norm over all gradients together: the direction stays (Pascanu et al. 2013).

    Gradients within the limit come out bit for bit. A norm that is not finite makes every gradient NaN: a scaled infinity has
    no direction, and a step that goes wrong should be seen at once. Nothing is added to the norm as PyTorch does (1e-6).
    Raises :class:`ConfigError` for a limit that is not positive.
    """
    most = positive("clip_by_global_norm", "limit", limit)

    def clip(gradients: Arrays, params: Arrays) -> dict[str, Any]:
        norm = as_array(global_norm(dict(gradients)))
        scale = ops.where(ops.is_finite(norm), most / ops.maximum(norm, most), float("nan"))
        return {path: array * scale.astype(array.dtype) for path, array in _arrays(gradients)}

    return stateless(clip, {"kind": "clip_by_global_norm", "limit": most})


def clip_by_value(limit: float) -> Transform:
    """``g ← max(-limit, min(limit, g))`` element by element. An infinity becomes the limit, NaN stays NaN.

    Raises :class:`ConfigError` for a limit that is not positive.
    """
    most = positive("clip_by_value", "limit", limit)

    def clip(gradients: Arrays, params: Arrays) -> dict[str, Any]:
        return {path: ops.clip(array, -most, most) for path, array in _arrays(gradients)}

    return stateless(clip, {"kind": "clip_by_value", "limit": most})


def _arrays(gradients: Arrays) -> list[tuple[str, Any]]:
    return [(path, as_array(gradient)) for path, gradient in gradients.items()]
