"""MLP, Autoencoder and the variational autoencoder: layers, the drawn code, and the loss against torch.distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.models import MLP, VAE, Autoencoder, negative_elbo

RNG = np.random.default_rng(0)


def test_an_mlp_is_a_sequence_of_linear_layers() -> None:
    kinds = [type(layer).__name__ for layer in MLP(4, [6, 5], 3, nn.Tanh, dropout=0.1, batch_norm=True)]
    block = ["Linear", "BatchNorm", "Tanh", "Dropout"]
    assert kinds == [*block, *block, "Linear"]
    model = MLP(784, [256, 64], 10)
    assert [type(layer).__name__ for layer in model] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert sum(leaf.size for leaf in model.named_parameters().values()) == 785 * 256 + 257 * 64 + 65 * 10
    assert [type(layer) for layer in MLP(2, [], 1)] == [nn.Linear]


def test_an_autoencoder_learns_to_reconstruct() -> None:
    cr.seed(0)
    # Three numbers describe each example, so a code of three is enough.
    x = (RNG.normal(size=(64, 3)) @ RNG.normal(size=(3, 10))).astype(np.float32)
    model = Autoencoder(10, hidden=(16,), code=3, activation=nn.Tanh)
    trainer = cr.Trainer(model, loss=nn.losses.squared_error, optimizer=optim.Adam(1e-2), engine="reference")
    history = trainer.fit((x, x), epochs=60, batch_size=32)
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    model = trainer.model
    np.testing.assert_allclose(model.decoder(model.encoder(x)), model(x), rtol=1e-6)


def parts() -> tuple[np.ndarray[Any, Any], ...]:
    return RNG.normal(size=(5, 7)), RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_the_loss_is_the_negative_elbo(kind: Any) -> None:
    y, mean, log_variance = parts()
    targets = RNG.uniform(size=y.shape).round()
    ty, tm, tv = (torch.tensor(part, requires_grad=True) for part in (y, mean, log_variance))
    goal = torch.tensor(targets)
    constant = 0.5 * np.log(2 * np.pi) * y.shape[1]
    likelihood = Bernoulli(logits=ty).log_prob(goal) if kind == "bernoulli" else Normal(ty, 1.0).log_prob(goal)
    divergence = kl_divergence(Normal(tm, (0.5 * tv).exp()), Normal(0.0, 1.0)).sum(-1)
    each = -likelihood.sum(-1) + 0.5 * divergence - (constant if kind == "gaussian" else 0)
    weights = np.array([1.0, 0, 2, 0.5, 1])
    expected = (each * torch.tensor(weights)).sum() / weights.sum()
    expected.backward()
    loss = negative_elbo(kind, beta=0.5)
    found, slopes = cr.value_and_grad(lambda outputs: loss(outputs, targets, weights))((y, mean, log_variance))
    np.testing.assert_allclose(found, expected.item(), rtol=1e-10)
    for slope, theirs in zip(slopes, (ty, tm, tv), strict=True):
        np.testing.assert_allclose(slope, theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_the_code_is_drawn_in_training_and_the_mean_at_inference() -> None:
    cr.seed(1)
    model = VAE(6, hidden=(8,), code=2)
    x = RNG.normal(size=(4000, 6)).astype(np.float32)
    still = model(x)
    np.testing.assert_array_equal(still.reconstruction, model.decoder(still.mean))
    key = cr.random.key(3)
    moved = model(x, training=True, key=key)
    np.testing.assert_array_equal(moved.mean, still.mean)
    np.testing.assert_array_equal(moved.reconstruction, model(x, training=True, key=key).reconstruction)
    assert not np.allclose(moved.reconstruction, still.reconstruction)
    # With a decoder that passes the code on, what is drawn has the mean and deviation that the encoder gave.
    plain = model.replace(decoder=nn.Apply(lambda z: z))
    noise = (plain(x, training=True).reconstruction - still.mean) / np.exp(still.log_variance / 2)
    assert abs(noise.mean()) < 0.05
    assert noise.std() == pytest.approx(1, rel=0.05)


def test_a_vae_trains() -> None:
    cr.seed(0)
    x = (RNG.normal(size=(64, 8)) > 0).astype(np.float32)
    trainer = cr.Trainer(VAE(8, (16,), 2), loss=negative_elbo(), optimizer=optim.Adam(1e-2), engine="reference")
    losses = [trainer.partial_fit(x, x) for _ in range(60)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="'bernoulli' or 'gaussian', not 'poisson'"):
        negative_elbo("poisson")  # type: ignore[arg-type]
    y, mean, log_variance = parts()
    with pytest.raises(ShapeError, match=r"the reconstruction has shape \(5, 7\), but the targets have shape \(5, 6\)"):
        negative_elbo()((y, mean, log_variance), np.zeros((5, 6)))
