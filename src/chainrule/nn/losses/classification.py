"""Losses of classes: from logits to a class, two classes or a distribution over classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.losses.examples import Loss, Reduction, aligned, floats, labels_of, over_examples
from chainrule.ops.activations import log_softmax, logsumexp, softmax, softplus
from chainrule.ops.arrays import one_hot, take, take_along
from chainrule.ops.known import refuse_outside
from chainrule.ops.loops import operation_with_rule
from chainrule.ops.math import exp, log, log1p, maximum, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


@operation
def binary_cross_entropy(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    pos_weight: ArrayLike | None = None,
    from_logits: bool = True,
    reduction: Reduction = "mean",
) -> Any:
    """``-w t log p - (1 - t) log(1 - p)`` for ``p = sigmoid(outputs)``: outputs are logits, targets from 0 to 1.

    ``pos_weight`` w, a number or one for each output on the last axis, is 1 by default; above 1 it counts missed positives
    more, and the mean is not divided by it. Computed as ``(1 - t) x + (1 + (w - 1) t) (max(-x, 0) + log(1 + e**-|x|))``,
    which neither overflows nor cancels. PyTorch's SoftMarginLoss is the same, with -1 for the target 0.

    With ``from_logits=False`` the outputs are the probabilities p themselves; their logarithms are -100 at least, and the
    divisor p (1 - p) of the gradient 10⁻¹², as in PyTorch. Train with logits where you can: a probability near 1 has lost
    the digits that matter.
    """
    logits = floats(outputs)
    goal = aligned(targets, logits)
    refuse_outside(targets, 0, 1, "binary_cross_entropy needs targets from 0 to 1")
    if not from_logits:
        if pos_weight is not None:
            raise ConfigError("pos_weight of binary_cross_entropy is for logits, not for from_logits=False")
        refuse_outside(outputs, 0, 1, "binary_cross_entropy with from_logits=False needs probabilities from 0 to 1")
        return over_examples(_of_probabilities(logits, goal.astype(logits.dtype)), weights, reduction)
    positive = logits > 0
    smooth = log1p(exp(where(positive, -logits, logits)))
    if pos_weight is None:
        return over_examples(where(positive, logits, 0) - logits * goal + smooth, weights, reduction)
    factor = as_array(pos_weight)
    if factor.shape not in ((), (1,), logits.shape[-1:]):
        raise ShapeError(
            f"pos_weight is a number or one for each of the outputs of shape {show_shape(logits.shape)} along the last axis, "
            f"not of shape {show_shape(factor.shape)}"
        )
    of_target = 1 + (factor.astype(logits.dtype) - 1) * goal
    losses = (1 - goal) * logits + of_target * (smooth + where(positive, 0, -logits))
    return over_examples(losses, weights, reduction)


def _of_probabilities(p: Array, goal: Array) -> Array:
    def logarithms(p: Array) -> tuple[Array, Array]:
        return maximum(log(p), -100), maximum(log1p(-p), -100)

    def losses(p: Array, goal: Array) -> Any:
        of_one, of_zero = logarithms(p)
        return -(goal * of_one + (1 - goal) * of_zero)

    def backward(inputs: Any, _: Any, cotangents: Any) -> list[Any]:
        (p, goal), (g,) = inputs, cotangents
        of_one, of_zero = logarithms(p)
        return [g * (p - goal) / maximum(p * (1 - p), 1e-12), g * (of_zero - of_one)]

    found: Array = operation_with_rule(losses, backward, label="binary_cross_entropy")(p, goal)
    return found


@operation
def multilabel_soft_margin(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """``-Σ w (t log p + (1 - t) log(1 - p)) / C`` over C classes, the last axis, with ``p = sigmoid(outputs)``: each class by itself.

    Outputs are logits (..., C), targets 0 and 1 of that shape, ``class_weights`` w one number for each class, which the sum
    is not divided by, as in PyTorch. Errors are those of :func:`binary_cross_entropy`.
    """
    logits = floats(outputs)
    losses = binary_cross_entropy(logits, targets, reduction="none")
    by_class = _by_class(class_weights, logits)
    losses = losses if by_class is None else losses * by_class
    return over_examples(losses.mean(-1), weights, reduction)


@operation
def cross_entropy(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """``-Σ t log softmax(outputs)`` over the classes, the last axis; the mean over any axes between.

    Outputs are logits. Targets are integer labels without the last axis, or probabilities of the shape of the outputs.
    A label outside 0 to C - 1 raises :class:`DataError` where its number is known, and makes the loss NaN in a traced
    step. With ``label_smoothing`` ε the targets are ``(1 - ε) t + ε / C`` (Szegedy et al., CVPR 2016).

    ``class_weights`` w, a number for each class, multiply the terms of the sum; the mean over labels is divided by
    ``Σ w[label]``, and that over probabilities by their number, as in PyTorch. Labels that are ``ignore_index``, such as
    those of padding, count for nothing; where there are no others the loss is 0.
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
    by_class = _by_class(class_weights, logits)
    if goal.shape == logits.shape:
        if ignore_index is not None:
            raise ConfigError("ignore_index is a label, but the targets are probabilities; give such rows the weight 0")
        if label_smoothing:
            goal = (1 - label_smoothing) * goal + label_smoothing / int(logits.shape[-1])
        terms = goal * log_softmax(logits)
        return over_examples(-(terms if by_class is None else terms * by_class).sum(-1), weights, reduction)
    total = logsumexp(logits, -1)
    return _over_labels(
        "cross_entropy", logits, total, targets, goal, label_smoothing, by_class, ignore_index, weights, reduction
    )


@operation
def nll(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """``-y_label`` for outputs y that are logarithms of probabilities (..., C), such as those of ``LogSoftmax``.

    The negative log-likelihood of labels: what :func:`cross_entropy` of the logits before is, which is the better choice
    where there are logits. Options and errors are those of :func:`cross_entropy`.
    """
    logs = floats(outputs)
    goal = as_array(targets)
    if logs.ndim and goal.shape == (*logs.shape[:-1], 1):
        goal = goal.reshape(logs.shape[:-1])
    if logs.ndim < 1 or goal.shape != logs.shape[:-1]:
        raise ShapeError(
            f"nll of logarithms of probabilities of shape {show_shape(logs.shape)} needs labels of shape "
            f"{show_shape(logs.shape[:-1])}, not {show_shape(goal.shape)}"
        )
    by_class = _by_class(class_weights, logs)
    return _over_labels("nll", logs, 0 * logs[..., 0], targets, goal, 0.0, by_class, ignore_index, weights, reduction)


def _by_class(class_weights: ArrayLike | None, logits: Array) -> Array | None:
    """One number for each class, the last axis."""
    if class_weights is None:
        return None
    by_class: Array = as_array(class_weights).astype(logits.dtype)
    if by_class.shape != logits.shape[-1:]:
        raise ShapeError(
            f"class_weights of shape {show_shape(by_class.shape)} do not fit logits of shape {show_shape(logits.shape)}: there is "
            "one for each class"
        )
    return by_class


def _over_labels(
    loss: str,
    logits: Array,
    total: Array,
    targets: Any,
    goal: Array,
    smoothing: float,
    by_class: Array | None,
    ignore_index: int | None,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> Array:
    """``total - logit`` of each label, over the labels that count."""
    labels = labels_of(targets, goal, logits.shape[-1], loss, ignore_index)
    counts = None if ignore_index is None else labels != ignore_index
    labels = labels if counts is None else where(counts, labels, 0)
    valid = (labels >= 0) & (labels < logits.shape[-1])
    losses, shares = _of_labels(logits, total, labels, smoothing, by_class)
    losses = where(valid, losses, np.nan)
    if counts is not None:
        losses = where(counts, losses, 0)
        shares = counts.astype(losses.dtype) if shares is None else where(counts, shares, 0)
    return over_examples(losses, weights, reduction, shares)


def _of_labels(
    logits: Array, total: Array, labels: Array, smoothing: float, by_class: Array | None
) -> tuple[Array, Array | None]:
    """The cross-entropies of labels, and the weights of their classes where there are any."""
    chosen = take_along(logits, labels)
    if by_class is None:
        if smoothing:
            chosen = (1 - smoothing) * chosen + smoothing * logits.mean(-1)
        return total - chosen, None
    shares: Array = take(by_class, labels)
    losses: Array = shares * (total - chosen)
    if smoothing:
        uniform = (by_class * (total.reshape((*total.shape, 1)) - logits)).mean(-1)
        losses = (1 - smoothing) * losses + smoothing * uniform
    return losses, shares


@operation
def hinge(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    margin: float = 1.0,
    p: Literal[1, 2] = 1,
    class_weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """``max(0, margin - s y)ᵖ`` with s = 1 for the target 1 and -1 for 0: the loss of support vector machines, or squared.

    For labels of C classes, which lack the last axis of the outputs, ``w_label Σ max(0, margin - y_label + yᵢ)ᵖ / C`` over
    the other classes i: PyTorch's MultiMarginLoss, whose ``class_weights`` w do not divide the mean (those of
    :func:`with_class_weights` do). Cortes & Vapnik 1995; Weston & Watkins 1999. Targets that are not 0 and 1, or no class,
    raise :class:`DataError` where known, and another p :class:`ConfigError`.
    """
    if p not in (1, 2):
        raise ConfigError(f"the power p of hinge is 1 or 2, not {p!r}")
    y = floats(outputs)
    by_class = _by_class(class_weights, y)
    found = _classes_or_bits("hinge", y, targets)
    if isinstance(found, _Bits):
        if by_class is not None:
            raise ConfigError("class_weights of hinge are for labels of classes; weigh targets 0 and 1 by weights")
        distance = margin - found.sign * y
        surplus = where(distance > 0, distance, 0)
        return over_examples(surplus if p == 1 else surplus * surplus, weights, reduction)
    distance = margin - found.chosen.reshape((*found.chosen.shape, 1)) + y
    surplus = where(found.is_label | (distance <= 0), 0, distance)
    losses = (surplus if p == 1 else surplus * surplus).sum(-1) * (1 / int(y.shape[-1]))
    losses = losses if by_class is None else losses * take(by_class, found.labels)
    return over_examples(found.checked(losses), weights, reduction)


@operation
def perceptron(
    outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, reduction: Reduction = "mean"
) -> Any:
    """``max(0, -s y)`` with s = 1 for the target 1 and -1 for 0: only mistakes count. At 0 the derivative is that of a mistake.

    For labels of C classes, which lack the last axis of the outputs, ``max yᵢ - y_label``. Its gradient is the update
    of Rosenblatt (1958); see :func:`chainrule.nn.perceptron_fit`. Errors are those of :func:`hinge`.
    """
    y = floats(outputs)
    found = _classes_or_bits("perceptron", y, targets)
    if isinstance(found, _Bits):
        distance = -(found.sign * y)
        return over_examples(where(distance >= 0, distance, 0), weights, reduction)
    return over_examples(found.checked(take_along(y, y.argmax(-1)) - found.chosen), weights, reduction)


@operation
def focal(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    reduction: Reduction = "mean",
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
        return over_examples(losses, weights, reduction)
    if alpha is not None:
        raise ConfigError(
            "the alpha of focal is for targets 0 and 1; weigh classes by with_class_weights(focal, weights)"
        )
    others = where(found.is_label, 0, softmax(y)).sum(-1)
    return over_examples(found.checked(others**gamma * (logsumexp(y, -1) - found.chosen)), weights, reduction)


@operation
def kl_divergence(
    outputs: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    log_input: bool = False,
    log_target: bool = False,
    reduction: Reduction = "mean",
) -> Any:
    """``Σ t (log t - log softmax(outputs))`` over the classes, the last axis; the mean over any axes between.

    Outputs are logits, targets probabilities of the same shape; a target of 0 adds 0. The gradient is that of
    :func:`cross_entropy`, but the loss is 0 where the two distributions are equal. ``log_input`` says that the outputs are
    logarithms of probabilities already, as PyTorch has it, whose "batchmean" is this mean; ``log_target`` that the targets
    are. Kullback & Leibler 1951.
    """
    logits = floats(outputs)
    goal = as_array(targets)
    if goal.shape != logits.shape or not logits.ndim:
        raise ShapeError(
            f"kl_divergence of logits of shape {show_shape(logits.shape)} needs probabilities of that shape, not "
            f"{show_shape(goal.shape)}"
        )
    logs = logits if log_input else log_softmax(logits)
    if log_target:
        goal = goal.astype(logits.dtype)
        return over_examples((exp(goal) * (goal - logs)).sum(-1), weights, reduction)
    refuse_outside(targets, 0, 1, "kl_divergence needs probabilities from 0 to 1 as targets")
    present = goal > 0
    entropy = where(present, goal * log(where(present, goal, 1)), 0)
    return over_examples((entropy - goal * logs).sum(-1), weights, reduction)


def with_class_weights(loss: Callable[..., Any], weights: Any) -> Loss:
    """The loss with every example weighted by ``weights[class]``, beside any weight of its own.

    For logits of C classes there are C weights, and for a binary target two: of the classes 0 and 1. An example whose
    target is a distribution p over classes has the weight ``Σ p w``. The result is the weighted mean, as in
    scikit-learn and PyTorch.
    """
    by_class = np.asarray(weights)
    if by_class.ndim != 1 or by_class.size < 2 or by_class.dtype.kind not in "fiu":
        raise ShapeError(f"class weights are a list of one number per class, not an array of shape {by_class.shape}")

    @operation
    def weighted(outputs: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, **options: Any) -> Any:
        of_targets = _class_weights(floats(outputs), targets, by_class)
        if weights is not None:
            own = as_array(weights)
            missing = of_targets.ndim - own.ndim
            of_targets = of_targets * own.reshape((*own.shape, *[1] * missing))
        return loss(outputs, targets, of_targets, **options)

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
        self.labels = labels
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
    refuse_outside(targets, 0, 1, f"{loss} needs targets 0 and 1")
    return _Bits(2 * aligned(targets, outputs).astype(outputs.dtype) - 1)
