"""How near or alike two vectors are, as layers."""

from __future__ import annotations

from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.nn.module import Module
from chainrule.ops.vectors import cosine_similarity, pairwise_distance
from chainrule.trace.array import ArrayLike


class CosineSimilarity(Module):
    """``x·y / (max(|x|, eps) max(|y|, eps))`` along an axis, the last by default; see :func:`chainrule.ops.cosine_similarity`."""

    def __init__(self, axis: int = -1, eps: float = 1e-8) -> None:
        if not eps >= 0:
            raise ConfigError(f"eps of CosineSimilarity is a length from 0 on, not {eps!r}")
        self.axis = axis
        self.eps = float(eps)

    def forward(self, x: ArrayLike, y: ArrayLike) -> Any:
        return cosine_similarity(x, y, self.axis, self.eps)


class PairwiseDistance(Module):
    """``(Σ |x - y + eps|**p)**(1/p)`` over the last axis, which ``keepdims`` keeps; see :func:`chainrule.ops.pairwise_distance`."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False) -> None:
        if not p > 0:
            raise ConfigError(f"PairwiseDistance needs a power p above 0, not {p!r}")
        self.p = float(p)
        self.eps = float(eps)
        self.keepdims = bool(keepdims)

    def forward(self, x: ArrayLike, y: ArrayLike) -> Any:
        return pairwise_distance(x, y, self.p, self.eps, keepdims=self.keepdims)
