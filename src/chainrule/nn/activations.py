"""Activation functions as layers."""

from __future__ import annotations

from typing import Any, Literal

from chainrule.core.errors import ConfigError
from chainrule.nn.module import Module
from chainrule.ops import activations, math
from chainrule.trace.array import ArrayLike


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
