"""Small problems that the tests of training share."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrule as cr
from chainrule import nn, optim
from chainrule.train import Trainer

XOR = (
    np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32),
    np.array([[0], [1], [1], [0]], np.float32),
)


def two_moons(count: int = 200, seed: int = 0) -> tuple[Any, Any]:
    """Two interleaved half circles with noise, as float32 points and int labels."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, count)
    label = np.arange(count) % 2
    x = np.where(label, 1 - np.cos(angle), np.cos(angle))
    y = np.where(label, 0.5 - np.sin(angle), np.sin(angle))
    return (np.stack([x, y], 1) + rng.normal(0, 0.1, (count, 2))).astype(np.float32), label


def small_classifier(seed: int = 0, dropout: float = 0.0, batch_norm: bool = False) -> Any:
    cr.seed(seed)
    layers = [nn.Linear(2, 16)]
    if batch_norm:
        layers.append(nn.BatchNorm(16))
    layers.append(nn.ReLU())
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(16, 2))


def small_trainer(kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    model = options.pop("model", None)
    if model is None:
        model = small_classifier()
    return kind(
        model,
        loss=nn.losses.cross_entropy,
        optimizer=options.pop("optimizer", optim.Adam(0.01)),
        **options,
    )


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )
