"""The generator and discriminator of DCGAN, for images of 32 × 32 and 64 × 64 and larger powers of two.

Radford, Metz & Chintala, ICLR 2016. Weights start normal with standard deviation 0.02, those of batch normalisation
around 1.
"""

from __future__ import annotations

import functools
from typing import Any

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.activations import LeakyReLU, ReLU, Tanh
from chainrule.nn.containers import Sequential
from chainrule.nn.convolution import Conv2d, ConvTranspose2d
from chainrule.nn.initialisers import normal
from chainrule.nn.module import Module
from chainrule.nn.normalisation import BatchNorm
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

_SMALL = functools.partial(normal, std=0.02)


class DCGANGenerator(Module):
    """From a code (batch, latent) to images (batch, size, size, channels) between -1 and 1.

    A transposed convolution to 4 × 4 positions, then doublings by transposed convolutions of 4 × 4 with stride 2, each
    with batch normalisation and ReLU, and tanh at the end. ``width`` is the number of maps before the last. With size
    64: 3,576,704 parameters.
    """

    def __init__(self, size: int = 64, latent: int = 100, channels: int = 3, width: int = 64) -> None:
        maps = width * 2 ** (_doublings(size) - 1)
        layers: list[Module] = [ConvTranspose2d(latent, maps, 4, bias=False, init=_SMALL), _norm(maps), ReLU()]
        while maps > width:
            layers += [ConvTranspose2d(maps, maps // 2, 4, 2, 1, bias=False, init=_SMALL), _norm(maps // 2), ReLU()]
            maps //= 2
        self.layers = Sequential(*layers, ConvTranspose2d(width, channels, 4, 2, 1, bias=False, init=_SMALL), Tanh())
        self.latent = latent

    def forward(self, z: ArrayLike) -> Any:
        return self.layers(_as_image(z, self.latent))


class DCGANDiscriminator(Module):
    """From images (batch, size, size, channels) to one logit each, (batch,): above 0 for what it takes as real.

    Halvings by convolutions of 4 × 4 with stride 2 and leaky ReLU of slope 0.2, with batch normalisation from the
    second on, and a convolution over the last 4 × 4 positions. ``width`` is the number of maps of the first. With size
    64: 2,765,568 parameters.
    """

    def __init__(self, size: int = 64, channels: int = 3, width: int = 64) -> None:
        layers: list[Module] = [Conv2d(channels, width, 4, 2, 1, bias=False, init=_SMALL), LeakyReLU(0.2)]
        maps = width
        for _ in range(_doublings(size) - 1):
            layers += [Conv2d(maps, 2 * maps, 4, 2, 1, bias=False, init=_SMALL), _norm(2 * maps), LeakyReLU(0.2)]
            maps *= 2
        self.layers = Sequential(*layers, Conv2d(maps, 1, 4, bias=False, init=_SMALL))

    def forward(self, x: ArrayLike) -> Any:
        return _flat(self.layers(x))


def _doublings(size: int) -> int:
    """How often 4 positions are doubled."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 16 or size & (size - 1):
        raise ConfigError(f"DCGAN makes images whose size is a power of two from 16 on, not {size!r}")
    return size.bit_length() - 3


def _norm(features: int) -> BatchNorm:
    layer = BatchNorm(features)
    return layer.replace(weight=normal((features,), mean=1.0, std=0.02))


@operation
def _as_image(z: ArrayLike, latent: int) -> Any:
    array = as_array(z)
    if array.ndim != 2 or array.shape[1] != latent:
        raise ShapeError(f"the code should have shape (batch, {latent}), but it has shape {show_shape(array.shape)}")
    return array.reshape((array.shape[0], 1, 1, latent))


@operation
def _flat(x: ArrayLike) -> Any:
    array = as_array(x)
    if array.shape[1:] != (1, 1, 1):
        raise ShapeError(
            f"the images have another size than the discriminator was made for: {show_shape(array.shape[1:3])} logits are left"
        )
    return array.reshape(array.shape[:1])
