"""Sums and single losses, classes that weigh more, and labels that count for nothing, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, DataError, ShapeError
from chainrule.nn import losses

F = torch.nn.functional
RNG = np.random.default_rng(0)
Y, T = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
BITS, LABELS = RNG.integers(0, 2, size=(6, 4)), np.array([0, 3, 1, 1, 0, 2])
P = RNG.dirichlet(np.ones(4), size=6)
SEQUENCES, THEIR_LABELS = RNG.normal(size=(3, 5, 4)), RNG.integers(0, 4, size=(3, 5))
BY_CLASS = np.array([0.5, 2.0, 1.0, 0.3])
IGNORED = -100


def agree(loss: Callable[..., Any], theirs: Callable[..., torch.Tensor], y: Any, *targets: Any) -> None:
    """The loss in every reduction, and its gradient."""
    for reduction in ("mean", "sum", "none"):
        leaf = torch.tensor(y, requires_grad=True)
        expected = theirs(leaf, *map(torch.tensor, targets), reduction=reduction)
        probe = RNG.normal(size=tuple(expected.shape))
        (expected * torch.tensor(probe)).sum().backward()

        def probed(y: Any, reduction: Any = reduction, probe: Any = probe) -> Any:
            found = loss(y, *targets, reduction=reduction)
            return (found * probe).sum(), found

        (_, found), slope = cr.value_and_grad(probed, has_aux=True)(y)
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-9)
        np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs", "targets"),
    [
        (losses.squared_error, F.mse_loss, T),
        (losses.absolute_error, F.l1_loss, T),
        (losses.huber, F.huber_loss, T),
        (losses.smooth_l1, F.smooth_l1_loss, T),
        (losses.poisson_nll, F.poisson_nll_loss, BITS),
        (losses.binary_cross_entropy, F.binary_cross_entropy_with_logits, BITS.astype(float)),
        (losses.hinge, F.multi_margin_loss, LABELS),
        (losses.cross_entropy, F.cross_entropy, LABELS),
        (losses.cross_entropy, F.cross_entropy, P),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_reductions_equal_pytorch(ours: Any, theirs: Any, targets: Any) -> None:
    agree(ours, theirs, Y, targets)


def test_every_loss_has_the_reductions() -> None:
    for loss in (losses.half_squared_error, losses.perceptron, losses.focal, losses.kl_divergence):
        targets = P if loss is losses.kl_divergence else T if loss is losses.half_squared_error else LABELS
        each = loss(Y, targets, reduction="none")
        assert each.shape == (6,)
        np.testing.assert_allclose(loss(Y, targets, reduction="sum"), each.sum())
        np.testing.assert_allclose(loss(Y, targets), each.mean())
    for loss, outputs in ((losses.triplet_margin, (Y, T, P)), (losses.gaussian_nll, (Y, P))):
        each = loss(outputs, T, reduction="none")
        np.testing.assert_allclose(loss(outputs, T), each.mean())
    with pytest.raises(ConfigError, match="reduction of a loss is 'mean', 'sum' or 'none', not 'average'"):
        losses.squared_error(Y, T, reduction="average")  # type: ignore[arg-type]


def test_weights_act_in_every_reduction() -> None:
    weights = RNG.uniform(size=6)
    each = losses.squared_error(Y, T, weights, reduction="none")
    np.testing.assert_allclose(each, (Y - T) ** 2 * weights[:, None])
    np.testing.assert_allclose(losses.squared_error(Y, T, weights, reduction="sum"), each.sum())
    weighted = losses.with_class_weights(losses.hinge, BY_CLASS)
    np.testing.assert_allclose(weighted(Y, LABELS, reduction="sum"), weighted(Y, LABELS) * BY_CLASS[LABELS].sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignoring", [False, True])
def test_cross_entropy_equals_pytorch_with_all_options(smoothing: float, weighted: bool, ignoring: bool) -> None:
    by_class = BY_CLASS if weighted else None
    ours = partial(losses.cross_entropy, label_smoothing=smoothing, class_weights=by_class)
    theirs = partial(F.cross_entropy, label_smoothing=smoothing, weight=torch.tensor(BY_CLASS) if weighted else None)
    if not ignoring:
        agree(ours, theirs, Y, P)
    labels, places = LABELS.copy(), THEIR_LABELS.copy()
    if ignoring:
        labels[[1, 4]] = places[0, 3:] = places[2] = IGNORED
        ours = partial(ours, ignore_index=IGNORED)
    agree(ours, theirs, Y, labels)

    def transposed(y: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
        return theirs(y.transpose(1, 2), labels, reduction=reduction)

    agree(ours, transposed, SEQUENCES, places)


def test_labels_that_are_ignored_may_be_classes_and_may_be_all() -> None:
    theirs = partial(F.cross_entropy, ignore_index=1)
    agree(partial(losses.cross_entropy, ignore_index=1), theirs, Y, LABELS)
    value, slope = cr.value_and_grad(lambda y: losses.cross_entropy(y, np.full(6, -1), ignore_index=-1))(Y)
    assert value == 0
    assert not slope.any()
    weights = np.array([1.0, 0, 2])
    found = losses.cross_entropy(SEQUENCES, THEIR_LABELS, weights, ignore_index=3)
    each = losses.cross_entropy(SEQUENCES, THEIR_LABELS, reduction="none")
    np.testing.assert_allclose(found, np.average(each, weights=(THEIR_LABELS != 3) * weights[:, None]))
    step = cr.compile(lambda y, t: losses.cross_entropy(y, t, ignore_index=-1), batch=("y", "t"))
    np.testing.assert_allclose(step(Y[:2], np.array([-1, 3])), losses.cross_entropy(Y[1:2], LABELS[1:2]))


def test_positive_targets_that_weigh_more_equal_pytorch() -> None:
    targets = RNG.uniform(size=(6, 4))
    for weight in (3.0, BY_CLASS):
        agree(
            partial(losses.binary_cross_entropy, pos_weight=weight),
            partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(weight)),
            Y,
            targets,
        )
    value, slope = cr.value_and_grad(lambda y: losses.binary_cross_entropy(y, np.array([1.0, 0]), pos_weight=2))(
        np.float32([-1e4, 1e4])
    )
    assert value == 15000
    np.testing.assert_array_equal(slope, [-1, 0.5])


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"class_weights of shape \(3,\) do not fit logits of shape \(6, 4\)"):
        losses.cross_entropy(Y, LABELS, class_weights=BY_CLASS[:3])
    with pytest.raises(ConfigError, match="ignore_index is a label, but the targets are probabilities"):
        losses.cross_entropy(Y, P, ignore_index=0)
    with pytest.raises(DataError, match="labels of 4 classes are 0 to 3, but row 1 holds -1"):
        losses.cross_entropy(Y, np.array([-2, -1, 0, 0, 0, 0]), ignore_index=-2)
    with pytest.raises(ShapeError, match=r"pos_weight is a number or one for each .* not of shape \(3,\)"):
        losses.binary_cross_entropy(Y, BITS, pos_weight=BY_CLASS[:3])
