"""From the settings of an estimator to its network and its optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule import nn, optim
from chainrule.core import trees
from chainrule.core.errors import ConfigError

NDArray = np.ndarray[Any, Any]
Network = Callable[[int, int], nn.Module]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module] | None] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "identity": None,
}
OPTIMIZERS: Mapping[str, Callable[[float], optim.Optimizer]] = {
    "adam": lambda lr: optim.Adam(lr),
    "sgd": lambda lr: optim.SGD(lr, momentum=0.9, nesterov=True),
    "rmsprop": lambda lr: optim.RMSProp(lr),
    "nadam": lambda lr: optim.NAdam(lr),
}


def multilayer_perceptron(
    inputs: int, outputs: int, hidden: Sequence[int], activation: str, dropout: float, batch_norm: bool
) -> nn.Module:
    """For every hidden size a linear layer, batch norm if wanted, the activation, dropout if wanted; a linear layer at the end."""
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    make = ACTIVATIONS[activation]
    layers: list[nn.Module] = []
    width = inputs
    for size in hidden:
        layers.append(nn.Linear(width, size))
        width = size
        if batch_norm:
            layers.append(nn.BatchNorm(size))
        if make is not None:
            layers.append(make())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def hidden_sizes(value: Any) -> tuple[int, ...]:
    """``hidden_layer_sizes`` as a tuple; a single number is one layer."""
    sizes = (value,) if np.isscalar(value) else tuple(value)
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in sizes):
        raise ConfigError(f"hidden_layer_sizes must be > 0 and whole numbers, got {value!r}")
    return tuple(map(int, sizes))


def in_dtype(model: nn.Module, dtype: np.dtype[Any]) -> nn.Module:
    """The network with its floats in another element type."""
    cast: nn.Module = trees.tree_map(lambda leaf: leaf.astype(dtype) if leaf.dtype.kind == "f" else leaf, model)
    return cast


def make_optimizer(setting: Any, learning_rate: float, alpha: float, gradient_clip: float | None) -> optim.Optimizer:
    """The optimiser of a name, of a stored description, or as it is given; gradients get the L2 term and are clipped before."""
    if isinstance(setting, optim.Optimizer):
        chosen = setting
    elif isinstance(setting, Mapping):
        chosen = optim.from_description(setting)
    elif setting in OPTIMIZERS:
        chosen = OPTIMIZERS[setting](learning_rate)
    else:
        raise ConfigError(
            f"optimizer is one of {', '.join(OPTIMIZERS)}, a description such as {{'kind': 'AdamW', 'lr': 0.001}}, or an "
            f"optimiser of chainrule.optim, not {setting!r}"
        )
    before = [optim.l2(alpha)] if alpha else []
    if gradient_clip is not None:
        before.append(optim.clip_by_global_norm(gradient_clip))
    return optim.chain(*before, chosen) if before else chosen
