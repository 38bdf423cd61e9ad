"""Generative adversarial networks as turns of an :class:`AlternatingTrainer`, and a watch for mode collapse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np

from chainrule import ops
from chainrule.core.errors import ConfigError, DataError
from chainrule.nn import losses
from chainrule.ops import random
from chainrule.optim import Optimizer
from chainrule.trace import Array
from chainrule.train.alternating import Turn
from chainrule.train.callbacks import Callback
from chainrule.train.history import EpochRecord
from chainrule.train.stepping import StepTrainer

NDArray = np.ndarray[Any, Any]
Critic = Callable[[Any], Any]

# For each kind what the discriminator pays for real and for generated examples, and what the generator pays; of its logits.
_KINDS: Mapping[str, tuple[Critic, Critic, Critic]] = {
    "non_saturating": (
        lambda real: losses.binary_cross_entropy(real, ops.ones(real.shape, real.dtype)),
        lambda fake: losses.binary_cross_entropy(fake, ops.zeros(fake.shape, fake.dtype)),
        lambda fake: losses.binary_cross_entropy(fake, ops.ones(fake.shape, fake.dtype)),
    ),
    "least_squares": (
        lambda real: 0.5 * ops.square(real - 1.0).mean(),
        lambda fake: 0.5 * ops.square(fake).mean(),
        lambda fake: 0.5 * ops.square(fake - 1.0).mean(),
    ),
    "hinge": (
        lambda real: ops.maximum(1.0 - real, 0.0).mean(),
        lambda fake: ops.maximum(1.0 + fake, 0.0).mean(),
        lambda fake: -fake.mean(),
    ),
}


def adversarial_turns(
    latent: int,
    generator_optimizer: Optimizer,
    discriminator_optimizer: Optimizer,
    kind: str = "non_saturating",
    discriminator_updates: int = 1,
) -> list[Turn]:
    """The turns of a GAN with the models ``generator`` (latent noise → example) and ``discriminator`` (example → one logit).

    First the discriminator learns to tell the batch x from generated examples, then the generator to be taken for real:

    - ``"non_saturating"``: ``-log D(x) - log(1 - D(G(z)))`` and ``-log D(G(z))`` (Goodfellow et al. 2014);
    - ``"least_squares"``: ``½(D(x) - 1)² + ½D(G(z))²`` and ``½(D(G(z)) - 1)²`` (Mao et al. 2017);
    - ``"hinge"``: ``max(0, 1 - D(x)) + max(0, 1 + D(G(z)))`` and ``-D(G(z))`` (Lim and Ye 2017).

    z is standard normal of shape (batch, latent), new for every update. Raises :class:`ConfigError` for another kind, and
    :class:`DataError` when examples are not one array.
    """
    if kind not in _KINDS:
        raise ConfigError(f"kind of adversarial_turns is one of {', '.join(_KINDS)}, not {kind!r}")
    for_real, for_fake, for_generator = _KINDS[kind]

    def generated(models: Mapping[str, Any], x: Any) -> Any:
        if not isinstance(x, Array):
            raise DataError(f"the examples of adversarial_turns are one array, not a {type(x).__name__} of arrays")
        return models["generator"](random.normal((x.shape[0], latent), dtype=x.dtype), training=True)

    def discriminator_loss(models: Mapping[str, Any], x: Any, y: Any, weights: Any) -> Any:
        fake = models["discriminator"](ops.stop_gradient(generated(models, x)), training=True)
        return for_real(models["discriminator"](x, training=True)) + for_fake(fake)

    def generator_loss(models: Mapping[str, Any], x: Any, y: Any, weights: Any) -> Any:
        return for_generator(models["discriminator"](generated(models, x), training=True))

    return [
        Turn("discriminator", discriminator_loss, discriminator_optimizer, discriminator_updates),
        Turn("generator", generator_loss, generator_optimizer),
    ]


class ModeCollapseWarning(UserWarning):
    """The generated examples hardly differ from each other."""


@final
class ModeCollapse(Callback):
    """After every epoch compares how much generated examples differ from each other with how much real ones do.

    The ratio of the mean Euclidean distances between ``samples`` examples of each kind goes into :attr:`diversity`; when it falls
    below ``threshold`` a :class:`ModeCollapseWarning` says so, once per collapse. ``generate(trainer)`` returns examples, such as
    ``lambda trainer: trainer.predict("generator", z)`` for noise z that stays the same.
    """

    def __init__(
        self, generate: Callable[[Any], NDArray], real: NDArray, threshold: float = 0.2, samples: int = 256
    ) -> None:
        if len(real) < 2:
            raise ConfigError("ModeCollapse needs at least two real examples to compare with")
        self.generate = generate
        self.threshold = threshold
        self.samples = samples
        self.diversity: list[float] = []
        self._collapsed = False
        self._real = _mean_distance(np.asarray(real)[:samples])

    def on_epoch_end(self, trainer: StepTrainer, record: EpochRecord) -> None:
        ratio = _mean_distance(np.asarray(self.generate(trainer))[: self.samples]) / self._real
        self.diversity.append(ratio)
        collapsed = not ratio >= self.threshold
        if collapsed and not self._collapsed:
            warnings.warn(
                f"mode collapse after epoch {record['epoch']}: generated examples differ {ratio:.2f} times as much from each "
                "other as real ones do; try a smaller learning rate for the generator, more discriminator updates, another "
                "kind of loss, or batch norm",
                ModeCollapseWarning,
                stacklevel=2,
            )
        self._collapsed = collapsed

    def state(self) -> dict[str, Any]:
        return {"diversity": self.diversity, "collapsed": self._collapsed}

    def load(self, state: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        self.diversity, self._collapsed = list(state["diversity"]), state["collapsed"]


def _mean_distance(examples: NDArray) -> float:
    """The mean Euclidean distance between two different examples."""
    flat = examples.reshape(len(examples), -1).astype(np.float64)
    flat = flat - flat.mean(0)
    lengths = (flat * flat).sum(1)
    squares = lengths[:, None] + lengths[None, :] - 2 * flat @ flat.T
    count = len(flat)
    return float(np.sqrt(np.maximum(squares, 0)).sum() / max(1, count * (count - 1))) if count > 1 else math.nan
