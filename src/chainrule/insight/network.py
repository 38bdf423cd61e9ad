"""A small fully connected network with names for everything, its weights, and what it is to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.insight.activations import Activation, Softmax
from chainrule.insight.losses import Loss

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """``z = weights · a + biases``, then the activation. Weights have one row per unit and one column per unit before."""

    name: str
    units: Sequence[str]
    activation: Activation | Softmax
    weights: NDArray
    biases: NDArray | None
    weight_names: Sequence[Sequence[str]]
    bias_names: Sequence[str]

    def parameters(self) -> list[NDArray]:
        return [self.weights] if self.biases is None else [self.weights, self.biases]


@dataclass(frozen=True, eq=False, slots=True)
class Network:
    """Layers in order, examples (examples, inputs) with targets (examples, outputs), loss and learning rate."""

    title: str
    layers: Sequence[Layer]
    inputs: NDArray
    targets: NDArray
    input_names: Sequence[str]
    target_names: Sequence[str]
    loss: Loss
    learning_rate: float
    stop_below: float | None = None

    @property
    def examples(self) -> int:
        return len(self.inputs)

    @property
    def output_names(self) -> Sequence[str]:
        return self.layers[-1].units

    def parameters(self) -> list[NDArray]:
        """Weights and biases of every layer in order."""
        return [array for layer in self.layers for array in layer.parameters()]


def default_units(layer: int, layers: int, count: int) -> list[str]:
    """ŷ or ŷ1, ŷ2 … in the last layer; h1, h2 … in a single hidden layer, h1_1, h1_2 … in the first of several."""
    if layer == layers - 1:
        return numbered("ŷ", count)
    if layers == 2:
        return numbered("h", count)
    return [f"h{layer + 1}_{unit}" for unit in range(1, count + 1)]


def numbered(letter: str, count: int) -> list[str]:
    return [letter] if count == 1 else [f"{letter}{number}" for number in range(1, count + 1)]


def default_weights(before: Sequence[str], units: Sequence[str]) -> list[list[str]]:
    return [[f"w({source}→{unit})" for source in before] for unit in units]


def default_biases(units: Sequence[str]) -> list[str]:
    return [f"b({unit})" for unit in units]
