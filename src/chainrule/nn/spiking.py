"""Spiking neurons, trained with a surrogate for the derivative of a spike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.ops.arrays import zeros
from chainrule.ops.loops import operation_with_rule, scan
from chainrule.ops.math import stop_gradient
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class LeakyIntegrateAndFire(Module):
    """Neurons that gather their input, leak, and spike at a threshold: x of shape (N, T, C) to spikes 0 and 1 of that shape.

    ``v ← decay · v + x``; ``s = 1 if v ≥ threshold else 0``; ``v ← v - threshold · s``, with ``decay = exp(-1/time_constant)``, time in
    steps and v from 0. The derivative of a spike is 0 or does not exist; ``1 / (1 + slope · |v - threshold|)²`` stands in its
    place (:func:`spike`). Rule sets find it as the operation ``spike``. No gradient passes through the reset. Zenke & Ganguli 2018;
    Neftci, Mostafa & Zenke 2019.
    """

    def __init__(self, time_constant: float = 10.0, threshold: float = 1.0, slope: float = 10.0) -> None:
        for name, number in (("time_constant", time_constant), ("threshold", threshold), ("slope", slope)):
            if not number > 0:
                raise ConfigError(f"LeakyIntegrateAndFire needs {name} above 0, not {number!r}")
        self.time_constant = float(time_constant)
        self.threshold = float(threshold)
        self.slope = float(slope)

    def forward(self, x: ArrayLike) -> Any:
        return _spikes(x, math.exp(-1 / self.time_constant), self.threshold, self.slope)


@operation
def spike(distance: ArrayLike, slope: float = 10.0) -> Any:
    """1 where the distance above the threshold is at least 0, else 0; backwards it is ``1 / (1 + slope · |distance|)²``."""

    def forward(x: Array) -> Any:
        return (x >= 0).astype(x.dtype)

    def backward(inputs: Sequence[Array], outputs: Sequence[Array], cotangents: Sequence[Array]) -> list[Any]:
        return [cotangents[0] / (1 + slope * abs(inputs[0])) ** 2]

    return operation_with_rule(forward, backward, label="spike")(as_array(distance))


@operation
def _spikes(x: ArrayLike, decay: float, threshold: float, slope: float) -> Any:
    array = as_array(x)
    if array.ndim != 3:
        raise ShapeError(f"the input should have shape (N, T, C), not {show_shape(array.shape)}")
    if not is_float(array.dtype):
        array = array.astype(np.float32)

    def step(v: Array, current: Array) -> tuple[Array, Array]:
        v = decay * v + current
        fired = spike(v - threshold, slope)
        return v - threshold * stop_gradient(fired), fired

    start = zeros((array.shape[0], array.shape[2]), array.dtype)
    _, fired = scan(step, start, array.transpose(1, 0, 2))
    return fired.transpose(1, 0, 2)
