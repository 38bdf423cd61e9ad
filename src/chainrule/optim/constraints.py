"""Limits on parameters, for use behind an optimiser: ``chain(SGD(0.1), limit_norm(1.0, on="embedding.weight"))``."""

from __future__ import annotations

from typing import Any

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.optimizer import JSON, Arrays, Transform, matching, stateless
from chainrule.optim.selection import Selection, describe_selection, rank_two_or_more, selected
from chainrule.optim.settings import positive
from chainrule.trace import as_array


def limit_norm(limit: float, on: Selection = rank_two_or_more, axis: int = -1, p: float = 2.0) -> Transform:
    """Vectors longer than ``limit`` become ``v · limit / (norm + 1e-7)`` after the update: a projection onto a ball each.

    Vectors lie along ``axis`` of the parameters that ``on`` selects: the last by default, the rows of an embedding's table;
    ``axis=0`` is what comes into each unit of a :class:`Linear`. ``p`` is the power of the norm. Behind an optimiser in a
    :func:`chain` it keeps a table as PyTorch's ``Embedding(max_norm=limit)`` does, which shortens rows as they are looked
    up, if they are short at the beginning. Srebro, Rennie & Jaakkola 2004; Srivastava et al., JMLR 2014. Raises
    :class:`ConfigError` for a limit or a power that is not positive, and for a parameter without that axis.
    """
    most, power = positive("limit_norm", "limit", limit), positive("limit_norm", "p", p)

    def shorten(updates: Arrays, params: Arrays) -> dict[str, Any]:
        shortened = dict(updates)
        for path in selected(on, params):
            if path not in updates:
                continue
            before = as_array(params[path])
            if not -before.ndim <= axis < before.ndim:
                raise ConfigError(
                    f"limit_norm cannot go along axis {axis} of parameter {path!r}, of shape {before.shape}"
                )
            moved = before + matching(path, updates[path], before, "update")
            norm = ops.vector_norm(moved, power, axis, keepdims=True)
            shortened[path] = moved * ops.where(norm > most, most / (norm + 1e-7), 1.0) - before
        return shortened

    described: dict[str, JSON] = {"kind": "limit_norm", "limit": most, "axis": int(axis), "p": power}
    return stateless(shorten, described | describe_selection("on", on))
