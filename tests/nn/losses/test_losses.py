"""Losses: values and gradients against PyTorch, weights, extreme logits, and targets that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import DataError, DTypeError, ShapeError
from chainrule.nn import losses

NDArray = np.ndarray[Any, Any]
F = torch.nn.functional
RNG = np.random.default_rng(0)

Y, T = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3))
BITS = np.array([0, 1, 1, 0, 1, 0])
SOFT = RNG.uniform(size=6)
LABELS = np.array([0, 2, 1, 1, 0, 2])
PROBABILITIES = RNG.dirichlet(np.ones(3), size=6)
SEQUENCE, SEQUENCE_LABELS = RNG.normal(size=(4, 5, 3)), RNG.integers(0, 3, size=(4, 5))
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, 3.0, 0.25])

CASES: dict[str, tuple[Callable[..., Any], NDArray, NDArray, Callable[..., Any]]] = {
    "squared": (losses.squared_error, Y, T, lambda y: F.mse_loss(y, torch.tensor(T))),
    "squared of one output": (losses.squared_error, Y[:, 0], T[:, 0], lambda y: F.mse_loss(y, torch.tensor(T[:, 0]))),
    "half squared": (losses.half_squared_error, Y, T, lambda y: ((y - torch.tensor(T)) ** 2).sum(1).mean() / 2),
    "half squared of one output": (
        losses.half_squared_error,
        Y[:, 0],
        T[:, 0],
        lambda y: ((y - torch.tensor(T[:, 0])) ** 2).mean() / 2,
    ),
    "absolute": (losses.absolute_error, Y, T, lambda y: F.l1_loss(y, torch.tensor(T))),
    "binary": (
        losses.binary_cross_entropy,
        Y[:, 0],
        BITS,
        lambda y: F.binary_cross_entropy_with_logits(y, torch.tensor(BITS, dtype=torch.float64)),
    ),
    "binary of a column": (
        losses.binary_cross_entropy,
        Y[:, :1],
        BITS,
        lambda y: F.binary_cross_entropy_with_logits(y[:, 0], torch.tensor(BITS, dtype=torch.float64)),
    ),
    "binary, soft": (
        losses.binary_cross_entropy,
        Y[:, 0],
        SOFT,
        lambda y: F.binary_cross_entropy_with_logits(y, torch.tensor(SOFT)),
    ),
    "binary, several labels": (
        losses.binary_cross_entropy,
        Y,
        (T > 0),
        lambda y: F.binary_cross_entropy_with_logits(y, torch.tensor((T > 0).astype(float))),
    ),
    "classes": (losses.cross_entropy, Y, LABELS, lambda y: F.cross_entropy(y, torch.tensor(LABELS))),
    "classes in a column": (
        losses.cross_entropy,
        Y,
        LABELS[:, None].astype(np.uint8),
        lambda y: F.cross_entropy(y, torch.tensor(LABELS)),
    ),
    "probabilities": (
        losses.cross_entropy,
        Y,
        PROBABILITIES,
        lambda y: F.cross_entropy(y, torch.tensor(PROBABILITIES)),
    ),
    "classes of a sequence": (
        losses.cross_entropy,
        SEQUENCE,
        SEQUENCE_LABELS,
        lambda y: F.cross_entropy(y.reshape(20, 3), torch.tensor(SEQUENCE_LABELS.reshape(20))),
    ),
}


def check(loss: Callable[..., Any], outputs: NDArray, expected: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Value, gradient, and the value computed at once, against PyTorch."""
    leaf = torch.tensor(outputs, requires_grad=True)
    value = expected(leaf)
    value.backward()
    assert leaf.grad is not None
    found, gradient = cr.value_and_grad(loss)(outputs)
    assert np.shape(found) == ()
    np.testing.assert_allclose(found, value.item(), rtol=1e-12)
    np.testing.assert_allclose(loss(outputs), value.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_losses_equal_pytorch(name: str) -> None:
    loss, outputs, targets, expected = CASES[name]
    check(lambda y: loss(y, targets), outputs, expected)


@pytest.mark.parametrize("name", CASES)
def test_compiled_for_any_batch_size(name: str) -> None:
    loss, outputs, targets, _ = CASES[name]
    step = cr.compile(lambda y, t: loss(y, t), batch=("y", "t"))
    for size in (len(outputs), 3, 1):
        np.testing.assert_allclose(
            step(outputs[:size], targets[:size]), loss(outputs[:size], targets[:size]), rtol=1e-12
        )


@pytest.mark.parametrize("name", CASES)
def test_weights_give_the_weighted_mean_of_the_losses_of_single_examples(name: str) -> None:
    loss, outputs, targets, _ = CASES[name]
    weights = WEIGHTS[: len(outputs)]
    single = [loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))]
    np.testing.assert_allclose(loss(outputs, targets, weights), np.average(single, weights=weights), rtol=1e-12)
    np.testing.assert_allclose(loss(outputs, targets, np.full(len(outputs), 3.0)), loss(outputs, targets), rtol=1e-12)
    assert loss(outputs, targets, np.zeros(len(outputs))) == 0
    assert cr.check_gradients(lambda y: loss(y, targets, weights), outputs)


def test_weights_do_not_widen_a_float32_loss() -> None:
    found = losses.squared_error(Y.astype(np.float32), T.astype(np.float32), WEIGHTS)
    assert found.dtype == np.float32


def test_every_position_of_a_sequence_can_be_weighted() -> None:
    mask = RNG.integers(0, 2, size=(4, 5)).astype(float)
    expected = F.cross_entropy(
        torch.tensor(SEQUENCE.reshape(20, 3)), torch.tensor(SEQUENCE_LABELS.reshape(20)), reduction="none"
    ).numpy()
    found = losses.cross_entropy(SEQUENCE, SEQUENCE_LABELS, mask)
    np.testing.assert_allclose(found, np.average(expected, weights=mask.reshape(20)), rtol=1e-12)


# --- class weights ----------------------------------------------------------------------------------------------------


def test_class_weights_of_labels_equal_pytorch() -> None:
    by_class = np.array([0.2, 1.0, 3.0])
    loss = nn.losses.with_class_weights(losses.cross_entropy, by_class)
    check(
        lambda y: loss(y, LABELS),
        Y,
        lambda y: F.cross_entropy(y, torch.tensor(LABELS), weight=torch.tensor(by_class)),
    )
    check(
        lambda y: loss(y, SEQUENCE_LABELS),
        SEQUENCE,
        lambda y: F.cross_entropy(
            y.reshape(20, 3), torch.tensor(SEQUENCE_LABELS.reshape(20)), weight=torch.tensor(by_class)
        ),
    )


def test_class_weights_and_sample_weights_multiply() -> None:
    by_class = [0.2, 1.0, 3.0]
    loss = losses.with_class_weights(losses.cross_entropy, by_class)
    together = np.array(by_class)[LABELS] * WEIGHTS
    np.testing.assert_allclose(loss(Y, LABELS, WEIGHTS), losses.cross_entropy(Y, LABELS, together), rtol=1e-12)
    by_row = losses.with_class_weights(losses.cross_entropy, by_class)(SEQUENCE, SEQUENCE_LABELS, WEIGHTS[:4])
    by_position = np.array(by_class)[SEQUENCE_LABELS] * WEIGHTS[:4, None]
    np.testing.assert_allclose(by_row, losses.cross_entropy(SEQUENCE, SEQUENCE_LABELS, by_position), rtol=1e-12)


@pytest.mark.parametrize("column", [False, True])
def test_class_weights_of_a_binary_target(column: bool) -> None:
    outputs = Y[:, :1] if column else Y[:, 0]
    loss = losses.with_class_weights(losses.binary_cross_entropy, [0.5, 4])
    by_example = np.array([0.5, 4])[BITS]
    expected = losses.binary_cross_entropy(outputs, BITS, by_example)
    np.testing.assert_allclose(loss(outputs, BITS), expected, rtol=1e-12)
    np.testing.assert_allclose(
        loss(outputs, BITS, WEIGHTS), losses.binary_cross_entropy(outputs, BITS, by_example * WEIGHTS)
    )
    found = cr.compile(lambda y, t, w: loss(y, t, w), batch=("y", "t", "w"))(outputs, BITS, WEIGHTS)
    np.testing.assert_allclose(found, loss(outputs, BITS, WEIGHTS), rtol=1e-12)


def test_class_weights_of_one_hot_targets_equal_those_of_labels() -> None:
    loss = losses.with_class_weights(losses.cross_entropy, [0.2, 1.0, 3.0])
    np.testing.assert_allclose(loss(Y, np.eye(3)[LABELS]), loss(Y, LABELS), rtol=1e-12)


def test_class_weights_keep_the_name_of_the_loss_and_must_fit() -> None:
    loss = losses.with_class_weights(losses.cross_entropy, [1.0, 2.0, 3.0, 4.0])
    assert loss.__name__ == "cross_entropy"  # type: ignore[attr-defined]
    with pytest.raises(ShapeError, match=r"4 class weights, .* logits of shape \(6, 3\)"):
        loss(Y, LABELS)
    with pytest.raises(ShapeError, match=r"one number per class, not an array of shape \(2, 2\)"):
        losses.with_class_weights(losses.cross_entropy, np.ones((2, 2)))


# --- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("logit", [1e4, -1e4, 800.0, -800.0, 0.0])
def test_extreme_logits_give_finite_losses_and_gradients(logit: float, dtype: Any) -> None:
    for target in (0, 1):
        value, gradient = cr.value_and_grad(lambda y, t=target: losses.binary_cross_entropy(y, [t]))(
            np.array([logit], dtype)
        )
        exact = F.binary_cross_entropy_with_logits(
            torch.tensor([logit], dtype=torch.float64), torch.tensor([float(target)], dtype=torch.float64)
        )
        np.testing.assert_allclose(value, exact.item(), rtol=1e-6)
        np.testing.assert_allclose(gradient, [1 / (1 + np.exp(np.clip(-logit, -700, 700))) - target], atol=1e-6)
        logits = np.array([[logit, 0.0, -logit]], dtype)
        value, gradient = cr.value_and_grad(lambda y, t=target: losses.cross_entropy(y, [t]))(logits)
        exact = F.cross_entropy(torch.tensor(logits.astype(np.float64)), torch.tensor([target]))
        np.testing.assert_allclose(value, exact.item(), rtol=1e-6)
        assert np.isfinite(gradient).all()
        value, gradient = cr.value_and_grad(lambda y: losses.cross_entropy(y, np.full((1, 3), 1 / 3)))(logits)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_a_sure_and_right_prediction_keeps_its_small_loss() -> None:
    """max(x, 0) - x t + log(1 + e**-|x|) does not cancel: at 20, float32, the loss is 2e-9 and not 0."""
    found = losses.binary_cross_entropy(np.array([20.0, -20.0], np.float32), np.array([1, 0]))
    np.testing.assert_allclose(found, np.log1p(np.exp(-20.0)), rtol=1e-6)


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_a_column_of_outputs_is_not_broadcast_against_a_row_of_targets() -> None:
    np.testing.assert_allclose(losses.squared_error(Y[:, :1], T[:, 0]), np.mean((Y[:, 0] - T[:, 0]) ** 2), rtol=1e-12)
    np.testing.assert_allclose(losses.absolute_error(Y[:, 0], T[:, :1]), np.mean(abs(Y[:, 0] - T[:, 0])), rtol=1e-12)
    for loss in (losses.squared_error, losses.half_squared_error, losses.absolute_error, losses.binary_cross_entropy):
        with pytest.raises(ShapeError, match=r"outputs have shape \(6, 3\), but the targets have shape \(6,\)"):
            loss(Y, T[:, 0])
        with pytest.raises(ShapeError, match=r"\(6,\), but the targets have shape \(1,\)"):
            loss(Y[:, 0], T[:1, 0])


def test_targets_of_cross_entropy_that_do_not_fit() -> None:
    with pytest.raises(
        ShapeError, match=r"needs labels of shape \(6,\) or probabilities of shape \(6, 3\), not \(5,\)"
    ):
        losses.cross_entropy(Y, LABELS[:5])
    with pytest.raises(DTypeError, match=r"integer labels from 0 to 2, not float64; .*\.astype\(int\)"):
        losses.cross_entropy(Y, LABELS.astype(float))
    with pytest.raises(ShapeError, match="a single class is always 0; use binary_cross_entropy"):
        losses.cross_entropy(Y[:, :1], BITS)
    with pytest.raises(ShapeError, match="needs labels"):
        losses.cross_entropy(np.float32(1.0), 0)


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"weights of shape \(5,\) were given for losses of shape \(6,\)"):
        losses.cross_entropy(Y, LABELS, WEIGHTS[:5])
    with pytest.raises(ShapeError, match=r"weights of shape \(3,\) were given for losses of shape \(6, 3\)"):
        losses.squared_error(Y, T, WEIGHTS[:3])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_an_error_or_in_a_compiled_step_nan(label: int) -> None:
    wrong = LABELS.copy()
    wrong[4] = label
    with pytest.raises(DataError, match=f"labels of 3 classes are 0 to 2, but row 4 holds {label}"):
        losses.cross_entropy(Y, wrong)
    with pytest.raises(DataError, match="row 4"):
        losses.with_class_weights(losses.cross_entropy, [1, 1, 1])(Y, wrong)
    assert np.isnan(cr.compile(lambda y, t: losses.cross_entropy(y, t))(Y, wrong))
    with pytest.raises(DataError, match=r"position \(0, 1\) holds 7"):
        losses.cross_entropy(SEQUENCE, np.where(np.indices((4, 5)).sum(0) == 1, 7, 0))


def test_a_binary_target_outside_zero_to_one_is_an_error() -> None:
    with pytest.raises(DataError, match="targets from 0 to 1, but row 0 holds -1"):
        losses.binary_cross_entropy(Y[:, 0], 2 * BITS - 1)
