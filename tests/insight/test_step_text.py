"""How a step is laid out: nothing is lost, formulas break at their signs, ASCII is ASCII."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrule.insight.expressions import Equation, Sum, Term, number, product, total
from chainrule.insight.network_file import read_network
from chainrule.insight.step_text import as_ascii, equation_lines, step_lines
from chainrule.insight.training_step import StepProgram

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"),
        (-0.0, "0"),
        (1 / 3, "0.333333333"),
        (1e-5, "1e-05"),
        (2.0, "2"),
        (-123456789.6, "-123456790"),
    ],
)
def test_numbers_have_nine_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_expressions_are_written_with_symbols_and_with_numbers() -> None:
    paths = total([product(Term("δ1", 0.5), Term("v1", -2.0)), product(Term("δ2", 1.5), Term("v2", 3.0))])
    chain = product(paths, product(Term("f", 0.25), Term("x", -1.0)), dot=" · ")
    assert chain.symbols == "(δ1·v1 + δ2·v2) · f · x"
    assert chain.numbers == "((0.5)(-2) + (1.5)(3))(0.25)(-1)"
    assert chain.value == -0.875


def test_a_negative_term_of_a_sum_is_subtracted() -> None:
    assert Sum([Term("a", -1.0), Term("b", -2.0), Term("c", 3.0)]).numbers == "-1 − 2 + 3"


LONG = Equation(
    "w", "∂L/∂w", total([product(Term(f"first{k}", 1.5), Term(f"second{k}", -0.25)) for k in range(6)]), -2.25
)


def test_an_equation_that_fits_stands_on_one_line() -> None:
    [line] = equation_lines(LONG, 300)
    assert line.startswith("  ∂L/∂w = first0·second0 + first1·second1 + ")
    assert line.endswith("(1.5)(-0.25) = -2.25")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_an_equation_that_does_not_fit_is_stacked_and_breaks_before_its_signs(width: int) -> None:
    lines = equation_lines(LONG, width)
    assert max(map(len, lines)) <= width
    assert sum(" = " in line for line in lines) == 3
    assert all(line.lstrip()[0] in "=+∂" for line in lines)
    assert " ".join(" ".join(lines).split()) == " ".join(equation_lines(LONG, 1000)[0].split())


def test_a_break_stands_outside_parentheses_where_it_can() -> None:
    pair = total([product(Term("a", 1.0), Term("b", 2.0)), product(Term("c", 3.0), Term("d", 4.0))])
    equation = Equation("w", "g", total([product(pair, Term("e", 5.0)), product(pair, Term("f", 6.0))]), 154.0)
    assert equation_lines(equation, 30) == [
        "  g = (a·b + c·d)·e",
        "      + (a·b + c·d)·f",
        "    = ((1)(2) + (3)(4))(5)",
        "      + ((1)(2) + (3)(4))(6)",
        "    = 154",
    ]


@pytest.mark.parametrize("name", ["worked_1", "worked_2", "worked_3", "xor"])
def test_lines_keep_to_the_width_and_lose_nothing(name: str) -> None:
    network = read_network(EXAMPLES / f"{name}.toml")
    step = StepProgram(network).explain(network.parameters(), 1)
    narrow, wide = list(step_lines(step, 80)), list(step_lines(step, 10_000))
    assert max(map(len, narrow)) <= 80
    assert len(narrow) > len(wide)
    assert " ".join(" ".join(narrow).split()) == " ".join(" ".join(wide).split())


def test_ascii_has_no_other_signs() -> None:
    assert as_ascii("∂L/∂ŷ = ½(y − ŷ)² ← η·δ_h → Σ √2 √(2π)") == (
        "dL/dyhat = 1/2*(y - yhat)^2 <- eta*delta_h -> sum sqrt(2) sqrt(2pi)"
    )
    assert as_ascii("½·z") == "1/2*z"
    assert as_ascii("α") == "\\u03b1"
