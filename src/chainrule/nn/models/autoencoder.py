"""Autoencoders: a code of few numbers from which the input is reconstructed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.activations import ReLU
from chainrule.nn.losses.examples import Loss, over_examples
from chainrule.nn.models.mlp import MLP
from chainrule.nn.module import Module
from chainrule.ops import random
from chainrule.ops.activations import softplus
from chainrule.ops.math import exp
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.scope import is_training
from chainrule.trace.values import show_shape


class Autoencoder(Module):
    """``decoder(encoder(x))`` for x of shape (..., features), with a code of ``code`` numbers between.

    The encoder is an :class:`MLP` with the hidden layers given, the decoder one with the same in reverse; both end
    linearly. Train it with x as the target: ``trainer.fit((x, x), ...)``. Hinton & Salakhutdinov, Science 2006.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (128, 64),
        code: int = 16,
        activation: Callable[[], Module] = ReLU,
    ) -> None:
        self.encoder = MLP(features, hidden, code, activation)
        self.decoder = MLP(code, tuple(reversed(hidden)), features, activation)

    def forward(self, x: ArrayLike) -> Any:
        return self.decoder(self.encoder(x))


class Encoding(NamedTuple):
    """What a variational autoencoder returns: ``reconstruction`` (logits or means), and ``mean`` and ``log_variance`` of the code."""

    reconstruction: Any
    mean: Any
    log_variance: Any


class VAE(Module):
    """The variational autoencoder: the code is drawn from ``N(mean(x), exp(log_variance(x)))``.

    In training the code is ``mean + exp(log_variance / 2) · ε`` with ε standard normal (reparameterisation), so that
    the gradient passes through it; at inference it is the mean. Returns an :class:`Encoding`; train with
    :func:`negative_elbo` and x as the target. ``model.decoder(z)`` makes new examples from standard normal z. Kingma &
    Welling, ICLR 2014.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (256,),
        code: int = 16,
        activation: Callable[[], Module] = ReLU,
    ) -> None:
        self.encoder = MLP(features, hidden, 2 * code, activation)
        self.decoder = MLP(code, tuple(reversed(hidden)), features, activation)
        self.code = code

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None) -> Encoding:
        statistics = self.encoder(x)
        mean, log_variance = statistics[..., : self.code], statistics[..., self.code :]
        drawn = _drawn(mean, log_variance, key) if is_training() else mean
        return Encoding(self.decoder(drawn), mean, log_variance)


def negative_elbo(reconstruction: Literal["bernoulli", "gaussian"] = "bernoulli", beta: float = 1.0) -> Loss:
    """The loss of a :class:`VAE`: ``-log p(x | code) + β KL(N(mean, variance) ‖ N(0, 1))``, summed over outputs, mean over examples.

    "bernoulli": reconstructions are logits and targets from 0 to 1, the first term is ``Σ softplus(y) - t y``.
    "gaussian": it is ``½ Σ (y - t)²``, with variance 1 and without its constant. The second term is ``½ Σ (mean² +
    variance - 1 - log_variance)``. Higgins et al., ICLR 2017 (β). Raises :class:`ShapeError` for targets of another
    shape than the reconstruction.
    """
    if reconstruction not in ("bernoulli", "gaussian"):
        raise ConfigError(f"the reconstruction of a VAE is 'bernoulli' or 'gaussian', not {reconstruction!r}")

    @operation
    def loss(outputs: Any, targets: ArrayLike, weights: ArrayLike | None = None) -> Any:
        y, mean, log_variance = (as_array(part) for part in outputs)
        goal = as_array(targets)
        if goal.shape != y.shape:
            raise ShapeError(
                f"the reconstruction has shape {show_shape(y.shape)}, but the targets have shape {show_shape(goal.shape)}"
            )
        difference = y - goal
        terms = softplus(y) - goal * y if reconstruction == "bernoulli" else 0.5 * (difference * difference)
        divergence = 0.5 * (mean * mean + exp(log_variance) - 1 - log_variance).sum(-1)
        return over_examples(terms.sum(-1) + beta * divergence, weights)

    return loss


@operation
def _drawn(mean: ArrayLike, log_variance: ArrayLike, key: ArrayLike | None) -> Any:
    centre = as_array(mean)
    noise = random.normal(centre.shape, key=key, dtype=centre.dtype)
    return centre + exp(0.5 * as_array(log_variance)) * noise
