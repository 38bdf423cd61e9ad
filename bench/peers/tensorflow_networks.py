"""The networks in TensorFlow: functions of variables by name, in our layouts, which are TensorFlow's own.

``NETWORKS`` maps a workload's network to ``forward(p, state, x)``; variables in ``state`` hold running statistics and are assigned to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bench.weights import BLOCKS, GENERATOR, Weights

Parameters = dict[str, Any]


def running_statistics(initial: Weights) -> Parameters:
    """Mean 0 and variance 1 for every batch norm."""
    found: Parameters = {}
    for name, weight in initial.items():
        if "norm" in name and name.endswith(".weight"):
            path = name.removesuffix(".weight")
            found[f"{path}.mean"] = tf.Variable(tf.zeros(weight.shape), trainable=False)
            found[f"{path}.var"] = tf.Variable(tf.ones(weight.shape), trainable=False)
    return found


def convolution(x: Any, weight: Any, stride: int = 1, padding: int = 1) -> Any:
    return tf.nn.conv2d(x, weight, stride, margins(stride, padding))


def margins(stride: int, padding: int) -> Any:
    """By name where that means the same, because it takes faster paths."""
    if padding == 0:
        return "VALID"
    return "SAME" if stride == 1 else [[0, 0], [padding, padding], [padding, padding], [0, 0]]


def _linear(p: Parameters, name: str, x: Any) -> Any:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    if x.shape.rank == 2:
        return tf.nn.bias_add(x @ weight, bias)
    rows = tf.nn.bias_add(tf.reshape(x, (-1, x.shape[-1])) @ weight, bias)
    return tf.reshape(rows, (*x.shape[:-1], weight.shape[-1]))


def _batch_norm(p: Parameters, state: Parameters, name: str, x: Any) -> Any:
    mean, var = state[f"{name}.mean"], state[f"{name}.var"]
    y, new_mean, new_var, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=p[f"{name}.weight"],
        offset=p[f"{name}.bias"],
        mean=mean,
        variance=var,
        epsilon=1e-5,
        exponential_avg_factor=0.1,
        is_training=True,
    )
    mean.assign(new_mean)
    var.assign(new_var)
    return y


def _layer_norm(p: Parameters, name: str, x: Any) -> Any:
    mean, var = tf.nn.moments(x, -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def sigmoid(p: Parameters, state: Parameters, x: Any) -> Any:
    for k in range(len(p) // 2):
        x = tf.sigmoid(_linear(p, str(k), x))
    return x


def relu(p: Parameters, state: Parameters, x: Any) -> Any:
    last = len(p) // 2 - 1
    for k in range(last):
        x = tf.nn.relu(_linear(p, str(k), x))
    return _linear(p, str(last), x)


def lenet(p: Parameters, state: Parameters, x: Any) -> Any:
    for name in ("conv1", "conv2"):
        x = tf.nn.relu(tf.nn.bias_add(convolution(x, p[f"{name}.weight"]), p[f"{name}.bias"]))
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    x = tf.reshape(x, (x.shape[0], -1))
    return _linear(p, "fc2", tf.nn.relu(_linear(p, "fc1", x)))


def resnet20(p: Parameters, state: Parameters, x: Any) -> Any:
    x = tf.nn.relu(_batch_norm(p, state, "norm", convolution(x, p["conv.weight"])))
    for width, number in BLOCKS:
        name = f"block{width}.{number}"
        shrinks = number == 0 and width > 16
        y = convolution(x, p[f"{name}.conv1.weight"], 2 if shrinks else 1)
        y = tf.nn.relu(_batch_norm(p, state, f"{name}.norm1", y))
        y = _batch_norm(p, state, f"{name}.norm2", convolution(y, p[f"{name}.conv2.weight"]))
        if shrinks:
            x = tf.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (width // 4, width // 4)))
        x = tf.nn.relu(x + y)
    return _linear(p, "fc", tf.reduce_mean(x, (1, 2)))


def _over_time(step: Callable[..., Any], start: tuple[Any, ...], inputs: Any, unrolled: bool) -> tuple[Any, ...]:
    """What ``step(carried, input)`` carries to the end: without a loop in the graph, or with one, for which XLA compiles faster."""
    if unrolled:
        carried = start
        for from_input in tf.unstack(inputs, axis=1):
            carried = step(carried, from_input)
        return carried
    by_time = tf.transpose(inputs, (1, 0, 2))
    length = by_time.shape[0]
    _, carried = tf.while_loop(
        lambda t, _: t < length,
        lambda t, carried: (t + 1, step(carried, by_time[t])),
        (tf.constant(0), start),
        maximum_iterations=length,
    )
    return carried  # type: ignore[no-any-return]


def lstm(p: Parameters, state: Parameters, x: Any, unrolled: bool = True) -> Any:
    """The input's share of all gates is one product."""

    def step(carried: tuple[Any, ...], from_input: Any) -> tuple[Any, ...]:
        h, c = carried
        i, f, g, o = tf.split(from_input + h @ p["hidden.weight"], 4, axis=1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        return tf.sigmoid(o) * tf.tanh(c), c

    start = tf.zeros((x.shape[0], 128))
    h, _ = _over_time(step, (start, start), _linear(p, "input", x) + p["hidden.bias"], unrolled)
    return _linear(p, "fc", h)


def gru(p: Parameters, state: Parameters, x: Any, unrolled: bool = True) -> Any:
    def step(carried: tuple[Any, ...], from_input: Any) -> tuple[Any, ...]:
        (h,) = carried
        r, z, n = tf.split(from_input, 3, axis=1)
        hr, hz, hn = tf.split(_linear(p, "hidden", h), 3, axis=1)
        z = tf.sigmoid(z + hz)
        n = tf.tanh(n + tf.sigmoid(r + hr) * hn)
        return ((1 - z) * n + z * h,)

    (h,) = _over_time(step, (tf.zeros((x.shape[0], 128)),), _linear(p, "input", x), unrolled)
    return _linear(p, "fc", h)


def _blocks(p: Parameters, tokens: Any, gelu: bool, causal: bool) -> Any:
    """Pre-norm Transformer blocks with 4 heads, and the last norm."""
    # A plain read of the table makes its gradient dense, which Adam needs in order to move every row.
    x = tf.gather(p["tokens.weight"], tokens) + p["positions.weight"]
    batch, length, d = x.shape
    mask = tf.linalg.band_part(tf.ones((length, length), tf.bool), -1, 0) if causal else None
    for k in range(sum(name.endswith("qkv.weight") for name in p)):
        name = f"block{k}"
        qkv = _linear(p, f"{name}.qkv", _layer_norm(p, f"{name}.norm1", x))
        q, k_, v = tf.unstack(tf.transpose(tf.reshape(qkv, (batch, length, 3, 4, d // 4)), (2, 0, 3, 1, 4)))
        scores = tf.matmul(q, k_, transpose_b=True) / (d // 4) ** 0.5
        scores = scores if mask is None else tf.where(mask, scores, -1e30)
        heads = tf.transpose(tf.nn.softmax(scores) @ v, (0, 2, 1, 3))
        x = x + _linear(p, f"{name}.out", tf.reshape(heads, (batch, length, d)))
        h = _linear(p, f"{name}.up", _layer_norm(p, f"{name}.norm2", x))
        x = x + _linear(p, f"{name}.down", tf.nn.gelu(h, approximate=True) if gelu else tf.nn.relu(h))
    return _layer_norm(p, "norm", x)


def encoder(p: Parameters, state: Parameters, x: Any) -> Any:
    return _linear(p, "fc", tf.reduce_mean(_blocks(p, x, gelu=False, causal=False), 1))


def gpt(p: Parameters, state: Parameters, x: Any) -> Any:
    return _linear(p, "fc", _blocks(p, x, gelu=True, causal=True))


def generator(p: Parameters, state: Parameters, z: Any) -> Any:
    last = len(GENERATOR) - 2
    z = z[:, None, None]
    for k in range(last + 1):
        size, stride, padding = (4, 1, "VALID") if k == 0 else (2 * z.shape[1], 2, "SAME")
        # The window of TensorFlow's transposed convolution has the outputs before the inputs.
        window = tf.transpose(p[f"g{k}.weight"], (0, 1, 3, 2))
        z = tf.nn.conv2d_transpose(z, window, (z.shape[0], size, size, GENERATOR[k + 1]), stride, padding)
        if k < last:
            z = tf.nn.relu(_batch_norm(p, state, f"g{k}.norm", z))
    return tf.tanh(z)


def discriminator(p: Parameters, state: Parameters, x: Any) -> Any:
    for k in range(4):
        stride, padding = (1, "VALID") if k == 3 else (2, "SAME")  # SAME is one pixel at each side here
        x = tf.nn.conv2d(x, p[f"d{k}.weight"], stride, padding)
        if k in (1, 2):
            x = _batch_norm(p, state, f"d{k}.norm", x)
        if k < 3:
            x = tf.nn.leaky_relu(x, 0.2)
    return tf.reshape(x, (-1,))


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
UNDER_XLA = {**NETWORKS, "lstm": functools.partial(lstm, unrolled=False), "gru": functools.partial(gru, unrolled=False)}
