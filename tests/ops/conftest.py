"""PyTorch as the oracle of operations on channels-last arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]


@pytest.fixture(params=["reference", "cpu"])
def engine(request: pytest.FixtureRequest) -> str:
    """The name of each engine."""
    if request.param == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    return str(request.param)


def channels_first(x: NDArray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)), requires_grad=True)


def channels_last(x: torch.Tensor) -> NDArray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


@pytest.fixture
def same_as_torch() -> Callable[..., None]:
    """Checks ``ours(x, w)`` and both gradients against ``theirs`` of the channels-first x and of w with its axes reordered.

    ``axes`` takes our weight to PyTorch's; without a weight both functions take x alone. The batch size is symbolic.
    """

    def check(
        ours: Callable[..., Any],
        theirs: Callable[..., torch.Tensor],
        x: NDArray,
        weight: NDArray | None = None,
        axes: tuple[int, ...] = (),
        engine: str = "reference",
    ) -> None:
        image = channels_first(x)
        window = [] if weight is None else [torch.tensor(weight.transpose(axes).copy(), requires_grad=True)]
        y = theirs(image, *window)
        probe = np.random.default_rng(5).normal(size=y.shape)
        (y * torch.tensor(probe)).sum().backward()
        operands = [x] if weight is None else [x, weight]

        def loss(x: Any, probe: Any, *weight: Any) -> Any:
            out = ours(x, *weight)
            return (out * probe).sum(), out

        places = (0,) if weight is None else (0, 2)
        graded = cr.value_and_grad(loss, places, has_aux=True)
        step = cr.compile(lambda x, probe, *weight: graded(x, probe, *weight), engine=engine, batch=("x", "probe"))
        (_, value), gradients = step(x, np.moveaxis(probe, 1, -1).copy(), *operands[1:])
        np.testing.assert_allclose(value, channels_last(y), rtol=1e-9, atol=1e-11)
        assert image.grad is not None
        np.testing.assert_allclose(gradients[0], channels_last(image.grad), rtol=1e-9, atol=1e-11)
        if weight is not None:
            assert window[0].grad is not None
            expected = window[0].grad.numpy().transpose(np.argsort(axes))
            np.testing.assert_allclose(gradients[1], expected, rtol=1e-9, atol=1e-11)

    return check
