"""Losses of classes: from logits to a class, two classes or a distribution over classes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.losses.examples import Loss, aligned, floats, labels_of, mean_over_examples, refuse_outside
from chainrule.ops.activations import log_softmax, logsumexp, softmax, softplus
from chainrule.ops.arrays import one_hot, take, take_along
from chainrule.ops.math import exp, log, log1p, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


@operation
def binary_cross_entropy(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``-t log p - (1 - t) log(1 - p)`` for ``p = sigmoid(outputs)``: outputs are logits, targets from 0 to 1.

    Computed as ``max(x, 0) - x t + log(1 + e**-|x|)``, which neither overflows nor cancels.
    """
    logits = floats(outputs)
    goal = aligned(targets, logits)
    refuse_outside(targets, 1, "binary_cross_entropy needs targets from 0 to 1")
    positive = logits > 0
    smooth = log1p(exp(where(positive, -logits, logits)))
    return mean_over_examples(where(positive, logits, 0) - logits * goal + smooth, weights)


@operation
def cross_entropy(
    outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, label_smoothing: float = 0.0
) -> Any:
    """``-Σ t log softmax(outputs)`` over the classes, the last axis; the mean over any axes between.

    Outputs are logits. Targets are integer labels without the last axis, or probabilities of the shape of the outputs.
    A label outside 0 to C - 1 raises :class:`DataError` where its number is known, and makes the loss NaN in a traced
    step. With ``label_smoothing`` ε the targets are ``(1 - ε) t + ε / C`` (Szegedy et al., CVPR 2016).
    """
    if not 0 <= label_smoothing <= 1:
        raise ConfigError(f"label_smoothing is a share from 0 to 1, not {label_smoothing!r}")
    logits = floats(outputs)
    goal = as_array(targets)
    if logits.ndim and logits.shape[-1] == 1:
        raise ShapeError(
            "cross_entropy of a single class is always 0; use binary_cross_entropy with one output, or give the model one "
            "output per class"
        )
    if logits.ndim and goal.shape == (*logits.shape[:-1], 1):
        goal = goal.reshape(logits.shape[:-1])
    if logits.ndim < 1 or (goal.shape != logits.shape and goal.shape != logits.shape[:-1]):
        raise ShapeError(
            f"cross_entropy of logits of shape {show_shape(logits.shape)} needs labels of shape "
            f"{show_shape(logits.shape[:-1])} or probabilities of shape {show_shape(logits.shape)}, not "
            f"{show_shape(goal.shape)}"
        )
    if goal.shape == logits.shape:
        if label_smoothing:
            goal = (1 - label_smoothing) * goal + label_smoothing / int(logits.shape[-1])
        return mean_over_examples(-(goal * log_softmax(logits)).sum(-1), weights)
    labels = labels_of(targets, goal, logits.shape[-1], "cross_entropy")
    chosen = take_along(logits, labels)
    if label_smoothing:
        chosen = (1 - label_smoothing) * chosen + label_smoothing * logits.mean(-1)
    valid = (labels >= 0) & (labels < logits.shape[-1])
    return mean_over_examples(where(valid, logsumexp(logits, -1) - chosen, np.nan), weights)


@operation
def hinge(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, margin: float = 1.0) -> Any:
    """``max(0, margin - s y)`` with s = 1 for the target 1 and -1 for 0: the loss of support vector machines.

    For labels of C classes, which lack the last axis of the outputs, ``Σ max(0, margin - y_label + yᵢ) / C`` over the
    other classes i. Cortes & Vapnik 1995; Weston & Watkins 1999. Targets that are not 0 and 1, or no class, raise
    :class:`DataError` where known.
    """
    y = floats(outputs)
    found = _classes_or_bits("hinge", y, targets)
    if isinstance(found, _Bits):
        distance = margin - found.sign * y
        return mean_over_examples(where(distance > 0, distance, 0), weights)
    distance = margin - found.chosen.reshape((*found.chosen.shape, 1)) + y
    losses = where(found.is_label | (distance <= 0), 0, distance).sum(-1) * (1 / int(y.shape[-1]))
    return mean_over_examples(found.checked(losses), weights)


@operation
def perceptron(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``max(0, -s y)`` with s = 1 for the target 1 and -1 for 0: only mistakes count. At 0 the derivative is that of a mistake.

    For labels of C classes, which lack the last axis of the outputs, ``max yᵢ - y_label``. Its gradient is the update
    of Rosenblatt (1958); see :func:`chainrule.nn.perceptron_fit`. Errors are those of :func:`hinge`.
    """
    y = floats(outputs)
    found = _classes_or_bits("perceptron", y, targets)
    if isinstance(found, _Bits):
        distance = -(found.sign * y)
        return mean_over_examples(where(distance >= 0, distance, 0), weights)
    return mean_over_examples(found.checked(take_along(y, y.argmax(-1)) - found.chosen), weights)


@operation
def focal(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Any:
    """``-(1 - p)**gamma log p`` for the probability p of the target: cross-entropy in which easy examples hardly count.

    For targets 0 and 1 p is ``sigmoid(±y)``, and with ``alpha`` the loss of target 1 is weighted by alpha and of 0 by 1
    - alpha. For labels of C classes, which lack the last axis of the outputs, p is their softmax; weigh classes by
    :func:`with_class_weights`. Lin et al., ICCV 2017. Errors are those of :func:`hinge`.
    """
    if gamma < 0 or (alpha is not None and not 0 <= alpha <= 1):
        raise ConfigError(f"focal needs gamma from 0 on and alpha from 0 to 1, not {gamma!r} and {alpha!r}")
    y = floats(outputs)
    found = _classes_or_bits("focal", y, targets)
    if isinstance(found, _Bits):
        logit = found.sign * y
        # 1 - p is sigmoid(-logit), whose logarithm is -softplus(logit).
        losses = exp(-gamma * softplus(logit)) * softplus(-logit)
        if alpha is not None:
            losses = losses * (0.5 + (alpha - 0.5) * found.sign)
        return mean_over_examples(losses, weights)
    if alpha is not None:
        raise ConfigError(
            "the alpha of focal is for targets 0 and 1; weigh classes by with_class_weights(focal, weights)"
        )
    others = where(found.is_label, 0, softmax(y)).sum(-1)
    return mean_over_examples(found.checked(others**gamma * (logsumexp(y, -1) - found.chosen)), weights)


@operation
def kl_divergence(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """``Σ t (log t - log softmax(outputs))`` over the classes, the last axis; the mean over any axes between.

    Outputs are logits, targets probabilities of the same shape; a target of 0 adds 0. The gradient is that of
    :func:`cross_entropy`, but the loss is 0 where the two distributions are equal. Kullback & Leibler 1951.
    """
    logits = floats(outputs)
    goal = as_array(targets)
    if goal.shape != logits.shape or not logits.ndim:
        raise ShapeError(
            f"kl_divergence of logits of shape {show_shape(logits.shape)} needs probabilities of that shape, not "
            f"{show_shape(goal.shape)}"
        )
    refuse_outside(targets, 1, "kl_divergence needs probabilities from 0 to 1 as targets")
    present = goal > 0
    entropy = where(present, goal * log(where(present, goal, 1)), 0)
    return mean_over_examples((entropy - goal * log_softmax(logits)).sum(-1), weights)


def with_class_weights(loss: Loss, weights: Any) -> Loss:
    """The loss with every example weighted by ``weights[class]``, beside any weight of its own.

    For logits of C classes there are C weights, and for a binary target two: of the classes 0 and 1. An example whose
    target is a distribution p over classes has the weight ``Σ p w``. The result is the weighted mean, as in
    scikit-learn and PyTorch.
    """
    by_class = np.asarray(weights)
    if by_class.ndim != 1 or by_class.size < 2 or by_class.dtype.kind not in "fiu":
        raise ShapeError(f"class weights are a list of one number per class, not an array of shape {by_class.shape}")

    @operation
    def weighted(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
        of_targets = _class_weights(floats(outputs), targets, by_class)
        if weights is not None:
            own = as_array(weights)
            missing = of_targets.ndim - own.ndim
            of_targets = of_targets * own.reshape((*own.shape, *[1] * missing))
        return loss(outputs, targets, of_targets)

    return functools.wraps(loss)(weighted)


def _class_weights(logits: Array, targets: Any, by_class: np.ndarray[Any, Any]) -> Any:
    """The weight of each target."""
    goal = as_array(targets)
    classes = as_array(by_class, logits.value.dtype)
    if goal.shape == logits.shape[:-1] and logits.shape[-1] == by_class.size:
        return take(classes, labels_of(targets, goal, by_class.size, "a loss with class weights"))
    if goal.shape == logits.shape and logits.ndim > 1 and logits.shape[-1] == by_class.size:
        return (goal * classes).sum(-1)
    if by_class.size == 2:
        return classes[0] + (classes[1] - classes[0]) * aligned(targets, logits)
    raise ShapeError(
        f"there are {by_class.size} class weights, which do not fit logits of shape {show_shape(logits.shape)} and targets "
        f"of shape {show_shape(goal.shape)}"
    )


class _Bits:
    """Targets 0 and 1 as -1 and 1."""

    def __init__(self, sign: Array) -> None:
        self.sign = sign


class _Classes:
    """Labels of classes: the logit of each, and which logits are those of labels."""

    def __init__(self, logits: Array, labels: Array) -> None:
        classes = logits.shape[-1]
        self.chosen: Array = take_along(logits, labels)
        self.is_label: Array = one_hot(labels, int(classes), "bool")
        self.valid = (labels >= 0) & (labels < classes)

    def checked(self, losses: Array) -> Array:
        """NaN for a label that is no class."""
        known: Array = where(self.valid, losses, np.nan)
        return known


def _classes_or_bits(loss: str, outputs: Array, targets: Any) -> _Bits | _Classes:
    """Labels of classes where the targets lack the last axis of the outputs or have 1 there, otherwise 0 and 1 for each output."""
    goal = as_array(targets)
    lead = outputs.shape[:-1]
    if outputs.ndim and outputs.shape[-1] != 1 and goal.shape in (lead, (*lead, 1)) and goal.shape != outputs.shape:
        labels = labels_of(targets, goal.reshape(lead), outputs.shape[-1], loss)
        return _Classes(outputs, labels)
    refuse_outside(targets, 1, f"{loss} needs targets 0 and 1")
    return _Bits(2 * aligned(targets, outputs).astype(outputs.dtype) - 1)
