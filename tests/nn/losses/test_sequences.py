"""CTC against PyTorch: variable lengths, repeats, the compiled engine, extreme logits, and what does not fit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import DataError, DTypeError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.nn import losses

F = torch.nn.functional
NDArray = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(4, 9, 5))
# Repeats (which need a blank between), a single label, and none at all.
LABELS = np.array([[1, 1, 2, 2], [3, -1, -1, -1], [4, 3, 4, -1], [-1, -1, -1, -1]])
STEPS = np.array([9, 4, 7, 5])


def theirs(logits: NDArray, labels: NDArray, steps: NDArray | None, blank: int = 0) -> tuple[NDArray, NDArray]:
    leaf = torch.tensor(logits, requires_grad=True)
    lengths = torch.full((len(logits),), logits.shape[1]) if steps is None else torch.tensor(steps)
    counts = torch.tensor((labels >= 0).sum(1))
    goal = torch.tensor(np.where(labels >= 0, labels, 0))
    each = F.ctc_loss(torch.log_softmax(leaf, -1).transpose(0, 1), goal, lengths, counts, blank, reduction="none")
    each.mean().backward()
    return each.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("steps", [None, STEPS], ids=["all steps", "lengths"])
def test_it_equals_pytorch(engine: str, steps: NDArray | None) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    expected, slope = theirs(LOGITS, LABELS, steps)
    if steps is None:
        graded = cr.value_and_grad(lambda y, t: losses.ctc(y, t))
        step: Any = cr.compile(lambda y, t: graded(y, t), engine=engine, batch=("y", "t"))
        found, gradient = step(LOGITS, LABELS)
    else:
        step = cr.compile(cr.value_and_grad(lambda y, t, n: losses.ctc(y, (t, n))), engine=engine)
        found, gradient = step(LOGITS, LABELS, steps)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-9)
    np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-12)


def test_another_blank_and_weights() -> None:
    labels = np.where(LABELS == 4, 0, LABELS)
    expected, _ = theirs(LOGITS, labels, STEPS, blank=4)
    weights = np.array([1.0, 0.5, 0, 2])
    found = losses.ctc(LOGITS, (labels, STEPS), weights, blank=4)
    np.testing.assert_allclose(found, np.average(expected, weights=weights), rtol=1e-9)


def test_it_is_the_sum_over_all_paths() -> None:
    logits, labels = LOGITS[:1, :4, :3], [1, 2]
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        merged = [k for place, k in enumerate(path) if k and (place == 0 or path[place - 1] != k)]
        if merged == labels:
            total += np.prod([p[time, k] for time, k in enumerate(path)])
    np.testing.assert_allclose(losses.ctc(logits, np.array([labels])), -np.log(total), rtol=1e-12)


def test_logits_of_ten_thousand_stay_finite() -> None:
    logits = (1e4 * RNG.choice([-1, 0, 1], size=(3, 6, 4))).astype(np.float32)
    labels = np.array([[1, 2, 3], [2, 2, -1], [3, -1, -1]])
    value, slope = cr.value_and_grad(lambda y: losses.ctc(y, labels))(logits)
    expected, _ = theirs(logits.astype(np.float64), labels, None)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    assert np.isfinite(slope).all()


def test_labels_that_do_not_fit_into_the_steps_have_an_infinite_loss_and_no_gradient() -> None:
    # Two equal labels need a blank between them: three steps.
    labels = np.array([[2, 2], [1, 2]])
    value, slope = cr.value_and_grad(lambda y: losses.ctc(y, labels))(LOGITS[:2, :2])
    assert np.isposinf(value)
    assert not slope[0].any()
    assert np.isfinite(slope).all()
    each = losses.ctc(LOGITS[:2, :2], labels, zero_infinity=True, reduction="none")
    assert each[0] == 0
    assert each.sum() == losses.ctc(LOGITS[1:2, :2], labels[1:])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"logits \(batch, time, classes\) and labels \(batch, most labels\)"):
        losses.ctc(LOGITS, LABELS[:2])
    with pytest.raises(ShapeError, match="one length for each of the 4 examples"):
        losses.ctc(LOGITS, (LABELS, STEPS[:3]))
    with pytest.raises(DTypeError, match="ctc needs integer labels"):
        losses.ctc(LOGITS, LABELS.astype(float))
    with pytest.raises(DataError, match=r"without the blank 0, but position \(1, 0\) holds 5"):
        losses.ctc(LOGITS, np.where(LABELS == 3, 5, LABELS))
    with pytest.raises(DataError, match=r"behind the last one, but position \(0, 2\) holds 2"):
        losses.ctc(LOGITS, np.array([[1, -1, 2, 2]] * 4))
