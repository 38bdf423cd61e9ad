"""A softmax over many classes, of which few are frequent. Grave et al., *Efficient softmax approximation for GPUs*, ICML 2017."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import ConfigError, DTypeError, ShapeError
from chainrule.nn.containers import Sequential
from chainrule.nn.initialisers import Initialiser, glorot_uniform
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_size
from chainrule.ops import random
from chainrule.ops.activations import log_softmax, logsumexp
from chainrule.ops.arrays import concatenate, take_along
from chainrule.ops.known import refuse_outside
from chainrule.ops.math import where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class AdaptiveLogSoftmaxWithLoss(Module):
    """Logarithms of the probabilities of ``n_classes`` classes, sorted by frequency, for x of shape (..., in_features).

    The classes below ``cutoffs[0]`` are logits of ``head``, beside one logit for each cluster of the others, which end at the other
    cutoffs and ``n_classes``. Cluster i has a matrix of its own, through a narrow layer of ``in_features / div_value**(i + 1)`` units:

        log p(c) = log softmax(head(x))[c]                                             for the frequent classes,
        log p(c) = log softmax(head(x))[cutoffs[0] + i] + log softmax(tail_i(x))[c - cutoffs[i]]      for those of cluster i.

    ``layer(x)`` returns them all, (..., n_classes), to train with :func:`chainrule.nn.losses.nll`; ``layer(x, targets)`` with labels
    (...) returns, as PyTorch does, those of the targets, (...), and minus their mean, the loss. ``layer.predict(x)`` is the likeliest
    class. Rare classes so have fewer weights and multiplications than in a full softmax. PyTorch saves more, by multiplying in a
    cluster only the rows of x whose targets are in it; a compiled step, whose shapes are constants, multiplies all.

    Raises :class:`ConfigError` for cutoffs that do not rise from 1 to ``n_classes - 1``; :class:`DTypeError` and
    :class:`ShapeError` for targets that are no labels of the rows of x, and :class:`DataError` for one that is no class where it is
    known (in a traced step it becomes NaN).
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        *,
        init: Initialiser = glorot_uniform,
        key: Any = None,
    ) -> None:
        name = type(self).__name__
        for what, size in (("in_features", in_features), ("n_classes", n_classes)):
            check_size(name, what, size)
        ends = tuple(cutoffs)
        for end in ends:
            check_size(name, "each of cutoffs", end)
        if not ends or list(ends) != sorted({*ends}) or ends[-1] >= n_classes:
            raise ConfigError(f"the cutoffs of {name} rise from 1 to at most {n_classes - 1}, not as {list(ends)} do")
        widths = [int(in_features // div_value ** (number + 1)) if div_value > 0 else 0 for number in range(len(ends))]
        if not all(widths):
            raise ConfigError(
                f"{name} of {in_features} features with div_value={div_value!r} would have a cluster of no units; it needs a number "
                "above 0, and fewer cutoffs or more features where it is large"
            )
        keys = [None] * (1 + 2 * len(ends)) if key is None else list(np.asarray(random.split(key, 1 + 2 * len(ends))))
        self.cutoffs = (*map(int, ends), int(n_classes))
        self.head = Linear(in_features, ends[0] + len(ends), head_bias, init=init, key=keys[0])
        self.tail = tuple(
            Sequential(
                Linear(in_features, width, False, init=init, key=keys[2 * number + 1]),
                Linear(width, high - low, False, init=init, key=keys[2 * number + 2]),
            )
            for number, (width, low, high) in enumerate(zip(widths, self.cutoffs, self.cutoffs[1:], strict=False))
        )

    @property
    def n_classes(self) -> int:
        return self.cutoffs[-1]

    def forward(self, x: ArrayLike, targets: ArrayLike | None = None) -> Any:
        if targets is None:
            return _of_all(self, x)
        chosen = _of_labels(self, x, targets)
        return chosen, -chosen.mean()

    def predict(self, x: ArrayLike) -> Any:
        """The likeliest class, int64, of the shape of x without its last axis."""
        return self(x).argmax(-1)


@operation
def _of_all(layer: AdaptiveLogSoftmaxWithLoss, x: ArrayLike) -> Any:
    array, frequent = as_array(x), layer.cutoffs[0]
    head = log_softmax(layer.head(array))
    clusters = [
        log_softmax(cluster(array)) + head[..., frequent + number, None] for number, cluster in enumerate(layer.tail)
    ]
    return concatenate([head[..., :frequent], *clusters], -1)


@operation
def _of_labels(layer: AdaptiveLogSoftmaxWithLoss, x: ArrayLike, targets: ArrayLike) -> Any:
    array, labels, classes = as_array(x), as_array(targets), layer.n_classes
    if labels.value.dtype in FLOATS:
        raise DTypeError(
            f"{type(layer).__name__} needs integer labels from 0 to {classes - 1}, not {labels.dtype}; convert them with .astype(int)"
        )
    head = layer.head(array)
    if labels.shape != array.shape[:-1]:
        raise ShapeError(
            f"{type(layer).__name__} of an input of shape {show_shape(array.shape)} needs labels of shape "
            f"{show_shape(array.shape[:-1])}, not {show_shape(labels.shape)}"
        )
    refuse_outside(targets, 0, classes - 1, f"labels of {classes} classes are 0 to {classes - 1}")
    labels = labels.astype("int64")
    starts = layer.cutoffs[:-1]
    # The place of each label in the head: its own, or that of its cluster.
    place = where(labels < starts[0], labels, starts[0] - 1 + sum((labels >= start) * 1 for start in starts))
    known = (labels >= 0) & (labels < classes)
    found: Array = _chosen(head, where(known, place, 0))
    for cluster, low, high in zip(layer.tail, starts, layer.cutoffs[1:], strict=True):
        within = (labels >= low) & (labels < high)
        found = found + where(within, _chosen(cluster(array), where(within, labels - low, 0)), 0)
    return where(known, found, np.nan)


def _chosen(logits: Array, labels: Array) -> Array:
    """The logarithm of the probability of a label in each row."""
    chosen: Array = take_along(logits, labels) - logsumexp(logits, -1)
    return chosen
