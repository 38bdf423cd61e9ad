"""Whole training steps as programs with operands: forward pass, loss, backward pass and update of small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.engines.cpu.standalone import Job

import chainrule as cr
from chainrule import nn, optim
from chainrule.grad import STANDARD
from chainrule.train.step import make_step, trainable


class Reader(nn.Module):
    """Classifies sequences by the last output of an LSTM."""

    def __init__(self) -> None:
        self.lstm = nn.LSTM(3, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Any) -> Any:
        output, _ = self.lstm(x)
        return self.head(output[:, -1])


def perceptron() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(
        nn.Linear(7, 19), nn.Tanh(), nn.Dropout(0.3), nn.Linear(19, 33), nn.ReLU(), nn.Linear(33, 4)
    ), (7,)


def normalised() -> tuple[nn.Module, tuple[int, ...]]:
    # A bias before batch normalisation would have a gradient of nothing but rounding errors, of which Adam makes full steps.
    return nn.Sequential(
        nn.Linear(7, 16, bias=False), nn.BatchNorm(16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 4)
    ), (7,)


def convolutional() -> tuple[nn.Module, tuple[int, ...]]:
    layers = (nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 16, 3, stride=2), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 2 * 2, 4)), (10, 10, 2)


def residual() -> tuple[nn.Module, tuple[int, ...]]:
    """Channels in whole vectors: Winograd's algorithms forwards and backwards, also with strides; odd sizes."""
    layers: tuple[Any, ...] = (nn.Conv2d(2, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 32, 3, padding=1, bias=False))
    layers += (nn.BatchNorm(32), nn.Tanh(), nn.Conv2d(32, 16, 4, stride=2, padding=1), nn.Tanh())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 4 * 5, 4)), (9, 11, 2)


def recurrent() -> tuple[nn.Module, tuple[int, ...]]:
    return Reader(), (6, 3)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "perceptron": perceptron,
    "normalised": normalised,
    "convolutional": convolutional,
    "residual": residual,
    "recurrent": recurrent,
}


def training_job(name: str, batches: tuple[int, ...], donated: bool = True) -> Job:
    """The training step of a network, with new examples for every batch size; the state may be written over."""
    cr.seed(5)
    model, shape = NETWORKS[name]()
    # A bias before batch normalisation has a gradient of nothing but rounding errors: the smallest eps would make full steps.
    optimizer = optim.Adam(1e-2, eps=1e-3)
    state = {"model": model, "optimizer": optimizer.init(trainable(model)), "step": np.asarray(3, np.int64)}
    step = cr.compile(
        make_step(nn.losses.cross_entropy, optimizer, {}, STANDARD), engine="reference", batch=("x", "y", "weights")
    )
    runs = []
    for batch in batches:
        rng = np.random.default_rng(batch)
        x, y = rng.normal(size=(batch, *shape)).astype(np.float32), rng.integers(0, 4, batch)
        graph, operands = step.graph_and_arrays(state, np.array([1, 2], np.uint32), x, y, rng.random(batch, np.float32))
        runs.append([np.asarray(array) for array in operands])
    count = sum(value.name.startswith("state") for value in graph.inputs) if donated else 0
    return Job(graph, runs, frozenset(range(count)), f"training step of a {name} network")
