"""A check of a loss against PyTorch's of single examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr

NDArray = np.ndarray[Any, Any]


@pytest.fixture
def equals_examples() -> Callable[..., None]:
    """Checks ``loss(outputs, targets)`` against the mean of ``theirs(outputs)``, one number per example, with and without weights.

    Outputs are an array or a tuple of arrays; value and gradients are compared, computed at once and compiled for any batch size.
    """

    def check(loss: Any, outputs: Any, targets: Any, theirs: Callable[..., torch.Tensor]) -> None:
        arrays = outputs if isinstance(outputs, tuple) else (outputs,)
        rows = len(arrays[0])
        for weights in (None, np.random.default_rng(3).uniform(size=rows)):
            leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
            each = theirs(*leaves).reshape(rows, -1).mean(1)
            share = (
                torch.full((rows,), 1 / rows, dtype=torch.float64)
                if weights is None
                else torch.tensor(weights / weights.sum())
            )
            expected = (each * share).sum()
            expected.backward()
            found, slopes = cr.value_and_grad(lambda y, weights=weights: loss(y, targets, weights))(outputs)
            np.testing.assert_allclose(found, expected.item(), rtol=1e-9)
            np.testing.assert_allclose(loss(outputs, targets, weights), expected.item(), rtol=1e-9)
            for slope, leaf in zip(slopes if isinstance(outputs, tuple) else (slopes,), leaves, strict=True):
                np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=1e-7, atol=1e-12)
        if isinstance(outputs, np.ndarray) and isinstance(targets, np.ndarray):
            step = cr.compile(lambda y, t: loss(y, t), batch=("y", "t"))
            for size in (rows, 2, 1):
                np.testing.assert_allclose(step(outputs[:size], targets[:size]), loss(outputs[:size], targets[:size]))

    return check
