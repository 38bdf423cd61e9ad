"""The multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.nn.activations import ReLU
from chainrule.nn.containers import Sequential
from chainrule.nn.dropout import Dropout
from chainrule.nn.initialisers import Initialiser, glorot_uniform
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.normalisation import BatchNorm


class MLP(Sequential):
    """Fully connected layers: ``MLP(784, [256, 64], 10)`` is Linear, activation, Linear, activation, Linear.

    With ``batch_norm`` every hidden Linear is followed by a :class:`BatchNorm`, and with ``dropout`` above 0 every
    activation by a :class:`Dropout`. The output is linear: logits or predictions. Input has shape (..., in_features).
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        activation: Callable[[], Module | Callable[[Any], Any]] = ReLU,
        dropout: float = 0.0,
        batch_norm: bool = False,
        *,
        init: Initialiser = glorot_uniform,
    ) -> None:
        layers: list[Module | Callable[[Any], Any]] = []
        size = in_features
        for width in hidden:
            layers.append(Linear(size, width, init=init))
            layers += [BatchNorm(width)] if batch_norm else []
            layers.append(activation())
            layers += [Dropout(dropout)] if dropout else []
            size = width
        super().__init__(*layers, Linear(size, out_features, init=init))
