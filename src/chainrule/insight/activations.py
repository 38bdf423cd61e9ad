"""The activation functions that a printed training step knows: how each is computed, and how it is written.

Their derivatives are not here: they are found by backpropagation through ``apply``. What is written beside them is text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chainrule import ops
from chainrule.insight.expressions import number

Write = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Written:
    """A formula in z and a = f(z): with symbols, and with numbers."""

    symbols: Write
    numbers: Callable[[float, float], str]


@dataclass(frozen=True, slots=True)
class Activation:
    """``apply`` maps (examples, units) to the same shape; the units of one layer do not depend on each other's z."""

    name: str
    apply: Callable[[Any], Any]
    value: Written
    derivative: Written


@dataclass(frozen=True, slots=True)
class Softmax:
    """``aⱼ = e^zⱼ / Σ e^zₖ``: every unit depends on all z of its layer."""

    name: str = "softmax"

    def apply(self, z: Any) -> Any:
        return ops.softmax(z)

    def value(self, own: str, layer: Sequence[str]) -> str:
        return f"{_called('e^', own)}/({' + '.join(_called('e^', z) for z in layer)})"

    def derivative(self, unit: str, by: str | None) -> str:
        """∂aᵢ/∂zⱼ written with aᵢ and aⱼ; the latter is None where i = j."""
        return f"{unit}(1 − {unit})" if by is None else f"−{unit}·{by}"


def operand(value: float) -> str:
    """A number as it stands within a formula: negative ones in parentheses."""
    return f"({number(value)})" if value < 0 else number(value)


def leaky_relu(slope: float) -> Activation:
    """``z if z > 0, else slope·z``."""
    factor = number(slope)
    return Activation(
        "leaky_relu",
        lambda z: ops.leaky_relu(z, slope),
        _by_sign(lambda z, a: f"({z} if {z} > 0, else {factor}·{z})", number, lambda z: f"({factor})({number(z)})"),
        _by_sign(lambda z, a: f"(1 if {z} > 0, else {factor})", lambda z: "1", lambda z: factor),
    )


def _negated(text: str) -> str:
    return text[2:-1] if text.startswith("(-") else f"−{text}"


def _called(name: str, text: str) -> str:
    return f"{name}{text}" if text.startswith("(") else f"{name}({text})"


def _smooth(write: Write) -> Written:
    return Written(write, lambda z, a: write(operand(z), operand(a)))


def _by_sign(symbols: Write, positive: Callable[[float], str], rest: Callable[[float], str]) -> Written:
    """A formula with one branch for z > 0 and another for the rest."""
    return Written(symbols, lambda z, a: positive(z) if z > 0 else rest(z))


DEFAULT_SLOPE = 0.01

ACTIVATIONS: dict[str, Activation | Softmax] = {
    activation.name: activation
    for activation in (
        Activation("identity", lambda z: z, Written(lambda z, a: z, lambda z, a: number(z)), _smooth(lambda z, a: "1")),
        Activation(
            "sigmoid",
            ops.sigmoid,
            _smooth(lambda z, a: f"1/(1 + e^({_negated(z)}))"),
            _smooth(lambda z, a: f"{a}(1 − {a})"),
        ),
        Activation("tanh", ops.tanh, _smooth(lambda z, a: _called("tanh", z)), _smooth(lambda z, a: f"1 − {a}²")),
        Activation(
            "relu",
            ops.relu,
            Written(lambda z, a: f"max(0, {z})", lambda z, a: f"max(0, {number(z)})"),
            _by_sign(lambda z, a: f"(1 if {z} > 0, else 0)", lambda z: "1", lambda z: "0"),
        ),
        leaky_relu(DEFAULT_SLOPE),
        Activation(
            "softplus",
            ops.softplus,
            _smooth(lambda z, a: f"ln(1 + {_called('e^', z)})"),
            _smooth(lambda z, a: f"1/(1 + e^({_negated(z)}))"),
        ),
        Activation(
            "silu",
            ops.silu,
            _smooth(lambda z, a: f"{z}/(1 + e^({_negated(z)}))"),
            _smooth(lambda z, a: f"(1 + (1 + {z})·e^({_negated(z)}))/(1 + e^({_negated(z)}))²"),
        ),
        Activation(
            "gelu",
            ops.gelu,
            _smooth(lambda z, a: f"½·{z}·(1 + erf({z}/√2))"),
            _smooth(lambda z, a: f"½(1 + erf({z}/√2)) + {z}·e^(−{z}²/2)/√(2π)"),
        ),
        Softmax(),
    )
}
