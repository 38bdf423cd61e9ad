"""The tour runs, without a warning, and what it claims comes out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[2] / "docs" / "tour.py"


@pytest.fixture(scope="module")
def sections() -> dict[int, str]:
    """What the tour prints, by the number of the section."""
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", str(TOUR)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    parts = re.split(r"^-+\n(\d)\. .*\n-+\n", run.stdout, flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


def test_the_tour_has_all_its_sections(sections: dict[int, str]) -> None:
    assert list(sections) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_graphs_are_shown_forward_and_backward(sections: dict[int, str]) -> None:
    assert "= tanh(%3) @forward" in sections[1]
    assert "= broadcast(%4)" in sections[2]
    assert sections[2].count("@backward") == 4
    assert "@forward" not in sections[2]


def test_the_hand_derivation_agrees_and_the_mistake_is_found(sections: dict[int, str]) -> None:
    value, *gradients = numbers(sections[2][: sections[2].index("graph")].split("gradient by w:")[1])
    assert [value, *gradients[:2]] == gradients[2:]
    lines = sections[3].splitlines()
    assert [("agree" in line, "differ:" in line) for line in lines[:4]] == [
        (True, False),
        (True, False),
        (False, True),
        (True, False),
    ]


def test_worked_example_1(sections: dict[int, str]) -> None:
    assert "L = 0.0874727457   ∂L/∂w1 = -0.00755707256   ∂L/∂w2 = -0.0559576727" in sections[4]


def test_xor_is_learned(sections: dict[int, str]) -> None:
    outputs = numbers(sections[5].split("outputs:")[1].split("]")[0])
    assert [round(output) for output in outputs] == [0, 1, 1, 0]
    assert "its input x is f64[B, 2]" in sections[5]


def test_feedback_alignment_changes_only_what_lies_before_it_and_learns(sections: dict[int, str]) -> None:
    differences = dict(re.findall(r"(layers\S+) +largest difference of the gradients (\S+)", sections[6]))
    assert float(differences["layers.0.weight"]) > 0.001
    assert float(differences["layers.0.bias"]) > 0.001
    assert differences["layers.2.weight"] == differences["layers.2.bias"] == "0.000"
    before, after = numbers(sections[6].split("loss ")[1])
    assert after < 0.1 < before


def test_loops_and_fixed_points_have_right_gradients(sections: dict[int, str]) -> None:
    assert "the gradients agree" in sections[7]
    assert "has 2 scans" in sections[7]
    assert numbers(sections[7].split("differs by")[1])[0] > 1e-4
    assert "the gradients agree" in sections[8]
    assert float(sections[8].split("differs by")[1]) < 1e-10


def test_the_spirals_are_told_apart(sections: dict[int, str]) -> None:
    share = re.search(r"right on (\d+)% of 100 points", sections[9])
    assert share is not None
    assert int(share[1]) >= 90
