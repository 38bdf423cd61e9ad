"""Every number of a printed step against SymPy, and against the arithmetic that is printed beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy

from chainrule.core.errors import NonFiniteError
from chainrule.insight.activations import ACTIVATIONS
from chainrule.insight.explanation import TrainingStep
from chainrule.insight.expressions import Equation, number
from chainrule.insight.losses import LOSSES
from chainrule.insight.network import Network
from chainrule.insight.network_file import parse_network, read_network
from chainrule.insight.training_step import StepProgram, learn

EXAMPLES = Path(__file__).parents[2] / "examples"


def explained(network: Network) -> TrainingStep:
    return StepProgram(network).explain(network.parameters(), 1)


def equations(step: TrainingStep) -> Iterator[Equation]:
    for example in step.examples:
        yield from (*example.given, *example.forward, example.loss, *example.local, *example.deltas)
    yield from (step.loss, *step.gradients, *step.updates)


def values(step: TrainingStep) -> dict[str, float]:
    """By symbol, for a single example; ``new w1`` are the updated parameters."""
    found = {(f"new {e.symbol}" if e.relation == "←" else e.symbol): e.value for e in equations(step)}
    return found


# --- worked example 1, by hand and by SymPy ---------------------------------------------------------------------------


def test_worked_example_1_has_the_numbers_worked_out_by_hand() -> None:
    found = values(explained(read_network(EXAMPLES / "worked_1.toml")))
    shown = {name: number(found[name]) for name in ("h", "ŷ", "L", "∂L/∂w2", "∂L/∂w1", "new w1", "new w2")}
    assert shown == {
        "h": "0.549833997",
        "ŷ": "0.581735142",
        "L": "0.0874727457",
        "∂L/∂w2": "-0.0559576727",
        "∂L/∂w1": "-0.00755707256",
        "new w1": "0.403778536",
        "new w2": "0.627978836",
    }


def test_worked_example_1_against_sympy() -> None:
    w1, w2, zh, zy, h, p = sympy.symbols("w1 w2 zh zy h p")
    sigmoid = lambda t: 1 / (1 + sympy.exp(-t))  # noqa: E731
    at = {w1: sympy.Rational(2, 5), w2: sympy.Rational(3, 5)}
    hidden = sigmoid(w1 / 2)
    output = sigmoid(w2 * hidden)
    loss = (1 - output) ** 2 / 2
    numbers = {h: hidden.subs(at), p: output.subs(at), zh: sympy.Rational(1, 5), zy: (w2 * hidden).subs(at)}
    expected = {
        "z_h": numbers[zh],
        "h": numbers[h],
        "z_ŷ": numbers[zy],
        "ŷ": numbers[p],
        "L": loss.subs(at),
        "∂L/∂ŷ": sympy.diff((1 - p) ** 2 / 2, p).subs(numbers),
        "∂ŷ/∂z_ŷ": sympy.diff(sigmoid(zy), zy).subs(numbers),
        "∂h/∂z_h": sympy.diff(sigmoid(zh), zh).subs(numbers),
        "∂z_ŷ/∂w2": numbers[h],
        "∂z_ŷ/∂h": at[w2],
        "∂z_h/∂w1": sympy.Rational(1, 2),
        "δ_ŷ": (sympy.diff((1 - sigmoid(zy)) ** 2 / 2, zy)).subs(numbers),
        "δ_h": sympy.diff((1 - sigmoid(w2 * sigmoid(zh))) ** 2 / 2, zh).subs({zh: numbers[zh], **at}),
        "∂L/∂w1": sympy.diff(loss, w1).subs(at),
        "∂L/∂w2": sympy.diff(loss, w2).subs(at),
        "new w1": (w1 - sympy.diff(loss, w1) / 2).subs(at),
        "new w2": (w2 - sympy.diff(loss, w2) / 2).subs(at),
    }
    found = values(explained(read_network(EXAMPLES / "worked_1.toml")))
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(sympy.N(value, 30)), rel=1e-13), name
    assert set(found) == {*expected, "x", "y"}


def test_worked_example_1_spells_out_the_chain_rule() -> None:
    step = explained(read_network(EXAMPLES / "worked_1.toml"))
    assert [equation.sides() for equation in step.gradients] == [
        [
            "∂L/∂w1",
            "δ_ŷ · w2 · ∂h/∂z_h · ∂z_h/∂w1",
            "(-0.10177194)(0.6)(0.247516573)(0.5)",
            "-0.00755707256",
        ],
        [
            "∂L/∂w2",
            "∂L/∂ŷ · ∂ŷ/∂z_ŷ · ∂z_ŷ/∂w2",
            "(-0.418264858)(0.243319367)(0.549833997)",
            "-0.0559576727",
        ],
    ]


# --- worked example 2: every intermediate quantity --------------------------------------------------------------------


def test_worked_example_2_against_sympy() -> None:
    w11, w12, b1, w21, w22, b2, v1, v2, c = parameters = sympy.symbols("w11 w12 b1 w21 w22 b2 v1 v2 c")
    decimal = lambda text: sympy.Rational(text)  # noqa: E731
    x1, x2, y, rate = decimal("0.05"), decimal("0.1"), decimal("0.9"), decimal("0.5")
    at = dict(
        zip(
            parameters, map(decimal, ["0.15", "0.2", "0.35", "0.25", "0.3", "-0.2", "0.4", "-0.45", "0.6"]), strict=True
        )
    )
    sigmoid = lambda t: 1 / (1 + sympy.exp(-t))  # noqa: E731
    zh1, zh2, zy = sympy.symbols("zh1 zh2 zy")
    drive1, drive2 = w11 * x1 + w12 * x2 + b1, w21 * x1 + w22 * x2 + b2
    from_z = v1 * sigmoid(zh1) + v2 * sigmoid(zh2) + c
    loss_from_z = (y - sigmoid(from_z)) ** 2
    loss = loss_from_z.subs({zh1: drive1, zh2: drive2})
    drives = {zh1: drive1.subs(at), zh2: drive2.subs(at)}
    h1, h2, z = sigmoid(drives[zh1]), sigmoid(drives[zh2]), from_z.subs(drives).subs(at)
    output = sigmoid(z)
    expected: dict[str, Any] = {
        "z_h1": drives[zh1], "z_h2": drives[zh2], "h1": h1, "h2": h2, "z_ŷ": z, "ŷ": output, "L": (y - output) ** 2,
        "∂L/∂ŷ": 2 * (output - y), "∂ŷ/∂z_ŷ": sympy.diff(sigmoid(zy), zy).subs(zy, z),
        "∂h1/∂z_h1": sympy.diff(sigmoid(zh1), zh1).subs(drives), "∂h2/∂z_h2": sympy.diff(sigmoid(zh2), zh2).subs(drives),
        "∂z_ŷ/∂h1": at[v1], "∂z_ŷ/∂h2": at[v2], "∂z_ŷ/∂v1": h1, "∂z_ŷ/∂v2": h2, "∂z_ŷ/∂c": 1,
        "∂z_h1/∂w11": x1, "∂z_h1/∂w12": x2, "∂z_h1/∂b1": 1, "∂z_h2/∂w21": x1, "∂z_h2/∂w22": x2, "∂z_h2/∂b2": 1,
        "δ_ŷ": sympy.diff((y - sigmoid(zy)) ** 2, zy).subs(zy, z),
        "δ_h1": sympy.diff(loss_from_z, zh1).subs(drives).subs(at),
        "δ_h2": sympy.diff(loss_from_z, zh2).subs(drives).subs(at),
    }  # fmt: skip
    for parameter in parameters:
        slope = sympy.diff(loss, parameter).subs(at)
        expected[f"∂L/∂{parameter}"] = slope
        expected[f"new {parameter}"] = at[parameter] - rate * slope
    found = values(explained(read_network(EXAMPLES / "worked_2.toml")))
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(sympy.N(value, 30)), rel=1e-13), name
    assert set(found) == {*expected, "x1", "x2", "y"}


def test_worked_example_2_is_trained_until_the_error_is_small() -> None:
    network = read_network(EXAMPLES / "worked_2.toml")
    learning = learn(StepProgram(network), 5000, network.stop_below)
    assert learning.reached
    assert learning.loss < 1e-6 <= learning.rows[-1].loss
    assert abs(learning.outputs[0, 0] - 0.9) < 1e-3
    losses = [row.loss for row in learning.rows]
    assert losses == sorted(losses, reverse=True)


def test_xor_is_learned() -> None:
    network = read_network(EXAMPLES / "xor.toml")
    learning = learn(StepProgram(network), 5000, network.stop_below)
    assert learning.reached
    np.testing.assert_array_equal(np.round(learning.outputs[:, 0]), [0, 1, 1, 0])
    assert np.abs(learning.outputs[:, 0] - [0, 1, 1, 0]).max() < 0.02


# --- every activation and loss ----------------------------------------------------------------------------------------

SYMBOLIC = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + sympy.exp(-z)),
    "tanh": sympy.tanh,
    "relu": lambda z: sympy.Max(0, z),
    "leaky_relu": lambda z: sympy.Piecewise((z, z > 0), (sympy.Rational(1, 100) * z, True)),
    "softplus": lambda z: sympy.log(1 + sympy.exp(z)),
    "silu": lambda z: z / (1 + sympy.exp(-z)),
    "gelu": lambda z: z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2,
}
SYMBOLIC_LOSS = {
    "half_squared_error": lambda ys, ps: sum((y - p) ** 2 for y, p in zip(ys, ps, strict=True)) / 2,
    "mean_squared_error": lambda ys, ps: sum((y - p) ** 2 for y, p in zip(ys, ps, strict=True)) / len(ys),
    "mean_absolute_error": lambda ys, ps: sum(sympy.Abs(y - p) for y, p in zip(ys, ps, strict=True)) / len(ys),
    "binary_cross_entropy": lambda ys, ps: (
        -sum(y * sympy.log(p) + (1 - y) * sympy.log(1 - p) for y, p in zip(ys, ps, strict=True)) / len(ys)
    ),
    "cross_entropy": lambda ys, ps: -sum(y * sympy.log(p) for y, p in zip(ys, ps, strict=True)),
}


def layered(hidden: str, output: str, loss: str, targets: list[list[float]]) -> Network:
    return parse_network(
        {
            "inputs": [[0.8, -1.1], [-0.4, 0.7]],
            "targets": targets,
            "loss": loss,
            "learning_rate": 0.3,
            "layers": [
                {"activation": hidden, "weights": [[0.7, -0.9], [-0.6, 0.5]], "biases": [0.1, -0.2]},
                {"activation": output, "weights": [[0.9, -0.3], [0.2, 0.8]]},
            ],
        },
        "made up",
    )


def symbolic_gradients(network: Network, hidden: str, output: str, loss: str) -> list[float]:
    """∂L/∂w of every parameter in order, by symbolic differentiation."""
    symbols: list[sympy.Symbol] = []

    def symbolic(array: Any) -> Any:
        made = np.array([sympy.Symbol(f"p{len(symbols) + k}", real=True) for k in range(array.size)]).reshape(
            array.shape
        )
        symbols.extend(made.ravel())
        return made

    def activate(name: str, zs: list[Any]) -> list[Any]:
        if name == "softmax":
            return [sympy.exp(z) / sum(map(sympy.exp, zs)) for z in zs]
        return [SYMBOLIC[name](z) for z in zs]

    arrays = network.parameters()
    w, b, v = (symbolic(array) for array in arrays)
    total = 0
    for x, y in zip(network.inputs, network.targets, strict=True):
        h = activate(
            hidden, [sum(wi * xi for wi, xi in zip(row, x, strict=True)) + bj for row, bj in zip(w, b, strict=True)]
        )
        p = activate(output, [sum(vi * hi for vi, hi in zip(row, h, strict=True)) for row in v])
        total += SYMBOLIC_LOSS[loss](list(y), p)
    total /= len(network.inputs)
    at = dict(zip(symbols, np.concatenate([array.ravel() for array in arrays]), strict=True))
    # In the order of the equations: unit by unit, weights before the bias.
    order = [w[0, 0], w[0, 1], b[0], w[1, 0], w[1, 1], b[1], *v.ravel()]
    return [float(sympy.diff(total, symbol).subs(at).doit().evalf(25)) for symbol in order]


CASES = [
    *((name, "identity", "half_squared_error", [[0.5, 0.1], [-1.0, 0.3]]) for name in SYMBOLIC),
    *(("tanh", name, "mean_squared_error", [[0.5, 0.1], [-1.0, 0.3]]) for name in SYMBOLIC),
    ("tanh", "identity", "mean_absolute_error", [[0.5, 0.1], [-1.0, 0.3]]),
    ("tanh", "sigmoid", "binary_cross_entropy", [[1.0, 0.0], [0.25, 0.5]]),
    ("softplus", "softmax", "cross_entropy", [[1.0, 0.0], [0.25, 0.75]]),
    ("tanh", "softmax", "half_squared_error", [[1.0, 0.0], [0.25, 0.75]]),
    ("softmax", "identity", "mean_squared_error", [[0.5, 0.1], [-1.0, 0.3]]),
]


def test_the_cases_cover_every_activation_and_loss() -> None:
    assert {name for case in CASES for name in case[:2]} == set(ACTIVATIONS)
    assert {case[2] for case in CASES} == set(LOSSES)


@pytest.mark.parametrize(("hidden", "output", "loss", "targets"), CASES)
def test_gradients_against_sympy(hidden: str, output: str, loss: str, targets: list[list[float]]) -> None:
    network = layered(hidden, output, loss, targets)
    found = [equation.value for equation in explained(network).gradients]
    np.testing.assert_allclose(found, symbolic_gradients(network, hidden, output, loss), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("hidden", "output", "loss", "targets"), CASES)
def test_the_formula_shown_gives_the_value_that_the_graph_has(
    hidden: str, output: str, loss: str, targets: list[list[float]]
) -> None:
    for equation in equations(explained(layered(hidden, output, loss, targets))):
        assert equation.expression.value == pytest.approx(equation.value, rel=1e-12, abs=1e-15), equation


@pytest.mark.parametrize(("hidden", "output", "loss", "targets"), CASES)
def test_the_printed_arithmetic_is_right(hidden: str, output: str, loss: str, targets: list[list[float]]) -> None:
    step = explained(layered(hidden, output, loss, targets))
    for equation in equations(step):
        assert calculated(equation.expression.numbers) == pytest.approx(equation.value, rel=2e-7, abs=1e-9), equation


@pytest.mark.parametrize("name", ["worked_1", "worked_2", "worked_3", "xor"])
def test_the_printed_arithmetic_of_the_examples_is_right(name: str) -> None:
    for equation in equations(explained(read_network(EXAMPLES / f"{name}.toml"))):
        assert calculated(equation.expression.numbers) == pytest.approx(equation.value, rel=2e-7, abs=1e-9), equation


def calculated(text: str) -> float:
    """The value of printed arithmetic, as somebody with a calculator would find it."""
    python = text.replace("½·", "0.5*").replace("½", "0.5*").replace("·", "*").replace("−", "-").replace("²", "**2")
    python = python.replace("√(2π)", "sqrt(2*pi)").replace("√2", "sqrt(2)").replace("e^(", "exp(")
    python = re.sub(r"\|([^|]*)\|", r"abs(\1)", python)
    python = re.sub(r"(?<=[\d)])\((?=[^)])", "*(", python)
    known = {"sign": np.sign, "ln": math.log, "max": max, "abs": abs, "pi": math.pi}
    known |= {name: getattr(math, name) for name in ("tanh", "erf", "sqrt")}
    known["exp"] = lambda x: math.exp(x) if x < 700 else math.inf
    return float(eval(python, {"__builtins__": {}}, known))


def test_the_calculator_of_these_tests_can_tell_right_from_wrong() -> None:
    assert calculated("½(1 − 0.5)² + (0.4)(-0.5) − 0.3") == pytest.approx(-0.375)
    assert calculated("0.58(1 − 0.58)") == pytest.approx(0.2436)
    assert calculated("−(-0.2)²/2") == pytest.approx(-0.02)
    assert calculated("½·(-2)·(1 + erf((-2)/√2))") == pytest.approx(-2 * 0.02275013194817922)


# --- at the edges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.2)])
def test_at_a_kink_the_derivative_is_the_one_from_below(activation: str, slope: float) -> None:
    layer: dict[str, Any] = {"activation": activation, "weights": [[1.0, -1.0]]}
    if activation == "leaky_relu":
        layer["slope"] = slope
    settings = {
        "inputs": [0.5, 0.5],
        "targets": [1.0],
        "loss": "half_squared_error",
        "learning_rate": 1,
        "layers": [layer],
    }
    found = values(explained(parse_network(settings, "made up")))
    assert found["∂ŷ/∂z_ŷ"] == slope


def test_a_saturated_right_answer_costs_nothing_and_has_finite_derivatives() -> None:
    settings = {
        "inputs": [[1.0], [-1.0]],
        "targets": [[1], [0]],
        "loss": "binary_cross_entropy",
        "learning_rate": 1,
        "layers": [{"activation": "sigmoid", "weights": [[800.0]]}],
    }
    step = explained(parse_network(settings, "made up"))
    assert step.loss.value == 0
    assert [equation.value for equation in step.gradients] == [0.0]
    for equation in equations(step):
        assert calculated(equation.expression.numbers) == pytest.approx(equation.value), equation


def test_weights_that_overflow_stop_with_the_layer_named() -> None:
    settings = {
        "inputs": [3.0],
        "targets": [0.0],
        "loss": "mean_absolute_error",
        "learning_rate": 1e200,
        "layers": [
            {"name": "deep", "activation": "identity", "weights": [[2.0]]},
            {"name": "top", "activation": "identity", "weights": [[2.0]]},
        ],
    }
    program = StepProgram(parse_network(settings, "made up"))
    begun: list[int] = []
    with pytest.raises(
        NonFiniteError, match=r"^step 2 gives numbers that are not finite, first in 'top' by the operation"
    ) as e:
        learn(program, 100, None, lambda number, parameters: begun.append(number))
    assert "smaller learning_rate" in str(e.value)
    assert begun == [1]


def test_a_single_step_stops_too_when_what_follows_overflows() -> None:
    settings = {
        "inputs": [1.0], "targets": [0.0], "loss": "half_squared_error", "learning_rate": 1e200,
        "layers": [{"name": "only", "activation": "identity", "weights": [[2.0]]}],
    }  # fmt: skip
    with pytest.raises(
        NonFiniteError, match=r"^the forward pass after step 1 gives numbers that are not finite, first in 'loss'"
    ):
        learn(StepProgram(parse_network(settings, "made up")), 1, None)


def test_repeating_agrees_with_the_steps_in_full() -> None:
    network = read_network(EXAMPLES / "worked_3.toml")
    program = StepProgram(network)
    parameters, steps = network.parameters(), []
    for step in range(1, 4):
        steps.append(program.explain(parameters, step))
        parameters = program.run(parameters).parameters
    learning = learn(program, 3, None)
    assert [row.loss for row in learning.rows] == [step.loss.value for step in steps]
    updated = [equation.value for equation in program.explain(learning.last, 3).updates]
    assert updated == [equation.value for equation in steps[-1].updates]
