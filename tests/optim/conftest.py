"""A small network and its training on both sides: ours compiled as one program per step, PyTorch's as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import ops, optim

STEPS = 20
Weights = dict[str, np.ndarray]


class Network:
    """4-6-3 with tanh and the mean squared error; a batch of its own at every step."""

    def __init__(self, dtype: type = np.float64) -> None:
        rng = np.random.default_rng(7)
        sizes = {"hidden.weight": (4, 6), "hidden.bias": (6,), "output.weight": (6, 3), "output.bias": (3,)}
        self.weights: Weights = {path: rng.normal(size=size).astype(dtype) for path, size in sizes.items()}
        self.batches = [
            (rng.normal(size=(8, 4)).astype(dtype), rng.normal(size=(8, 3)).astype(dtype)) for _ in range(STEPS)
        ]

    @staticmethod
    def loss(weights: dict[str, Any], x: Any, y: Any) -> Any:
        hidden = ops.tanh(x @ weights["hidden.weight"] + weights["hidden.bias"])
        return ops.square(hidden @ weights["output.weight"] + weights["output.bias"] - y).mean()

    @staticmethod
    def torch_loss(weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(x @ weights["hidden.weight"] + weights["hidden.bias"])
        return torch.square(hidden @ weights["output.weight"] + weights["output.bias"] - y).mean()

    def train(self, optimizer: optim.Optimizer) -> list[Weights]:
        """The weights after each step."""

        def step(weights: Any, state: Any, x: Any, y: Any) -> Any:
            gradients = cr.grad(self.loss)(weights, x, y)
            updates, state = optimizer.update(gradients, state, weights)
            return optim.apply_updates(weights, updates), state

        compiled = cr.compile(step)
        weights, state, seen = self.weights, optimizer.init(self.weights), []
        for x, y in self.batches:
            weights, state = compiled(weights, state, x, y)
            seen.append(weights)
        return seen

    def train_torch(
        self,
        make: Callable[[dict[str, torch.Tensor]], torch.optim.Optimizer],
        clip: Callable[[list[torch.Tensor]], Any] | None = None,
        schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
        penalty: Callable[[dict[str, torch.Tensor]], torch.Tensor] | None = None,
    ) -> list[Weights]:
        weights = {path: torch.tensor(w, requires_grad=True) for path, w in self.weights.items()}
        with _default_type(next(iter(weights.values())).dtype):  # of NAdam's running product
            return self._train_torch(weights, make, clip, schedule, penalty)

    def _train_torch(self, weights: Any, make: Any, clip: Any, schedule: Any, penalty: Any) -> list[Weights]:
        optimizer = make(weights)
        scheduler = schedule(optimizer) if schedule else None
        seen = []
        for x, y in self.batches:
            optimizer.zero_grad()
            loss = self.torch_loss(weights, torch.tensor(x), torch.tensor(y))
            (loss + penalty(weights) if penalty else loss).backward()
            if clip:
                clip(list(weights.values()))
            if isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(lambda loss=loss: loss)
            else:
                optimizer.step()
            if scheduler:
                scheduler.step()
            seen.append({path: w.detach().numpy().copy() for path, w in weights.items()})
        return seen


@contextmanager
def _default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def same_trajectory() -> Callable[[list[Weights], list[Weights]], None]:
    """Asserts that two trainings went through the same weights, and that they moved at all."""

    def check(ours: list[Weights], theirs: list[Weights], tolerance: float = 1e-10) -> None:
        assert len(ours) == len(theirs) == STEPS
        for path in theirs[0]:
            assert not np.array_equal(theirs[0][path], theirs[-1][path]), f"{path} never moved"
            for number, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
                assert a[path].dtype == b[path].dtype
                np.testing.assert_allclose(
                    a[path], b[path], rtol=tolerance, atol=tolerance, err_msg=f"{path}, step {number}"
                )

    return check
