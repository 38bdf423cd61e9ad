"""Lion and LAMB against their papers' algorithms, written out in NumPy (PyTorch has neither)."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrule as cr
from chainrule import optim

Weights = dict[str, np.ndarray]


def trained_by_hand(network: Any, rule: Any) -> list[Weights]:
    weights, memory, seen = dict(network.weights), {}, []
    for t, (x, y) in enumerate(network.batches, start=1):
        gradients = cr.grad(network.loss)(weights, x, y)
        weights = {path: p + rule(path, p, gradients[path], memory, t) for path, p in weights.items()}
        seen.append(weights)
    return seen


def test_lion(network: Any, same_trajectory: Any) -> None:
    def rule(path: str, p: np.ndarray, g: np.ndarray, memory: Weights, t: int) -> np.ndarray:
        m = memory.get(path, np.zeros_like(p))
        memory[path] = 0.95 * m + 0.05 * g
        return -0.01 * (np.sign(0.8 * m + 0.2 * g) + (0.3 * p if p.ndim > 1 else 0))

    ours = optim.Lion(0.01, betas=(0.8, 0.95), weight_decay=0.3)
    same_trajectory(network.train(ours), trained_by_hand(network, rule))


def test_lamb(network: Any, same_trajectory: Any) -> None:
    def rule(path: str, p: np.ndarray, g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
        m, v = memory.get(path, (0.0, 0.0))
        memory[path] = m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6) + (0.3 * p if p.ndim > 1 else 0)
        return -0.02 * np.linalg.norm(p) / np.linalg.norm(r) * r

    ours = optim.LAMB(0.02, betas=(0.9, 0.99), weight_decay=0.3)
    same_trajectory(network.train(ours), trained_by_hand(network, rule))


def test_lamb_moves_parameters_that_are_zero_like_adam() -> None:
    params = {"b": np.zeros(3)}
    gradients = {"b": np.array([1.0, -2.0, 0.5])}
    lamb, adam = optim.LAMB(0.1), optim.Adam(0.1, eps=1e-6)
    ours, _ = lamb.update(gradients, lamb.init(params), params)
    expected, _ = adam.update(gradients, adam.init(params), params)
    np.testing.assert_allclose(ours["b"], expected["b"], rtol=1e-12)
    still, _ = lamb.update({"b": np.zeros(3)}, lamb.init(params), params)
    assert np.array_equal(still["b"], np.zeros(3))
