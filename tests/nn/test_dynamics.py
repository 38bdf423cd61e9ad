"""Layers at an equilibrium and layers that spike: values, gradients against other ways to the same, learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_the_gradient_of_an_equilibrium_is_that_through_many_iterations(engine: str) -> None:
    layer = nn.Equilibrium(3, 5, tolerance=1e-13, key=cr.random.key(0)).astype("float64")
    x, probe = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, layer.weight, layer.recurrent, layer.bias)]
    z = torch.zeros(4, 5, dtype=torch.float64)
    for _ in range(100):
        z = torch.tanh(leaves[0] @ leaves[1] + leaves[3] + z @ leaves[2])
    (z * torch.tensor(probe)).sum().backward()
    step = cr.compile(
        lambda layer, x: cr.grad(lambda layer, x: (layer(x) * probe).sum(), (0, 1))(layer, x),
        engine=engine,
    )
    gradients, to_x = step(layer, x)
    np.testing.assert_allclose(layer(x), z.detach().numpy(), rtol=1e-10)
    found = [to_x, gradients.weight, gradients.recurrent, gradients.bias]
    for one, leaf in zip(found, leaves, strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(one, leaf.grad.numpy(), rtol=1e-8, atol=1e-11)
    assert 5 < int(layer.iterations(x)) < 100


def test_an_equilibrium_learns() -> None:
    cr.seed(0)
    x = RNG.normal(size=(128, 2)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    trainer = cr.Trainer(
        nn.Sequential(nn.Equilibrium(2, 16), nn.Linear(16, 2)),
        loss=nn.losses.cross_entropy,
        optimizer=cr.optim.Adam(0.01),
    )
    trainer.fit((x, labels), epochs=60, batch_size=32)
    assert (np.asarray(trainer.predict(x)).argmax(-1) == labels).mean() > 0.93


def spikes_written_out(x: Any, decay: float, threshold: float) -> Any:
    v, rows = np.zeros((x.shape[0], x.shape[2])), []
    for t in range(x.shape[1]):
        v = decay * v + x[:, t]
        fired = (v >= threshold).astype(float)
        v = v - threshold * fired
        rows.append(fired)
    return np.stack(rows, 1)


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return g / (1 + 7.0 * x.abs()) ** 2


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_spikes_and_their_surrogate_gradient_equal_pytorch(engine: str) -> None:
    layer = nn.LeakyIntegrateAndFire(4.0, 0.8, 7.0)
    x, probe = RNG.normal(0.3, 0.5, (3, 9, 2)), RNG.normal(size=(3, 9, 2))
    leaf = torch.tensor(x, requires_grad=True)
    v, rows = torch.zeros(3, 2, dtype=torch.float64), []
    for t in range(9):
        v = np.exp(-1 / 4.0) * v + leaf[:, t]
        fired = Spike.apply(v - 0.8)
        v = v - 0.8 * fired.detach()
        rows.append(fired)
    (torch.stack(rows, 1) * torch.tensor(probe)).sum().backward()
    found = cr.compile(lambda x: (layer(x), cr.grad(lambda x: (layer(x) * probe).sum())(x)), engine=engine)(x)
    np.testing.assert_array_equal(found[0], spikes_written_out(x, np.exp(-1 / 4.0), 0.8))
    assert 0 < found[0].mean() < 1
    assert leaf.grad is not None
    np.testing.assert_allclose(found[1], leaf.grad.numpy(), rtol=1e-10, atol=1e-13)


def test_a_spiking_network_learns() -> None:
    cr.seed(1)
    labels = np.arange(64) % 2
    rates = np.where(labels, 0.7, 0.3)[:, None, None]
    x = (RNG.random((64, 20, 6)) < rates).astype(np.float32)

    class Rate(nn.Module):
        def forward(self, spikes: Any) -> Any:
            return spikes.mean(1)

    model = nn.Sequential(nn.Linear(6, 16), nn.LeakyIntegrateAndFire(), Rate(), nn.Linear(16, 2))
    trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=cr.optim.Adam(0.02))
    trainer.fit((x, labels), epochs=15, batch_size=32)
    assert (np.asarray(trainer.predict(x)).argmax(-1) == labels).mean() > 0.95


def test_bad_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="Equilibrium needs contraction and tolerance above 0"):
        nn.Equilibrium(2, 3, tolerance=0)
    with pytest.raises(ConfigError, match="LeakyIntegrateAndFire needs threshold above 0, not 0"):
        nn.LeakyIntegrateAndFire(threshold=0)
    with pytest.raises(ShapeError, match=r"shape \(N, T, C\), not \(3, 2\)"):
        nn.LeakyIntegrateAndFire()(np.zeros((3, 2)))
