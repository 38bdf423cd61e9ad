"""Activation functions, and the stable exponentials that losses are built from. Names are PyTorch's."""

from __future__ import annotations

import math
from typing import Any, Literal

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ops.arrays import sum
from chainrule.ops.math import abs, erf, exp, expm1, is_finite, log, log1p, stop_gradient, tanh, where
from chainrule.trace import values
from chainrule.trace.array import Array, ArrayLike, Axes, as_array, operation, unary


@operation
def sigmoid(x: ArrayLike) -> Any:
    """The logistic function ``1 / (1 + e**-x)``, without overflow on either side."""
    return unary("logistic", x, floats=True)


@operation
def relu(x: ArrayLike) -> Any:
    """``max(x, 0)``; its derivative at 0 is 0, and NaN stays NaN. Nair & Hinton, ICML 2010."""
    array = as_array(x)
    return where(array <= 0, 0, array)


@operation
def leaky_relu(x: ArrayLike, negative_slope: float = 0.01) -> Any:
    """``x`` where positive, else ``negative_slope * x``; the derivative at 0 is the slope. Maas et al., ICML 2013."""
    array = as_array(x)
    return where(array > 0, array, negative_slope * array)


@operation
def gelu(x: ArrayLike, approximate: Literal["none", "tanh"] = "none") -> Any:
    """``x Φ(x)`` with the distribution function Φ of the standard normal. Hendrycks & Gimpel 2016.

    ``approximate="tanh"`` computes ``½x (1 + tanh(√(2/π) (x + 0.044715 x³)))`` instead, as GPT-2 does.
    """
    array = as_array(x)
    if approximate == "none":
        return 0.5 * array * (1 + erf(array * math.sqrt(0.5)))
    if approximate == "tanh":
        return 0.5 * array * (1 + tanh(math.sqrt(2 / math.pi) * (array + 0.044715 * (array * array * array))))
    raise ConfigError(f"gelu has approximate='none' or 'tanh', not {approximate!r}")


@operation
def silu(x: ArrayLike) -> Any:
    """``x · sigmoid(x)``, also called swish. Elfwing, Uchibe & Doya 2018."""
    array = as_array(x)
    return array * sigmoid(array)


@operation
def elu(x: ArrayLike, alpha: float = 1.0) -> Any:
    """``x`` where positive, else ``alpha (e**x - 1)``. Clevert, Unterthiner & Hochreiter, ICLR 2016."""
    array = as_array(x)
    positive = array > 0
    return where(positive, array, alpha * expm1(where(positive, 0, array)))


@operation
def selu(x: ArrayLike) -> Any:
    """``1.0507 · elu(x, 1.6733)``: keeps mean 0 and variance 1 behind ``lecun_normal`` weights. Klambauer et al., NIPS 2017."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


@operation
def softsign(x: ArrayLike) -> Any:
    """``x / (1 + |x|)``. Glorot & Bengio, AISTATS 2010."""
    array = as_array(x)
    return array / (1 + abs(array))


@operation
def mish(x: ArrayLike) -> Any:
    """``x · tanh(softplus(x))``. Misra, BMVC 2020."""
    array = as_array(x)
    return array * tanh(softplus(array))


@operation
def hardswish(x: ArrayLike) -> Any:
    """``x · (x + 3) / 6`` between -3 and 3, 0 below and ``x`` above: silu without an exponential. Howard et al., ICCV 2019."""
    array = as_array(x)
    return where(array <= -3, 0, where(array >= 3, array, array * (array + 3) * (1 / 6)))


@operation
def hardtanh(x: ArrayLike, low: float = -1.0, high: float = 1.0) -> Any:
    """``max(low, min(high, x))``; the derivative at both ends is 0, and NaN stays NaN. Collobert 2004."""
    array = as_array(x)
    return where(array <= low, low, where(array >= high, high, array))


@operation
def relu6(x: ArrayLike) -> Any:
    """``min(max(x, 0), 6)``, for weights of few bits. Krizhevsky 2010."""
    return hardtanh(x, 0.0, 6.0)


@operation
def hardsigmoid(x: ArrayLike) -> Any:
    """``(x + 3) / 6`` between -3 and 3, 0 below and 1 above: the logistic function in straight lines. Courbariaux et al. 2015."""
    array = as_array(x)
    return where(array <= -3, 0, where(array >= 3, 1, (array + 3) * (1 / 6)))


@operation
def log_sigmoid(x: ArrayLike) -> Any:
    """``log(1 / (1 + e**-x))``, exact where the logistic function itself would round to 0 or 1."""
    return -softplus(-as_array(x))


@operation
def celu(x: ArrayLike, alpha: float = 1.0) -> Any:
    """``x`` where positive, else ``alpha (e**(x / alpha) - 1)``: an ELU without a kink for any alpha. Barron 2017."""
    array = as_array(x)
    positive = array > 0
    return where(positive, array, alpha * expm1(where(positive, 0, array) * (1 / alpha)))


@operation
def tanhshrink(x: ArrayLike) -> Any:
    """``x - tanh(x)``."""
    array = as_array(x)
    return array - tanh(array)


@operation
def softshrink(x: ArrayLike, threshold: float = 0.5) -> Any:
    """``x`` brought nearer to 0 by a threshold, 0 within it: the proximal map of the absolute value. Donoho & Johnstone 1994."""
    array = as_array(x)
    return where(abs(array) <= threshold, 0, where(array > 0, array - threshold, array + threshold))


@operation
def hardshrink(x: ArrayLike, threshold: float = 0.5) -> Any:
    """``x`` beyond a threshold on either side, 0 within it. Donoho & Johnstone 1994."""
    array = as_array(x)
    return where(abs(array) <= threshold, 0, array)


@operation
def prelu(x: ArrayLike, weight: ArrayLike) -> Any:
    """``x`` where positive, else ``weight * x``, with one weight or one for each feature, the last axis. He et al., ICCV 2015."""
    array = as_array(x)
    return where(array > 0, array, as_array(weight) * array)


@operation
def glu(x: ArrayLike, axis: int = -1) -> Any:
    """``a · sigmoid(b)`` for the halves a and b of an axis. Dauphin et al., ICML 2017."""
    array = as_array(x)
    place = values.normal_axis(axis, array.ndim)
    size = array.shape[place]
    if not isinstance(size, int) or size % 2:
        raise ShapeError(
            f"glu halves axis {axis}, which has size {size} in an input of shape {values.show_shape(array.shape)}"
        )
    before = (slice(None),) * place
    return array[(*before, slice(size // 2))] * sigmoid(array[(*before, slice(size // 2, None))])


@operation
def softplus(x: ArrayLike, beta: float = 1.0, threshold: float | None = None) -> Any:
    """``log(1 + e**(beta x)) / beta``, the smooth ReLU, without overflow: ``max(z, 0) + log(1 + e**-|z|)`` for z = beta x.

    With a ``threshold`` it is x itself where ``beta x`` is above that, as in PyTorch.
    """
    if not beta > 0:
        raise ConfigError(f"softplus needs beta above 0, not {beta!r}")
    array = as_array(x)
    scaled = array if beta == 1 else beta * array
    # Not abs and maximum: with one choice for both terms all derivatives are right at 0 too.
    positive = scaled > 0
    smooth = where(positive, scaled, 0) + log1p(exp(where(positive, -scaled, scaled)))
    smooth = smooth if beta == 1 else smooth * (1 / beta)
    return smooth if threshold is None else where(scaled > threshold, array, smooth)


@operation
def threshold(x: ArrayLike, least: float, value: float) -> Any:
    """``x`` where it is above ``least``, else ``value``; no gradient passes there."""
    array = as_array(x)
    return where(array > least, array, value)


@operation
def logsumexp(x: ArrayLike, axis: Axes = None, keepdims: bool = False) -> Any:
    """``log Σ e**x`` over axes (all by default), shifted by the maximum so that nothing overflows."""
    array = as_array(x)
    highest = stop_gradient(array.max(axis, keepdims=True))
    shift = where(is_finite(highest), highest, 0)
    total: Array = log(sum(exp(array - shift), axis, keepdims=True)) + shift
    return total if keepdims else total.sum(axis)


@operation
def softmax(x: ArrayLike, axis: int = -1) -> Any:
    """``e**x / Σ e**x`` along an axis: positive, with sum 1. NaN where x holds +∞ or nothing but -∞."""
    weights = exp(_shifted(x, axis))
    return weights / sum(weights, axis, keepdims=True)


@operation
def softmin(x: ArrayLike, axis: int = -1) -> Any:
    """``softmax(-x)``: the smallest have the largest shares."""
    return softmax(-as_array(x), axis)


@operation
def log_softmax(x: ArrayLike, axis: int = -1) -> Any:
    """``x - log Σ e**x`` along an axis: the logarithm of softmax, exact where softmax itself would round to 0 or 1."""
    shifted = _shifted(x, axis)
    return shifted - log(sum(exp(shifted), axis, keepdims=True))


def _shifted(x: ArrayLike, axis: int) -> Array:
    array = as_array(x)
    # The shift cancels in value and in every derivative, so no gradient needs to pass through the maximum.
    shifted: Array = array - stop_gradient(array.max(axis, keepdims=True))
    return shifted
