"""Weights that stay short: against PyTorch's embedding, which shortens its rows, and by the definition."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ConfigError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("power", [2.0, 1.0, 3.0])
def test_a_table_is_trained_as_that_of_a_limited_embedding_of_pytorch(power: float) -> None:
    # Rows begin short: PyTorch shortens before an update, which this does behind it.
    table = nn.Embedding(7, 3, max_norm=1.0, norm_type=power).replace(weight=RNG.normal(size=(7, 3)))(np.arange(7))
    theirs = torch.nn.Embedding(7, 3, max_norm=1.0, norm_type=power).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(table))
    layer = nn.Embedding(7, 3, max_norm=1.0, norm_type=power).replace(weight=table)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.3)
    ours = optim.chain(optim.SGD(0.3), optim.limit_norm(1.0, p=power))
    state = ours.init(layer.named_parameters())
    for number in range(12):
        rng = np.random.default_rng(number)
        x, goal = rng.integers(0, 7, size=5), rng.normal(size=(5, 3))
        out = theirs(torch.tensor(x))
        np.testing.assert_allclose(layer(x), out.detach().numpy(), rtol=1e-10)
        optimizer.zero_grad()
        (out - torch.tensor(goal)).square().sum().backward()
        optimizer.step()

        def loss(layer: Any, x: Any = x, goal: Any = goal) -> Any:
            return cr.square(layer(x) - goal).sum()

        params = layer.named_parameters()
        updates, state = ours.update(cr.grad(loss)(layer).named_parameters(), state, params)
        layer = layer.replace(weight=optim.apply_updates(params, updates)["weight"])
    assert np.linalg.norm(layer.weight, power, axis=1).max() <= 1


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_long_vectors_are_projected_and_short_ones_left_alone(axis: int) -> None:
    params = {"w": np.zeros((3, 4)), "b": np.full(4, 5.0)}
    gradients = {"w": RNG.normal(size=(3, 4)), "b": np.zeros(4)}
    both = optim.chain(optim.SGD(1.0), optim.limit_norm(1.5, axis=axis))
    again = optim.from_description(json.loads(json.dumps(both.describe)))
    for optimizer in (both, again):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        found = optim.apply_updates(params, updates)
        norms = np.linalg.norm(gradients["w"], axis=axis, keepdims=True)
        assert (norms > 1.5).any()
        expected = -gradients["w"] * np.where(norms > 1.5, 1.5 / (norms + 1e-7), 1)
        np.testing.assert_allclose(found["w"], expected, rtol=1e-12)
        np.testing.assert_array_equal(found["b"], params["b"])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="limit of limit_norm must be more than 0"):
        optim.limit_norm(0)
    one = optim.limit_norm(1.0, axis=2)
    with pytest.raises(ConfigError, match=r"limit_norm cannot go along axis 2 of parameter 'w', of shape \(2, 3\)"):
        one.update({"w": np.zeros((2, 3))}, {}, {"w": np.zeros((2, 3))})
