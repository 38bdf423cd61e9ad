"""Activation functions as layers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features, check_size
from chainrule.ops import activations, math, random
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.scope import is_training


class Sigmoid(Module):
    """``1 / (1 + e**-x)``; see :func:`chainrule.ops.sigmoid`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent; see :func:`chainrule.ops.tanh`."""

    def forward(self, x: ArrayLike) -> Any:
        return math.tanh(x)


class ReLU(Module):
    """``max(x, 0)``; see :func:`chainrule.ops.relu`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.relu(x)


class LeakyReLU(Module):
    """``x`` where positive, else ``negative_slope * x``; see :func:`chainrule.ops.leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: ArrayLike) -> Any:
        return activations.leaky_relu(x, self.negative_slope)


class GELU(Module):
    """``x Φ(x)``, exactly or approximated by ``"tanh"``; see :func:`chainrule.ops.gelu`."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ConfigError(f"GELU has approximate='none' or 'tanh', not {approximate!r}")
        self.approximate = approximate

    def forward(self, x: ArrayLike) -> Any:
        return activations.gelu(x, self.approximate)


class SiLU(Module):
    """``x · sigmoid(x)``; see :func:`chainrule.ops.silu`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.silu(x)


class Softmax(Module):
    """``e**x / Σ e**x`` along an axis, the last by default; see :func:`chainrule.ops.softmax`.

    Losses take the logits before it: training through ``Softmax`` and a logarithm loses precision.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: ArrayLike) -> Any:
        return activations.softmax(x, self.axis)


class Softmin(Module):
    """``e**-x / Σ e**-x`` along an axis, the last by default; see :func:`chainrule.ops.softmin`."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: ArrayLike) -> Any:
        return activations.softmin(x, self.axis)


class LogSoftmax(Module):
    """``x - log Σ e**x`` along an axis, the last by default; see :func:`chainrule.ops.log_softmax`."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: ArrayLike) -> Any:
        return activations.log_softmax(x, self.axis)


class ELU(Module):
    """``x`` where positive, else ``alpha (e**x - 1)``; see :func:`chainrule.ops.elu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: ArrayLike) -> Any:
        return activations.elu(x, self.alpha)


class SELU(Module):
    """ELU scaled so that mean 0 and variance 1 are kept; see :func:`chainrule.ops.selu`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.selu(x)


class Softplus(Module):
    """``log(1 + e**(beta x)) / beta``, the smooth ReLU; see :func:`chainrule.ops.softplus`.

    With a ``threshold`` it is x where ``beta x`` is above that. PyTorch's default is 20, where both differ by 2·10⁻⁹.
    """

    def __init__(self, beta: float = 1.0, threshold: float | None = None) -> None:
        if not beta > 0:
            raise ConfigError(f"Softplus needs beta above 0, not {beta!r}")
        self.beta = float(beta)
        self.threshold = None if threshold is None else float(threshold)

    def forward(self, x: ArrayLike) -> Any:
        return activations.softplus(x, self.beta, self.threshold)


class Threshold(Module):
    """``x`` where it is above ``threshold``, else ``value``; see :func:`chainrule.ops.threshold`."""

    def __init__(self, threshold: float, value: float) -> None:
        self.threshold = float(threshold)
        self.value = float(value)

    def forward(self, x: ArrayLike) -> Any:
        return activations.threshold(x, self.threshold, self.value)


class RReLU(Module):
    """``x`` from 0 on, else ``a · x``: in training each a is uniform in [lower, upper), at inference their mean. Xu et al. 2015.

    Random numbers come from ``key=`` of the call where it is given, else from the step's key or :func:`chainrule.seed`.
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3) -> None:
        if not lower <= upper:
            raise ConfigError(f"RReLU needs lower at most upper, not {lower!r} and {upper!r}")
        self.lower = float(lower)
        self.upper = float(upper)

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None) -> Any:
        if is_training() and self.lower < self.upper:
            return _with_random_slopes(x, self.lower, self.upper, key)
        return activations.leaky_relu(x, (self.lower + self.upper) / 2)


class Softsign(Module):
    """``x / (1 + |x|)``; see :func:`chainrule.ops.softsign`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.softsign(x)


class Mish(Module):
    """``x · tanh(softplus(x))``; see :func:`chainrule.ops.mish`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.mish(x)


class Hardswish(Module):
    """``x · (x + 3) / 6`` between -3 and 3, 0 below and ``x`` above; see :func:`chainrule.ops.hardswish`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.hardswish(x)


class ReLU6(Module):
    """``min(max(x, 0), 6)``; see :func:`chainrule.ops.relu6`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.relu6(x)


class Hardtanh(Module):
    """``max(min_val, min(max_val, x))``; see :func:`chainrule.ops.hardtanh`."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        if not min_val < max_val:
            raise ConfigError(f"Hardtanh needs min_val below max_val, not {min_val!r} and {max_val!r}")
        self.min_val = float(min_val)
        self.max_val = float(max_val)

    def forward(self, x: ArrayLike) -> Any:
        return activations.hardtanh(x, self.min_val, self.max_val)


class Hardsigmoid(Module):
    """``(x + 3) / 6`` between -3 and 3, 0 below and 1 above; see :func:`chainrule.ops.hardsigmoid`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.hardsigmoid(x)


class LogSigmoid(Module):
    """``log(1 / (1 + e**-x))``; see :func:`chainrule.ops.log_sigmoid`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.log_sigmoid(x)


class CELU(Module):
    """``x`` where positive, else ``alpha (e**(x / alpha) - 1)``; see :func:`chainrule.ops.celu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        if not alpha > 0:
            raise ConfigError(f"CELU needs alpha above 0, not {alpha!r}")
        self.alpha = float(alpha)

    def forward(self, x: ArrayLike) -> Any:
        return activations.celu(x, self.alpha)


class Tanhshrink(Module):
    """``x - tanh(x)``; see :func:`chainrule.ops.tanhshrink`."""

    def forward(self, x: ArrayLike) -> Any:
        return activations.tanhshrink(x)


class Softshrink(Module):
    """``x`` brought nearer to 0 by a threshold; see :func:`chainrule.ops.softshrink`."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = _threshold("Softshrink", threshold)

    def forward(self, x: ArrayLike) -> Any:
        return activations.softshrink(x, self.threshold)


class Hardshrink(Module):
    """``x`` beyond a threshold, else 0; see :func:`chainrule.ops.hardshrink`."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = _threshold("Hardshrink", threshold)

    def forward(self, x: ArrayLike) -> Any:
        return activations.hardshrink(x, self.threshold)


class PReLU(Module):
    """``x`` where positive, else ``weight * x`` with learned weights that start at ``init``; see :func:`chainrule.ops.prelu`.

    There is one weight for everything, or with ``num_parameters`` one for each feature, the last axis. Raises
    :class:`ShapeError` when that axis has another size.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        check_size("PReLU", "num_parameters", num_parameters)
        self.weight = np.full(num_parameters, init, np.float32)

    def forward(self, x: ArrayLike) -> Any:
        return _prelu(x, self.weight)


class GLU(Module):
    """``a · sigmoid(b)`` for the halves a and b of an axis, the last by default; see :func:`chainrule.ops.glu`."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: ArrayLike) -> Any:
        return activations.glu(x, self.axis)


def _threshold(layer: str, threshold: float) -> float:
    if not threshold >= 0:
        raise ConfigError(f"{layer} needs a threshold of at least 0, not {threshold!r}")
    return float(threshold)


@operation
def _with_random_slopes(x: ArrayLike, lower: float, upper: float, key: ArrayLike | None) -> Any:
    array = as_array(x)
    dtype = array.dtype if array.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    slopes = random.uniform(array.shape, lower, upper, key=key, dtype=dtype)
    return math.where(array >= 0, array, slopes * array)


@operation
def _prelu(x: ArrayLike, weight: ArrayLike) -> Any:
    array, slopes = as_array(x), as_array(weight)
    if slopes.shape[0] != 1:
        check_features(array, int(slopes.shape[0]))
    return activations.prelu(array, slopes)
