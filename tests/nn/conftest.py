"""PyTorch as the oracle of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.trees import replace_leaves

NDArray = np.ndarray[Any, Any]
Check = Callable[..., None]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 with every parameter drawn at random, so that no term hides behind a 0 or a 1."""
    rng = np.random.default_rng(seed)
    wide = model.astype("float64")
    drawn = {path: rng.normal(size=leaf.shape) for path, leaf in wide.named_parameters().items()}
    changed: nn.Module = replace_leaves(wide, drawn)
    return changed


@pytest.fixture
def equals_torch() -> Check:
    """Checks outputs, gradients of every parameter and the gradient of the input against a PyTorch module.

    ``names`` maps our paths to PyTorch's; matrices are transposed on the way. Parameters are randomised and copied first.
    """

    def check(
        model: nn.Module,
        theirs: torch.nn.Module,
        x: NDArray,
        names: Mapping[str, str] | None = None,
        training: bool = False,
    ) -> None:
        model = randomised(model)
        theirs = theirs.double().train(training)
        paths = names or {path: path.replace("layers.", "") for path in model.named_parameters()}
        assert set(paths) == set(model.named_parameters())
        parameters = dict(theirs.named_parameters())
        with torch.no_grad():
            for path, leaf in model.named_parameters().items():
                parameters[paths[path]].copy_(torch.tensor(leaf.T))
        theirs.zero_grad()
        leaf = torch.tensor(x, requires_grad=True)
        out = theirs(leaf)
        probe = np.random.default_rng(7).normal(size=tuple(out.shape))
        (out * torch.tensor(probe)).sum().backward()

        def loss(model: nn.Module, x: Any) -> Any:
            y = model(x, training=training)
            return (y * probe).sum(), y

        head, (gradients, of_input) = cr.value_and_grad(loss, (0, 1), has_aux=True, state=True)(model, x)
        np.testing.assert_allclose(head[-1], out.detach().numpy(), rtol=1e-9, atol=1e-12)
        assert leaf.grad is not None
        np.testing.assert_allclose(of_input, leaf.grad.numpy(), rtol=1e-9, atol=1e-11)
        for path, found in gradients.named_parameters().items():
            expected = parameters[paths[path]].grad
            assert expected is not None
            np.testing.assert_allclose(found, expected.numpy().T, rtol=1e-9, atol=1e-11, err_msg=path)

    return check
