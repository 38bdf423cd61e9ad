"""A training step as plain text for a terminal or a file, and as data for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

from chainrule.insight.explanation import Example, TrainingStep
from chainrule.insight.expressions import Equation, number
from chainrule.insight.network import Network
from chainrule.insight.training_step import Learning, Row

_ASCII = {
    "½·": "1/2*", "½": "1/2*", "√2": "sqrt(2)", "√": "sqrt", "²": "^2", "·": "*", "−": "-", "→": "->", "←": "<-",
    "ŷ": "yhat", "∂": "d", "δ": "delta", "η": "eta", "Σ": "sum", "π": "pi", "…": "...",
}  # fmt: skip
_FEW_NAMES = 8
_ALL_ROWS = 30
_DEEPEST = 3  # pairs of parentheses within which a formula may be broken


def as_ascii(text: str) -> str:
    """The same text with ASCII signs: ``∂L/∂ŷ`` becomes ``dL/dyhat``."""
    for sign, spelled in _ASCII.items():
        text = text.replace(sign, spelled)
    return text.encode("ascii", "backslashreplace").decode("ascii")


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


def step_lines(step: TrainingStep, width: int) -> Iterator[str]:
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


def _broken(text: str, width: int, depth: int = 0) -> list[str]:
    """A formula in pieces of at most ``width`` characters, broken before operators: outside parentheses as far as possible."""
    lines: list[str] = []
    for piece in _pieces(text, depth):
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += f" {piece}"
        elif len(piece) > width and depth < _DEEPEST:
            lines += _broken(piece, width, depth + 1)
        else:
            lines.append(piece)
    return lines


def _pieces(text: str, depth: int) -> Iterator[str]:
    """The text cut before every operator that stands in at most ``depth`` pairs of parentheses."""
    start, opened = 0, 0
    for place, char in enumerate(text):
        opened += (char == "(") - (char == ")")
        if char == " " and opened <= depth and text[place + 1 : place + 3] in ("+ ", "− ", "· "):
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _FEW_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:2])} … {names[-1]}"


def table_lines(network: Network, rows: Sequence[Row], width: int) -> Iterator[str]:
    """Loss and outputs at the beginning of steps; many are thinned out, and columns beyond ``width`` left out and counted."""
    heads = ["step", "L", *_output_labels(network)]
    chosen = _thinned(rows)
    cells = [[str(row.step), number(row.loss), *(number(float(v)) for v in row.outputs.ravel())] for row in chosen]
    widths = [max(len(text) for text in column) for column in zip(heads, *cells, strict=True)]
    shown = len(widths)
    while shown > 2 and 2 * shown + sum(widths[:shown]) > width:
        shown -= 1
    for line in (heads, *cells):
        yield "".join(f"  {text:>{size}}" for text, size in zip(line[:shown], widths))
    notes = [f"{len(chosen)} of {len(rows)} steps"] if len(chosen) < len(rows) else []
    missing = len(widths) - shown
    notes += [f"{missing} more output{'s do' if missing > 1 else ' does'} not fit"] if missing else []
    if notes:
        yield f"  ({'; '.join(notes)})"


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """All of a few; of many the first ten, then 20, 50, 100, 200, 500 and so on, and the last."""
    if len(rows) <= _ALL_ROWS:
        return list(rows)
    last = rows[-1].step
    return [row for row in rows if row.step <= 10 or row.step == last or str(row.step).rstrip("0") in ("1", "2", "5")]


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


def learning_data(name: str, network: Network, learning: Learning, steps: Sequence[TrainingStep]) -> dict[str, Any]:
    """All that the command shows: the network, the steps in full, the loss and outputs before every step, and the end."""
    return {
        "file": name,
        "title": network.title,
        "loss": network.loss.name,
        "learning_rate": network.learning_rate,
        "layers": [
            {"name": layer.name, "units": list(layer.units), "activation": layer.activation.name}
            for layer in network.layers
        ],
        "steps": [step_data(step) for step in steps],
        "history": [{"step": row.step, "loss": row.loss, "outputs": row.outputs.tolist()} for row in learning.rows],
        "after": {
            "steps": len(learning.rows),
            "loss": learning.loss,
            "outputs": learning.outputs.tolist(),
            "until": learning.until,
            "reached": learning.reached,
        },
    }


def conclusion(network: Network, learning: Learning, width: int) -> list[str]:
    """The loss after the last step, whether it is small enough, and the outputs unless they are many."""
    count = len(learning.rows)
    text = f"After {count} step{'' if count == 1 else 's'}: L = {number(learning.loss)}"
    if learning.until is not None:
        text += f", {'below' if learning.reached else 'not yet below'} {number(learning.until)}"
    if learning.outputs.size > _FEW_NAMES:
        return [text]
    values = zip(_output_labels(network), learning.outputs.ravel(), strict=True)
    outputs = [f"{label} = {number(float(value))}".replace(" ", "\0") for label, value in values]
    lines = wrap(", ".join(outputs), width, initial_indent="  ", subsequent_indent="  ")
    return [text, *(line.replace("\0", " ") for line in lines)]


def _output_labels(network: Network) -> list[str]:
    """The outputs example by example, numbered where there are several examples."""
    names, count = network.output_names, network.examples
    return [f"{name}[{n}]" if count > 1 else name for n in range(1, count + 1) for name in names]


def equation_data(equation: Equation) -> dict[str, Any]:
    return {
        "of": equation.of,
        "symbol": equation.symbol,
        "formula": equation.expression.symbols,
        "numbers": equation.expression.numbers,
        "value": equation.value,
    }
