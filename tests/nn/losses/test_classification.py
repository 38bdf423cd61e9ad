"""Hinge, perceptron, focal, divergence and smoothed losses against PyTorch or their definition, also at logits of 10 000."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.nn import losses

F = torch.nn.functional
RNG = np.random.default_rng(0)
Y = 2 * RNG.normal(size=(6, 4))
LABELS = np.array([0, 3, 1, 1, 0, 2])
BITS = RNG.integers(0, 2, size=(6, 4))
PROBABILITIES = RNG.dirichlet(np.ones(4), size=6)
SEQUENCE, SEQUENCE_LABELS = RNG.normal(size=(3, 5, 4)), RNG.integers(0, 4, size=(3, 5))

Equals = Callable[..., None]
SIGN = torch.tensor(2.0 * BITS - 1)


def column(labels: Any) -> torch.Tensor:
    return torch.tensor(labels)[..., None]


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_hinge_is_that_of_pytorch(equals_examples: Equals, margin: float) -> None:
    hinge = partial(losses.hinge, margin=margin)
    equals_examples(hinge, Y, BITS, lambda y: (margin - SIGN * y).clamp(min=0))
    equals_examples(hinge, Y[:, 0], BITS[:, :1], lambda y: (margin - SIGN[:, 0] * y).clamp(min=0))
    equals_examples(
        hinge, Y, LABELS, lambda y: F.multi_margin_loss(y, torch.tensor(LABELS), margin=margin, reduction="none")
    )
    equals_examples(
        hinge,
        SEQUENCE,
        SEQUENCE_LABELS,
        lambda y: F.multi_margin_loss(
            y.reshape(15, 4), torch.tensor(SEQUENCE_LABELS.reshape(15)), margin=margin, reduction="none"
        ).reshape(3, 5),
    )


def test_perceptron_counts_mistakes_only(equals_examples: Equals) -> None:
    equals_examples(losses.perceptron, Y, BITS, lambda y: (-SIGN * y).clamp(min=0))
    equals_examples(losses.perceptron, Y, LABELS, lambda y: y.amax(-1) - y.gather(1, column(LABELS))[:, 0])


def test_the_perceptron_at_zero_learns_as_rosenblatt_does() -> None:
    slope = cr.grad(lambda y: losses.perceptron(y, np.array([0, 1])))(np.zeros(2))
    np.testing.assert_array_equal(slope, [0.5, -0.5])


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
def test_focal_equals_its_definition(equals_examples: Equals, gamma: float) -> None:
    def binary(y: torch.Tensor, alpha: float | None) -> torch.Tensor:
        # The form of torchvision.ops.sigmoid_focal_loss.
        goal = torch.tensor(BITS, dtype=y.dtype)
        p = torch.sigmoid(y)
        of_target = p * goal + (1 - p) * (1 - goal)
        loss = F.binary_cross_entropy_with_logits(y, goal, reduction="none") * (1 - of_target) ** gamma
        return loss if alpha is None else loss * (alpha * goal + (1 - alpha) * (1 - goal))

    for alpha in (None, 0.25):
        equals_examples(partial(losses.focal, gamma=gamma, alpha=alpha), Y, BITS, partial(binary, alpha=alpha))

    def classes(y: torch.Tensor) -> torch.Tensor:
        logs = torch.log_softmax(y, -1).gather(1, column(LABELS))[:, 0]
        return -((1 - logs.exp()) ** gamma) * logs

    equals_examples(partial(losses.focal, gamma=gamma), Y, LABELS, classes)


def test_kl_divergence_equals_pytorch(equals_examples: Equals) -> None:
    targets = PROBABILITIES.copy()
    targets[0] = [0, 0.5, 0, 0.5]
    equals_examples(
        losses.kl_divergence,
        Y,
        targets,
        lambda y: F.kl_div(torch.log_softmax(y, -1), torch.tensor(targets), reduction="none").sum(-1),
    )
    assert losses.kl_divergence(np.log(PROBABILITIES), PROBABILITIES) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing_equals_pytorch(equals_examples: Equals, smoothing: float) -> None:
    loss = partial(losses.cross_entropy, label_smoothing=smoothing)
    options: Any = {"label_smoothing": smoothing, "reduction": "none"}
    equals_examples(loss, Y, LABELS, lambda y: F.cross_entropy(y, torch.tensor(LABELS), **options))
    equals_examples(loss, Y, PROBABILITIES, lambda y: F.cross_entropy(y, torch.tensor(PROBABILITIES), **options))


BINARY = [losses.hinge, losses.perceptron, losses.focal, partial(losses.focal, gamma=0.5, alpha=0.25)]
CLASSES = [
    losses.hinge,
    losses.perceptron,
    losses.focal,
    partial(losses.focal, gamma=1.0),
    losses.kl_divergence,
    partial(losses.cross_entropy, label_smoothing=0.1),
]


@pytest.mark.parametrize("loss", BINARY)
def test_binary_losses_of_logits_of_ten_thousand_stay_finite(loss: Any) -> None:
    y = np.array([1e4, -1e4, 1e4, -1e4, 0], np.float32)
    value, slope = cr.value_and_grad(lambda y: loss(y, np.array([0, 0, 1, 1, 1])))(y)
    assert value.dtype == np.float32
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert value > 1000
    assert (slope[[0]] > 0).all()
    assert (slope[[1, 2]] == 0).all()


@pytest.mark.parametrize("loss", CLASSES)
def test_losses_of_class_logits_of_ten_thousand_stay_finite(loss: Any) -> None:
    y = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [0, 0, 0]], np.float32)
    labels = np.array([1, 1, 2])
    targets = np.eye(3, dtype=np.float32)[labels] if loss is losses.kl_divergence else labels
    value, slope = cr.value_and_grad(lambda y: loss(y, targets))(y)
    exact = loss(y.astype(np.float64), targets)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert np.isfinite(slope).all()
    assert slope[0, 1] < 0


@pytest.mark.parametrize("loss", [losses.hinge, losses.perceptron, losses.focal])
def test_targets_that_make_no_sense_are_refused(loss: Any) -> None:
    name = loss.__name__
    with pytest.raises(DataError, match=rf"{name} needs targets 0 and 1, but position \(0, 0\) holds -1"):
        loss(Y, -np.ones((6, 4)))
    with pytest.raises(DataError, match="labels of 4 classes are 0 to 3, but row 2 holds 4"):
        loss(Y, np.array([0, 1, 4, 0, 0, 0]))
    with pytest.raises(DTypeError, match=f"{name} needs integer labels from 0 to 3"):
        loss(Y, LABELS.astype(float))
    with pytest.raises(ShapeError, match=r"outputs have shape \(6, 4\), but the targets have shape \(5,\)"):
        loss(Y, LABELS[:5] % 2)
    assert np.isnan(cr.compile(lambda y, t: loss(y, t))(Y, np.array([0, 1, 4, 0, 0, 0])))


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="label_smoothing is a share from 0 to 1"):
        losses.cross_entropy(Y, LABELS, label_smoothing=1.5)
    with pytest.raises(ConfigError, match="gamma from 0 on"):
        losses.focal(Y, BITS, gamma=-1)
    with pytest.raises(ConfigError, match="weigh classes by with_class_weights"):
        losses.focal(Y, LABELS, alpha=0.25)
    with pytest.raises(ShapeError, match=r"needs probabilities of that shape, not \(6,\)"):
        losses.kl_divergence(Y, LABELS)
