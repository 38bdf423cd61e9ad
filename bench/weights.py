"""Initial weights by name, made by NumPy alone and given to every contestant.

Layouts are ours: (in, out) for matrices, (height, width, in, out) for convolutions, channels last before a flattening. The order is
that in which a forward pass meets them, weight before bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray[Any, Any]]

BLOCKS = [(width, number) for width in (16, 32, 64) for number in range(3)]
GENERATOR = (100, 256, 128, 64, 3)
DISCRIMINATOR = (3, 64, 128, 256, 1)


class _Drawing:
    """Weights as they are drawn, one layer after another."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.weights: Weights = {}

    def matrix(self, name: str, *shape: int, std: float | None = None, bias: bool = True) -> None:
        """A weight of variance 2 / fan-in, unless said otherwise, and a small bias."""
        spread = math.sqrt(2 / math.prod(shape[:-1])) if std is None else std
        self.weights[f"{name}.weight"] = spread * self.rng.standard_normal(shape, np.float32)
        if bias:
            self.weights[f"{name}.bias"] = np.float32(0.01) * self.rng.standard_normal(shape[-1], np.float32)

    def norm(self, name: str, features: int) -> None:
        self.weights[f"{name}.weight"] = np.ones(features, np.float32)
        self.weights[f"{name}.bias"] = np.zeros(features, np.float32)

    def block(self, name: str, d: int, inner: int) -> None:
        """A Transformer block: norm, attention, norm, feed-forward."""
        std = 1 / math.sqrt(d)
        self.norm(f"{name}.norm1", d)
        self.matrix(f"{name}.qkv", d, 3 * d, std=std)
        self.matrix(f"{name}.out", d, d, std=std)
        self.norm(f"{name}.norm2", d)
        self.matrix(f"{name}.up", d, inner, std=std)
        self.matrix(f"{name}.down", inner, d, std=1 / math.sqrt(inner))


def dense(*sizes: int) -> Callable[[np.random.Generator], Weights]:
    """Fully connected layers 0, 1, ..."""

    def draw(rng: np.random.Generator) -> Weights:
        drawing = _Drawing(rng)
        for number, shape in enumerate(zip(sizes, sizes[1:])):
            drawing.matrix(str(number), *shape)
        return drawing.weights

    return draw


def lenet(rng: np.random.Generator) -> Weights:
    drawing = _Drawing(rng)
    drawing.matrix("conv1", 3, 3, 1, 32)
    drawing.matrix("conv2", 3, 3, 32, 64)
    drawing.matrix("fc1", 3136, 128)
    drawing.matrix("fc2", 128, 10, std=0.03)
    return drawing.weights


def resnet20(rng: np.random.Generator) -> Weights:
    """He et al. 2016, section 4.2: shortcuts have no weights; where the width changes they skip pixels and are padded with zeros."""
    drawing = _Drawing(rng)
    drawing.matrix("conv", 3, 3, 3, 16, bias=False)
    drawing.norm("norm", 16)
    before = 16
    for width, number in BLOCKS:
        name = f"block{width}.{number}"
        drawing.matrix(f"{name}.conv1", 3, 3, before, width, bias=False)
        drawing.norm(f"{name}.norm1", width)
        drawing.matrix(f"{name}.conv2", 3, 3, width, width, bias=False)
        drawing.norm(f"{name}.norm2", width)
        before = width
    drawing.matrix("fc", 64, 10, std=0.03)
    return drawing.weights


def recurrent(gates: int) -> Callable[[np.random.Generator], Weights]:
    """The gates stand side by side in PyTorch's order: input, forget, cell, output; or reset, update, new."""

    def draw(rng: np.random.Generator) -> Weights:
        drawing = _Drawing(rng)
        std = 1 / math.sqrt(128)
        drawing.matrix("input", 32, gates * 128, std=std)
        drawing.matrix("hidden", 128, gates * 128, std=std)
        drawing.matrix("fc", 128, 10, std=std)
        # Both matrices come before both biases.
        order = ("input.weight", "hidden.weight", "input.bias", "hidden.bias", "fc.weight", "fc.bias")
        return {name: drawing.weights[name] for name in order}

    return draw


def encoder(rng: np.random.Generator) -> Weights:
    drawing = _Drawing(rng)
    drawing.matrix("tokens", 5000, 128, std=1.0, bias=False)
    drawing.matrix("positions", 128, 128, std=0.1, bias=False)
    for number in range(2):
        drawing.block(f"block{number}", 128, 512)
    drawing.norm("norm", 128)
    drawing.matrix("fc", 128, 10)
    return drawing.weights


def gpt(rng: np.random.Generator) -> Weights:
    drawing = _Drawing(rng)
    drawing.matrix("tokens", 256, 128, std=1.0, bias=False)
    drawing.matrix("positions", 128, 128, std=0.1, bias=False)
    for number in range(4):
        drawing.block(f"block{number}", 128, 512)
    drawing.norm("norm", 128)
    drawing.matrix("fc", 128, 256, std=0.02)
    return drawing.weights


def dcgan(rng: np.random.Generator) -> Weights:
    """Windows are 4×4. Names of the generator begin with g, those of the discriminator with d."""
    drawing = _Drawing(rng)
    for letter, maps, with_norm in (("g", GENERATOR, (0, 1, 2)), ("d", DISCRIMINATOR, (1, 2))):
        for number, (before, after) in enumerate(zip(maps, maps[1:])):
            drawing.matrix(f"{letter}{number}", 4, 4, before, after, std=0.02, bias=False)
            if number in with_norm:
                drawing.norm(f"{letter}{number}.norm", after)
    return drawing.weights
