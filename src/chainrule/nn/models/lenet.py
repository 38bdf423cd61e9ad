"""LeNet-5, the first convolutional network in wide use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.nn.activations import ReLU, Tanh
from chainrule.nn.containers import Sequential
from chainrule.nn.convolution import Conv2d
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.pooling import AvgPool2d, MaxPool2d
from chainrule.nn.reshaping import Flatten


class LeNet(Sequential):
    """Two convolutions of 5 × 5 (6 and 16 maps), each pooled by 2, and layers of 120, 84 and ``classes``: 61,706 parameters.

    For images of ``image_size`` (28 is padded to the 32 of the paper by the first convolution), as (batch, size, size,
    ``in_channels``). ``modern=True`` takes ReLU and maxima where the paper has tanh and means. The paper's partial
    connections of the second convolution are full here, as everywhere today. LeCun et al., Proc. IEEE 1998.
    """

    def __init__(self, classes: int = 10, in_channels: int = 1, image_size: int = 28, modern: bool = False) -> None:
        if not isinstance(image_size, int) or image_size < 12:
            raise ConfigError(f"LeNet needs images of at least 12 × 12 positions, not {image_size!r}")
        activation: Callable[[], Module] = ReLU if modern else Tanh
        pool: Any = MaxPool2d if modern else AvgPool2d
        side = (image_size // 2 - 4) // 2
        super().__init__(
            Conv2d(in_channels, 6, 5, padding="same"),
            activation(),
            pool(2),
            Conv2d(6, 16, 5),
            activation(),
            pool(2),
            Flatten(),
            Linear(16 * side * side, 120),
            activation(),
            Linear(120, 84),
            activation(),
            Linear(84, classes),
        )
