"""The networks in JAX: functions of parameters by name, in our layouts, which are XLA's favourites too.

``NETWORKS`` maps a workload's network to ``forward(p, state, x) -> (outputs, new state)``, where ``state`` holds running statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bench.weights import BLOCKS, GENERATOR, Weights

Parameters = dict[str, Any]
_IMAGES = ("NHWC", "HWIO", "NHWC")


def running_statistics(initial: Weights) -> Parameters:
    """Mean 0 and variance 1 for every batch norm."""
    found: Parameters = {}
    for name, weight in initial.items():
        if "norm" in name and name.endswith(".weight"):
            path = name.removesuffix(".weight")
            found[f"{path}.mean"] = jnp.zeros(weight.shape)
            found[f"{path}.var"] = jnp.ones(weight.shape)
    return found


def convolution(x: Any, weight: Any, stride: int = 1, padding: int = 1) -> Any:
    return lax.conv_general_dilated(x, weight, (stride, stride), ((padding, padding),) * 2, dimension_numbers=_IMAGES)


def _transposed(x: Any, weight: Any, stride: int, padding: int) -> Any:
    """The window is turned round and slides over the image with zeros between its pixels."""
    margin = weight.shape[0] - 1 - padding
    return lax.conv_general_dilated(
        x,
        weight[::-1, ::-1],
        (1, 1),
        ((margin, margin),) * 2,
        lhs_dilation=(stride, stride),
        dimension_numbers=_IMAGES,
    )


def _linear(p: Parameters, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def _batch_norm(p: Parameters, state: Parameters, name: str, x: Any) -> Any:
    """Normalises, and puts the new running statistics into ``state``."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = x.size // x.shape[-1]
    state[f"{name}.mean"] = 0.9 * state[f"{name}.mean"] + 0.1 * lax.stop_gradient(mean)
    state[f"{name}.var"] = 0.9 * state[f"{name}.var"] + 0.1 * lax.stop_gradient(var) * (count / (count - 1))
    return (x - mean) * (p[f"{name}.weight"] * lax.rsqrt(var + 1e-5)) + p[f"{name}.bias"]


def _layer_norm(p: Parameters, name: str, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    scale = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
    return centred * scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def sigmoid(p: Parameters, state: Parameters, x: Any) -> Any:
    for k in range(len(p) // 2):
        x = jax.nn.sigmoid(_linear(p, str(k), x))
    return x, state


def relu(p: Parameters, state: Parameters, x: Any) -> Any:
    last = len(p) // 2 - 1
    for k in range(last):
        x = jax.nn.relu(_linear(p, str(k), x))
    return _linear(p, str(last), x), state


def lenet(p: Parameters, state: Parameters, x: Any) -> Any:
    for name in ("conv1", "conv2"):
        x = jax.nn.relu(convolution(x, p[f"{name}.weight"]) + p[f"{name}.bias"])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(x.shape[0], -1)
    return _linear(p, "fc2", jax.nn.relu(_linear(p, "fc1", x))), state


def resnet20(p: Parameters, state: Parameters, x: Any) -> Any:
    state = dict(state)
    x = jax.nn.relu(_batch_norm(p, state, "norm", convolution(x, p["conv.weight"])))
    for width, number in BLOCKS:
        name = f"block{width}.{number}"
        shrinks = number == 0 and width > 16
        y = convolution(x, p[f"{name}.conv1.weight"], 2 if shrinks else 1)
        y = jax.nn.relu(_batch_norm(p, state, f"{name}.norm1", y))
        y = _batch_norm(p, state, f"{name}.norm2", convolution(y, p[f"{name}.conv2.weight"]))
        if shrinks:
            x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (width // 4, width // 4)))
        x = jax.nn.relu(x + y)
    return _linear(p, "fc", x.mean((1, 2))), state


def lstm(p: Parameters, state: Parameters, x: Any) -> Any:
    """The input's share of all gates is one product; the rest is a scan over time."""
    weight = p["hidden.weight"]

    def step(carried: Any, from_input: Any) -> Any:
        h, c = carried
        i, f, g, o = jnp.split(from_input + h @ weight, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    start = jnp.zeros((x.shape[0], 128), x.dtype)
    inputs = _linear(p, "input", x.swapaxes(0, 1)) + p["hidden.bias"]
    (h, _), _ = lax.scan(step, (start, start), inputs)
    return _linear(p, "fc", h), state


def gru(p: Parameters, state: Parameters, x: Any) -> Any:
    def step(h: Any, from_input: Any) -> Any:
        r, z, n = jnp.split(from_input, 3, axis=1)
        hr, hz, hn = jnp.split(_linear(p, "hidden", h), 3, axis=1)
        z = jax.nn.sigmoid(z + hz)
        n = jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn)
        return (1 - z) * n + z * h, None

    h, _ = lax.scan(step, jnp.zeros((x.shape[0], 128), x.dtype), _linear(p, "input", x.swapaxes(0, 1)))
    return _linear(p, "fc", h), state


def _blocks(p: Parameters, tokens: Any, gelu: bool, causal: bool) -> Any:
    """Pre-norm Transformer blocks with 4 heads, and the last norm."""
    x = p["tokens.weight"][tokens] + p["positions.weight"]
    batch, length, d = x.shape
    mask = jnp.tril(jnp.ones((length, length), bool)) if causal else None
    for k in range(sum(name.endswith("qkv.weight") for name in p)):
        name = f"block{k}"
        qkv = _linear(p, f"{name}.qkv", _layer_norm(p, f"{name}.norm1", x)).reshape(batch, length, 3, 4, d // 4)
        q, k_, v = qkv.transpose(2, 0, 3, 1, 4)
        scores = q @ k_.swapaxes(-1, -2) / (d // 4) ** 0.5
        scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
        heads = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(batch, length, d)
        x = x + _linear(p, f"{name}.out", heads)
        h = _linear(p, f"{name}.up", _layer_norm(p, f"{name}.norm2", x))
        x = x + _linear(p, f"{name}.down", jax.nn.gelu(h, approximate=True) if gelu else jax.nn.relu(h))
    return _layer_norm(p, "norm", x)


def encoder(p: Parameters, state: Parameters, x: Any) -> Any:
    return _linear(p, "fc", _blocks(p, x, gelu=False, causal=False).mean(1)), state


def gpt(p: Parameters, state: Parameters, x: Any) -> Any:
    return _linear(p, "fc", _blocks(p, x, gelu=True, causal=True)), state


def generator(p: Parameters, state: Parameters, z: Any) -> Any:
    state = dict(state)
    last = len(GENERATOR) - 2
    z = z[:, None, None]
    for k in range(last + 1):
        z = _transposed(z, p[f"g{k}.weight"], *((1, 0) if k == 0 else (2, 1)))
        if k < last:
            z = jax.nn.relu(_batch_norm(p, state, f"g{k}.norm", z))
    return jnp.tanh(z), state


def discriminator(p: Parameters, state: Parameters, x: Any) -> Any:
    state = dict(state)
    for k in range(4):
        x = convolution(x, p[f"d{k}.weight"], *((1, 0) if k == 3 else (2, 1)))
        if k in (1, 2):
            x = _batch_norm(p, state, f"d{k}.norm", x)
        if k < 3:
            x = jnp.where(x > 0, x, 0.2 * x)
    return x.ravel(), state


NETWORKS: dict[str, Callable[[Parameters, Parameters, Any], Any]] = {
    "sigmoid": sigmoid,
    "relu": relu,
    "lenet": lenet,
    "resnet20": resnet20,
    "lstm": lstm,
    "gru": gru,
    "encoder": encoder,
    "gpt": gpt,
}
