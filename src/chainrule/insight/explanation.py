"""The equations of one training step: every quantity that its graph held, with the formula behind it.

The values are the graph's; the formulas are written from the network's names and the same values. That a formula gives
the value beside it is what the tests check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.insight.activations import Softmax, operand
from chainrule.insight.expressions import Equation, Expression, Sum, Term, number, product, total
from chainrule.insight.network import Network

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """What one example goes through: the forward pass, its loss, the local derivatives and δ = ∂L/∂z of every unit."""

    number: int
    given: Sequence[Equation]
    forward: Sequence[Equation]
    loss: Equation
    local: Sequence[Equation]
    deltas: Sequence[Equation]


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One step in full. ``loss`` is the mean over the examples; gradients and updates are in the order of the layers."""

    number: int
    examples: Sequence[Example]
    loss: Equation
    gradients: Sequence[Equation]
    updates: Sequence[Equation]


class _Explanation:
    """Writes the equations of one step from the arrays observed."""

    def __init__(self, network: Network, seen: Mapping[str, NDArray]) -> None:
        self.network = network
        self.seen = seen
        counts = [len(layer.parameters()) for layer in network.layers]
        self.first_parameter = [sum(counts[:k]) for k in range(len(counts))]
        self.known_deltas: dict[tuple[int, int, int], Expression] = {}

    def step(self, number: int) -> TrainingStep:
        examples = [self.example(n) for n in range(self.network.examples)]
        learning = [pair for k in range(len(self.network.layers)) for pair in self.learning(k)]
        gradients, updates = [gradient for gradient, _ in learning], [update for _, update in learning]
        return TrainingStep(number, examples, self.mean_loss(examples), gradients, updates)

    # Names and numbers.
    def units_before(self, k: int) -> Sequence[str]:
        return self.network.layers[k - 1].units if k else self.network.input_names

    def before(self, k: int) -> NDArray:
        """What layer k gets: (examples, units before)."""
        return self.seen[f"a.{k - 1}"] if k else self.network.inputs

    def weights(self, k: int) -> NDArray:
        return self.seen[f"parameters.{self.first_parameter[k]}"]

    def biases(self, k: int) -> NDArray:
        return self.seen[f"parameters.{self.first_parameter[k] + 1}"]

    def local(self, k: int, n: int, unit: int, by: int) -> float:
        """∂a/∂z of one unit by the z of another, for example n."""
        layer = self.network.layers[k]
        if isinstance(layer.activation, Softmax):
            return float(self.seen[f"local.{k}.{unit}"][n, by])
        return float(self.seen[f"local.{k}"][n, unit])

    def reached(self, k: int, unit: int) -> Sequence[int]:
        """The units of layer k whose activation depends on the z of ``unit``."""
        layer = self.network.layers[k]
        return range(len(layer.units)) if isinstance(layer.activation, Softmax) else [unit]

    # One example.
    def example(self, n: int) -> Example:
        layers = range(len(self.network.layers))
        backwards = list(reversed(layers))
        return Example(
            n + 1,
            list(self.given(n)),
            [equation for k in layers for equation in self.forward(k, n)],
            self.example_loss(n),
            [*self.slopes(n), *(equation for k in backwards for equation in self.local_equations(k, n))],
            [self.delta_equation(k, n, unit) for k in backwards for unit in range(len(self.network.layers[k].units))],
        )

    def given(self, n: int) -> list[Equation]:
        names = [*self.network.input_names, *self.network.target_names]
        values = [*self.network.inputs[n], *self.network.targets[n]]
        return [Equation(name, name, Term(name, float(v)), float(v)) for name, v in zip(names, values, strict=True)]

    def forward(self, k: int, n: int) -> list[Equation]:
        layer, found = self.network.layers[k], []
        for unit, name in enumerate(layer.units):
            terms = [
                product(Term(w, float(v)), Term(source, float(x)))
                for w, v, source, x in zip(
                    layer.weight_names[unit],
                    self.weights(k)[unit],
                    self.units_before(k),
                    self.before(k)[n],
                    strict=True,
                )
            ]
            if layer.biases is not None:
                terms.append(Term(layer.bias_names[unit], float(self.biases(k)[unit])))
            found.append(Equation(name, f"z_{name}", total(terms), float(self.seen[f"z.{k}"][n, unit])))
        return found + [self.activation_equation(k, n, unit) for unit in range(len(layer.units))]

    def activation_equation(self, k: int, n: int, unit: int) -> Equation:
        layer, name = self.network.layers[k], self.network.layers[k].units[unit]
        drives, value = [float(z) for z in self.seen[f"z.{k}"][n]], float(self.seen[f"a.{k}"][n, unit])
        if isinstance(layer.activation, Softmax):
            symbols = layer.activation.value(f"z_{name}", [f"z_{other}" for other in layer.units])
            numbers = layer.activation.value(number(drives[unit]), [number(z) for z in drives])
        else:
            symbols = layer.activation.value.symbols(f"z_{name}", name)
            numbers = layer.activation.value.numbers(drives[unit], value)
        return Equation(name, name, Term(symbols, value, numbers), value)

    def example_loss(self, n: int) -> Equation:
        loss, value = self.network.loss, float(self.seen["losses"][n])
        outputs = [float(v) for v in self.seen[f"a.{len(self.network.layers) - 1}"][n]]
        targets = [float(v) for v in self.network.targets[n]]
        symbols = loss.symbols(self.network.target_names, self.network.output_names)
        name = "L" if self.network.examples == 1 else f"L_{n + 1}"
        return Equation("loss", name, Term(symbols, value, loss.numbers(targets, outputs)), value)

    def mean_loss(self, examples: Sequence[Example]) -> Equation:
        value = float(self.seen["loss"])
        if len(examples) == 1:
            return examples[0].loss
        terms = Sum([Term(example.loss.symbol, example.loss.value) for example in examples])
        count = len(examples)
        written = Term(f"({terms.symbols})/{count}", terms.value / count, f"({terms.numbers})/{count}")
        return Equation("loss", "L", written, value)

    # Local derivatives.
    def slopes(self, n: int) -> list[Equation]:
        """∂L/∂ŷ of every output."""
        loss, last = self.network.loss, len(self.network.layers) - 1
        divisor = loss.divisor(self.network.examples, len(self.network.output_names))
        found = []
        for unit, (y, p) in enumerate(zip(self.network.target_names, self.network.output_names, strict=True)):
            value = float(self.seen[f"d a.{last}"][n, unit])
            target, output = float(self.network.targets[n, unit]), float(self.seen[f"a.{last}"][n, unit])
            written = loss.slope(target, operand(target), operand(output), divisor)
            found.append(Equation(p, f"∂L/∂{p}", Term(loss.slope(None, y, p, divisor), value, written), value))
        return found

    def local_equations(self, k: int, n: int) -> list[Equation]:
        layer, before = self.network.layers[k], self.units_before(k)
        found = [
            self.activation_slope(k, n, unit, by) for by in range(len(layer.units)) for unit in self.reached(k, by)
        ]
        for unit, name in enumerate(layer.units):
            for place, source in enumerate(before):
                weight, x = layer.weight_names[unit][place], float(self.before(k)[n, place])
                found.append(Equation(weight, f"∂z_{name}/∂{weight}", Term(source, x), x))
            if layer.biases is not None:
                bias = layer.bias_names[unit]
                found.append(Equation(bias, f"∂z_{name}/∂{bias}", Term("1", 1.0), 1.0))
        if k:
            for unit, name in enumerate(layer.units):
                for place, source in enumerate(before):
                    weight, w = layer.weight_names[unit][place], float(self.weights(k)[unit, place])
                    found.append(Equation(source, f"∂z_{name}/∂{source}", Term(weight, w), w))
        return found

    def activation_slope(self, k: int, n: int, unit: int, by: int) -> Equation:
        layer, value = self.network.layers[k], self.local(k, n, unit, by)
        name, z = layer.units[unit], f"z_{layer.units[by]}"
        activations = [float(v) for v in self.seen[f"a.{k}"][n]]
        if isinstance(layer.activation, Softmax):
            symbols = layer.activation.derivative(name, None if unit == by else layer.units[by])
            numbers = layer.activation.derivative(
                number(activations[unit]), None if unit == by else number(activations[by])
            )
        else:
            symbols = layer.activation.derivative.symbols(z, name)
            numbers = layer.activation.derivative.numbers(float(self.seen[f"z.{k}"][n, unit]), activations[unit])
        return Equation(name, f"∂{name}/∂{z}", Term(symbols, value, numbers), value)

    # The chain rule.
    def toward_loss(self, k: int, n: int, unit: int) -> Expression:
        """∂L/∂a of a unit: of an output as it stands, otherwise the sum over the paths through the next layer."""
        if k == len(self.network.layers) - 1:
            slope = float(self.seen[f"d a.{k}"][n, unit])
            return Term(f"∂L/∂{self.network.output_names[unit]}", slope)
        following = self.network.layers[k + 1]
        paths = []
        for place, name in enumerate(following.units):
            delta = Term(f"δ_{name}", float(self.seen[f"d z.{k + 1}"][n, place]))
            weight = Term(following.weight_names[place][unit], float(self.weights(k + 1)[place, unit]))
            paths.append(product(delta, weight))
        return total(paths)

    def delta(self, k: int, n: int, by: int) -> Expression:
        """∂L/∂z of a unit: what comes back to every activation that its z reaches, times the local derivative."""
        place, layer = (k, n, by), self.network.layers[k]
        if place not in self.known_deltas:
            paths = []
            for unit in self.reached(k, by):
                symbol = f"∂{layer.units[unit]}/∂z_{layer.units[by]}"
                local = Term(symbol, self.local(k, n, unit, by))
                paths.append(product(self.toward_loss(k, n, unit), local, dot=" · "))
            self.known_deltas[place] = total(paths)
        return self.known_deltas[place]

    def delta_equation(self, k: int, n: int, unit: int) -> Equation:
        name = self.network.layers[k].units[unit]
        return Equation(name, f"δ_{name}", self.delta(k, n, unit), float(self.seen[f"d z.{k}"][n, unit]))

    def learning(self, k: int) -> Iterator[tuple[Equation, Equation]]:
        """Gradient and update of every weight and bias of a layer."""
        layer, first = self.network.layers[k], self.first_parameter[k]
        for unit, name in enumerate(layer.units):
            for place, source in enumerate(layer.weight_names[unit]):
                inputs = [float(x) for x in self.before(k)[:, place]]
                yield self.learned(
                    first, (unit, place), source, self.over_examples(k, unit, f"∂z_{name}/∂{source}", inputs)
                )
            if layer.biases is not None:
                source, ones = layer.bias_names[unit], [1.0] * self.network.examples
                yield self.learned(
                    first + 1, (unit,), source, self.over_examples(k, unit, f"∂z_{name}/∂{source}", ones)
                )

    def over_examples(self, k: int, unit: int, symbol: str, lasts: Sequence[float]) -> Expression:
        """The chain-rule product that ends in ∂z/∂w, summed over the examples."""
        terms = [product(self.delta(k, n, unit), Term(symbol, last), dot=" · ") for n, last in enumerate(lasts)]
        return total(terms, f"Σ {terms[0].symbols}")

    def learned(
        self, parameter: int, place: tuple[int, ...], name: str, expression: Expression
    ) -> tuple[Equation, Equation]:
        value, slope, updated = (
            float(self.seen[f"{what}parameters.{parameter}"][place]) for what in ("", "d ", "new ")
        )
        gradient = Equation(name, f"∂L/∂{name}", expression, slope)
        rate = self.network.learning_rate
        written = Term(
            f"{name} − η·{gradient.symbol}",
            value - rate * slope,
            f"{number(value)} − ({number(rate)})({number(slope)})",
        )
        return gradient, Equation(name, name, written, updated, relation="←")


def explain(network: Network, seen: Mapping[str, NDArray], number: int) -> TrainingStep:
    """The equations of the step in which these arrays were seen.

    They are named ``parameters.0``, ``z.0``, ``a.0``, ``local.0`` and so on, ``losses`` and ``loss``; ``d …`` are cotangents and
    ``new …`` the parameters after the step.
    """
    return _Explanation(network, seen).step(number)
