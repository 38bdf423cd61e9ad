"""A training step as plain text for a terminal or a file, and as data for JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from chainrule.insight.explanation import Example, TrainingStep
from chainrule.insight.expressions import Equation, number
from chainrule.insight.network import Network

_ASCII = {
    "ŷ": "yhat", "∂": "d", "δ": "delta", "η": "eta", "Σ": "sum", "σ": "sigma", "π": "pi", "√": "sqrt", "½": "1/2*",
    "²": "^2", "·": "*", "−": "-", "→": "->", "←": "<-", "…": "...", "×": "x",
}  # fmt: skip
_FEW_NAMES = 8
_BREAK = re.compile(r" (?=[+−·] )")


def as_ascii(text: str) -> str:
    """The same text with ASCII signs: ``∂L/∂ŷ`` becomes ``dL/dyhat``."""
    return text.translate(str.maketrans(_ASCII)).encode("ascii", "backslashreplace").decode("ascii")


def introduction(network: Network, name: str) -> list[str]:
    """What is trained, on what, by which loss and at which rate."""
    shape = [_listed(network.input_names)]
    shape += [f"{_listed(layer.units)} ({layer.activation.name})" for layer in network.layers]
    written = network.loss.symbols(network.target_names, network.output_names)
    count = network.examples
    over = f"; L is the mean over the {count} examples" if count > 1 else ""
    symbol = "L_n" if count > 1 else "L"
    return [
        f"{name}: {network.title}" if network.title else name,
        f"  network        {' → '.join(shape)}",
        f"  loss           {network.loss.title}, {symbol} = {written}{over}",
        f"  learning rate  η = {number(network.learning_rate)}",
    ]


def step_lines(step: TrainingStep, network: Network, width: int) -> Iterator[str]:
    """One step in full. No line is longer than ``width`` unless it holds a single factor; formulas break at their signs."""
    several = len(step.examples) > 1
    for example in step.examples:
        if several:
            yield ""
            given = ", ".join(f"{equation.symbol} = {number(equation.value)}" for equation in example.given)
            yield f"Example {example.number} of {len(step.examples)}: {given}"
        yield from _example_lines(example, several, width)
    if several:
        yield from _section("Loss: the mean over the examples", [step.loss], width)
    sums = f", summed over the {len(step.examples)} examples" if several else ""
    yield from _section(f"Gradients by the chain rule{sums}", step.gradients, width)
    yield from _section("Update: w ← w − η·∂L/∂w", step.updates, width)


def _example_lines(example: Example, several: bool, width: int) -> Iterator[str]:
    given = [] if several else example.given
    yield from _section("Forward pass", [*given, *example.forward], width)
    yield from _section("Loss of this example" if several else "Loss", [example.loss], width)
    yield from _section("Local derivatives", example.local, width)
    yield from _section("Deltas, δ = ∂L/∂z, from the last layer to the first", example.deltas, width)


def _section(title: str, equations: Sequence[Equation], width: int) -> Iterator[str]:
    yield ""
    yield title
    for equation in equations:
        yield from equation_lines(equation, width)


def equation_lines(equation: Equation, width: int, indent: str = "  ") -> list[str]:
    """``symbol = formula = numbers = value`` on one line where it fits, else with one side below the other."""
    symbol, *sides = equation.sides()
    signs = [equation.relation, *["="] * (len(sides) - 1)]
    line = f"{indent}{symbol}" + "".join(f" {sign} {side}" for sign, side in zip(signs, sides, strict=True))
    if len(line) <= width:
        return [line]
    lines, margin = [], indent + " " * len(symbol)
    for place, (sign, side) in enumerate(zip(signs, sides, strict=True)):
        head = f"{indent}{symbol} {sign} " if place == 0 else f"{margin} {sign} "
        first, *rest = _broken(side, width - len(head))
        lines += [head + first, *(" " * len(head) + text for text in rest)]
    return lines


def _broken(text: str, width: int) -> list[str]:
    """A formula in pieces of at most ``width`` characters, each after the first beginning with an operator."""
    lines: list[str] = []
    for piece in _BREAK.split(text):
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return lines


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _FEW_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:2])} … {names[-1]}"


def table_lines(network: Network, rows: Sequence[tuple[int, float, Any]], every: int, width: int) -> Iterator[str]:
    """Step, loss and outputs before each step; columns that do not fit into ``width`` are left out and counted."""
    several = network.examples > 1
    names = [
        f"{name}[{n + 1}]" if several else name for n in range(network.examples) for name in network.output_names
    ]
    heads = ["step", "L", *names]
    cells = [[str(step), number(loss), *(number(float(v)) for v in outputs.ravel())] for step, loss, outputs in rows]
    widths = [max(len(text) for text in column) for column in zip(heads, *cells, strict=True)]
    shown = len(widths)
    while shown > 2 and 2 * shown + sum(widths[:shown]) > width:
        shown -= 1
    for line in (heads, *cells):
        yield "".join(f"  {text:>{size}}" for text, size in zip(line[:shown], widths))
    notes = [f"{every} steps in all" if len(rows) < every else ""]
    notes.append(f"{len(widths) - shown} more columns of outputs do not fit" if shown < len(widths) else "")
    if any(notes):
        yield f"  ({'; '.join(note for note in notes if note)})"


def step_data(step: TrainingStep) -> dict[str, Any]:
    """The step as JSON shows it; every equation has its symbol, formula, numbers and value."""
    return {
        "step": step.number,
        "loss": step.loss.value,
        "examples": [
            {
                "example": example.number,
                "given": {equation.of: equation.value for equation in example.given},
                "forward": [equation_data(equation) for equation in example.forward],
                "loss": equation_data(example.loss),
                "local_derivatives": [equation_data(equation) for equation in example.local],
                "deltas": [equation_data(equation) for equation in example.deltas],
            }
            for example in step.examples
        ],
        "mean_loss": equation_data(step.loss),
        "gradients": [equation_data(equation) for equation in step.gradients],
        "updates": [equation_data(equation) for equation in step.updates],
    }


def equation_data(equation: Equation) -> dict[str, Any]:
    return {
        "of": equation.of,
        "symbol": equation.symbol,
        "formula": equation.expression.symbols,
        "numbers": equation.expression.numbers,
        "value": equation.value,
    }
