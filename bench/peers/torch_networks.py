"""The networks in PyTorch: functions of parameters by name, channels first as PyTorch computes.

``lay_out`` turns a weight of ours into PyTorch's; ``NETWORKS`` maps a workload's network to ``forward(p, state, x)``, where ``state``
holds running statistics. Images come as (batch, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.weights import BLOCKS, GENERATOR, Weights

Parameters = dict[str, torch.Tensor]
Forward = Callable[[Parameters, Parameters, torch.Tensor], torch.Tensor]


def lay_out(name: str, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(in, out) → (out, in) and (height, width, in, out) → (out, in, height, width); transposed convolutions have in before out."""
    if weight.ndim == 4:
        axes = (2, 3, 0, 1) if name.startswith("g") else (3, 2, 0, 1)
        return np.ascontiguousarray(weight.transpose(axes))
    if weight.ndim == 2 and not name.startswith(("tokens", "positions")):
        return np.ascontiguousarray(weight.T)
    return weight


def running_statistics(initial: Weights) -> Parameters:
    """Mean 0 and variance 1 for every batch norm."""
    found: Parameters = {}
    for name, weight in initial.items():
        if "norm" in name and name.endswith(".weight"):
            path = name.removesuffix(".weight")
            found[f"{path}.mean"] = torch.zeros(weight.shape)
            found[f"{path}.var"] = torch.ones(weight.shape)
    return found


def _linear(p: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def _batch_norm(p: Parameters, state: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, var = state[f"{name}.mean"], state[f"{name}.var"]
    return F.batch_norm(x, mean, var, p[f"{name}.weight"], p[f"{name}.bias"], training=True)


def _layer_norm(p: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])


def _dense_layers(p: Parameters) -> int:
    return len(p) // 2


def sigmoid(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    for k in range(_dense_layers(p)):
        x = torch.sigmoid(_linear(p, str(k), x))
    return x


def relu(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    last = _dense_layers(p) - 1
    for k in range(last):
        x = F.relu(_linear(p, str(k), x))
    return _linear(p, str(last), x)


def lenet(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    for name in ("conv1", "conv2"):
        x = F.max_pool2d(F.relu(F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)), 2)
    # Channels last before flattening, as the weights are; without a copy where the memory already lies like that.
    x = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)
    return _linear(p, "fc2", F.relu(_linear(p, "fc1", x)))


def resnet20(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(_batch_norm(p, state, "norm", F.conv2d(x, p["conv.weight"], padding=1)))
    for width, number in BLOCKS:
        name = f"block{width}.{number}"
        shrinks = number == 0 and width > 16
        y = F.conv2d(x, p[f"{name}.conv1.weight"], stride=2 if shrinks else 1, padding=1)
        y = F.relu(_batch_norm(p, state, f"{name}.norm1", y))
        y = _batch_norm(p, state, f"{name}.norm2", F.conv2d(y, p[f"{name}.conv2.weight"], padding=1))
        if shrinks:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, width // 4, width // 4))
        x = F.relu(x + y)
    return _linear(p, "fc", x.mean((2, 3)))


def lstm(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    start = x.new_zeros(1, x.shape[0], 128)
    outputs, _, _ = torch.lstm(x, (start, start), _recurrent(p), True, 1, 0.0, True, False, True)
    return _linear(p, "fc", outputs[:, -1])


def gru(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    start = x.new_zeros(1, x.shape[0], 128)
    outputs, _ = torch.gru(x, start, _recurrent(p), True, 1, 0.0, True, False, True)
    return _linear(p, "fc", outputs[:, -1])


def _recurrent(p: Parameters) -> list[torch.Tensor]:
    return [p["input.weight"], p["hidden.weight"], p["input.bias"], p["hidden.bias"]]


def _blocks(p: Parameters, tokens: torch.Tensor, gelu: bool, causal: bool) -> torch.Tensor:
    """Pre-norm Transformer blocks with 4 heads, and the last norm."""
    x = F.embedding(tokens, p["tokens.weight"]) + p["positions.weight"]
    batch, length, d = x.shape
    for k in range(sum(name.endswith("qkv.weight") for name in p)):
        name = f"block{k}"
        qkv = _linear(p, f"{name}.qkv", _layer_norm(p, f"{name}.norm1", x)).view(batch, length, 3, 4, d // 4)
        q, k_, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        heads = F.scaled_dot_product_attention(q, k_, v, is_causal=causal)
        x = x + _linear(p, f"{name}.out", heads.transpose(1, 2).reshape(batch, length, d))
        h = _linear(p, f"{name}.up", _layer_norm(p, f"{name}.norm2", x))
        x = x + _linear(p, f"{name}.down", F.gelu(h, approximate="tanh") if gelu else F.relu(h))
    return _layer_norm(p, "norm", x)


def encoder(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    return _linear(p, "fc", _blocks(p, x, gelu=False, causal=False).mean(1))


def gpt(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    return _linear(p, "fc", _blocks(p, x, gelu=True, causal=True))


def generator(p: Parameters, state: Parameters, z: torch.Tensor) -> torch.Tensor:
    last = len(GENERATOR) - 2
    z = z[:, :, None, None]
    for k in range(last + 1):
        how = {"stride": 1, "padding": 0} if k == 0 else {"stride": 2, "padding": 1}
        z = F.conv_transpose2d(z, p[f"g{k}.weight"], **how)
        if k < last:
            z = F.relu(_batch_norm(p, state, f"g{k}.norm", z))
    return torch.tanh(z)


def discriminator(p: Parameters, state: Parameters, x: torch.Tensor) -> torch.Tensor:
    for k in range(4):
        how = {"stride": 1, "padding": 0} if k == 3 else {"stride": 2, "padding": 1}
        x = F.conv2d(x, p[f"d{k}.weight"], **how)
        if k in (1, 2):
            x = _batch_norm(p, state, f"d{k}.norm", x)
        if k < 3:
            x = F.leaky_relu(x, 0.2)
    return x.flatten()


NETWORKS: dict[str, Forward] = {
    "sigmoid": sigmoid,
    "relu": relu,
    "lenet": lenet,
    "resnet20": resnet20,
    "lstm": lstm,
    "gru": gru,
    "encoder": encoder,
    "gpt": gpt,
}
IMAGES = ("lenet", "resnet20", "dcgan")
