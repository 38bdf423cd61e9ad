"""Triplet and cosine embedding losses against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, DataError, ShapeError
from chainrule.nn import losses

F = torch.nn.functional
RNG = np.random.default_rng(0)
A, P, N = (RNG.normal(size=(6, 4)) for _ in range(3))
TOGETHER = np.array([1, 0, 0, 1, 0, 1])

Equals = Callable[..., None]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_margin_equals_pytorch(equals_examples: Equals, margin: float, swap: bool) -> None:
    equals_examples(
        partial(losses.triplet_margin, margin=margin, swap=swap),
        (A, P, N),
        None,
        lambda a, p, n: F.triplet_margin_loss(a, p, n, margin, swap=swap, reduction="none"),
    )


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.3])
def test_cosine_embedding_equals_pytorch(equals_examples: Equals, margin: float) -> None:
    equals_examples(
        partial(losses.cosine_embedding, margin=margin),
        (A, P),
        TOGETHER,
        lambda u, v: F.cosine_embedding_loss(u, v, torch.tensor(2 * TOGETHER - 1), margin, reduction="none"),
    )


def test_equal_zero_and_huge_vectors_have_finite_gradients() -> None:
    for scale in (0.0, 1.0, 1e4):
        u = np.full((2, 3), scale, np.float32)
        value, slopes = cr.value_and_grad(lambda outputs: losses.triplet_margin(outputs))((u, u, -u))
        assert np.isfinite(value)
        assert np.isfinite(slopes).all()
        value, slopes = cr.value_and_grad(lambda outputs: losses.cosine_embedding(outputs, np.array([0, 1])))((u, -u))
        assert np.isfinite(value)
        assert np.isfinite(slopes).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="triplet_margin needs 3 arrays as outputs in a tuple, not ndarray"):
        losses.triplet_margin(A)
    with pytest.raises(ShapeError, match=r"one shape \(\.\.\., features\), not \(6, 4\), \(6, 3\)"):
        losses.cosine_embedding((A, P[:, :3]), TOGETHER)
    with pytest.raises(DataError, match="targets 0 and 1, but row 1 holds -1"):
        losses.cosine_embedding((A, P), 2 * TOGETHER - 1)
    with pytest.raises(ConfigError, match="a cosine from -1 to 1, not 2"):
        losses.cosine_embedding((A, P), TOGETHER, margin=2)
