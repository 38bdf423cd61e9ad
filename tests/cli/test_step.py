"""``chainrule step``: what it prints, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chainrule.cli.failures import run_guarded
from chainrule.cli.step import step

EXAMPLES = Path(__file__).parents[2] / "examples"

WORKED_1 = """\
FILE: one hidden unit
  network        x → h (sigmoid) → ŷ (sigmoid)
  loss           half squared error, L = ½(y − ŷ)²
  learning rate  η = 0.5

Forward pass
  x = 0.5
  y = 1
  z_h = w1·x = (0.4)(0.5) = 0.2
  h = 1/(1 + e^(−z_h)) = 1/(1 + e^(−0.2)) = 0.549833997
  z_ŷ = w2·h = (0.6)(0.549833997) = 0.329900398
  ŷ = 1/(1 + e^(−z_ŷ)) = 1/(1 + e^(−0.329900398)) = 0.581735142

Loss
  L = ½(y − ŷ)² = ½(1 − 0.581735142)² = 0.0874727457

Local derivatives
  ∂L/∂ŷ = ŷ − y = 0.581735142 − 1 = -0.418264858
  ∂ŷ/∂z_ŷ = ŷ(1 − ŷ) = 0.581735142(1 − 0.581735142) = 0.243319367
  ∂z_ŷ/∂w2 = h = 0.549833997
  ∂z_ŷ/∂h = w2 = 0.6
  ∂h/∂z_h = h(1 − h) = 0.549833997(1 − 0.549833997) = 0.247516573
  ∂z_h/∂w1 = x = 0.5

Deltas, δ = ∂L/∂z, from the last layer to the first
  δ_ŷ = ∂L/∂ŷ · ∂ŷ/∂z_ŷ = (-0.418264858)(0.243319367) = -0.10177194
  δ_h = δ_ŷ · w2 · ∂h/∂z_h = (-0.10177194)(0.6)(0.247516573) = -0.0151141451

Gradients by the chain rule
  ∂L/∂w1 = δ_ŷ · w2 · ∂h/∂z_h · ∂z_h/∂w1 = (-0.10177194)(0.6)(0.247516573)(0.5) = -0.00755707256
  ∂L/∂w2 = ∂L/∂ŷ · ∂ŷ/∂z_ŷ · ∂z_ŷ/∂w2 = (-0.418264858)(0.243319367)(0.549833997) = -0.0559576727

Update: w ← w − η·∂L/∂w
  w1 ← w1 − η·∂L/∂w1 = 0.4 − (0.5)(-0.00755707256) = 0.403778536
  w2 ← w2 − η·∂L/∂w2 = 0.6 − (0.5)(-0.0559576727) = 0.627978836

After 1 step: L = 0.0858865629
  ŷ = 0.585544784
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(step, [str(argument) for argument in arguments], catch_exceptions=False)


def example(name: str) -> Path:
    return EXAMPLES / f"{name}.toml"


def test_worked_example_1_to_the_letter() -> None:
    result = run(example("worked_1"))
    assert result.exit_code == 0
    assert result.stdout.replace(str(example("worked_1")), "FILE") == WORKED_1


def test_worked_example_2_shows_every_path_and_product() -> None:
    lines = run(example("worked_2")).stdout.splitlines()
    for line in (
        "  z_h1 = w11·x1 + w12·x2 + b1 = (0.15)(0.05) + (0.2)(0.1) + 0.35 = 0.3775",
        "  z_h2 = w21·x1 + w22·x2 + b2 = (0.25)(0.05) + (0.3)(0.1) − 0.2 = -0.1575",
        "  L = (y − ŷ)² = (0.9 − 0.652487242)² = 0.0612625653",
        "  δ_h2 = δ_ŷ · v2 · ∂h2/∂z_h2 = (-0.112245868)(-0.45)(0.248455997) = 0.0125496715",
        "  ∂L/∂v2 = ∂L/∂ŷ · ∂ŷ/∂z_ŷ · ∂z_ŷ/∂v2 = (-0.495025516)(0.226747641)(0.460706194) = -0.0517123666",
        "          = (-0.112245868)(-0.45)(0.248455997)(0.05)",
        "  w21 ← w21 − η·∂L/∂w21 = 0.25 − (0.5)(0.000627483577) = 0.249686258",
    ):
        assert line in lines


def test_steps_are_repeated_until_the_error_is_small() -> None:
    output = run(example("worked_2"), "--steps", 5000).stdout
    assert output.count("Forward pass") == 2  # the first step and the last
    assert "\nStep 1\n======\n" in output
    assert "\nStep 280\n========\n" in output
    lines = output.splitlines()
    start = lines.index("Loss and outputs at the beginning of each step")
    rows = [line.split() for line in lines[start + 1 : lines.index("Step 280") - 1]]
    assert rows[0] == ["step", "L", "ŷ"]
    assert [row[0] for row in rows[1:-1]] == [*map(str, range(1, 11)), "20", "50", "100", "200", "280"]
    assert rows[1][1:] == ["0.0612625653", "0.652487242"]
    assert lines[start + len(rows)] == "  (15 of 280 steps)"
    assert lines[-2:] == ["After 280 steps: L = 9.87360379e-07, below 1e-06", "  ŷ = 0.89900634"]


def test_until_sets_the_loss_to_reach() -> None:
    lines = run(example("worked_1"), "--until", "0.05").stdout.splitlines()
    assert lines[-2].endswith(", below 0.05")
    last = float(lines[-2].split("L = ")[1].split(",")[0])
    assert last < 0.05
    assert ", not yet below 0.01\n" in run(example("worked_1"), "--steps", 3, "--until", "0.01").stdout


def test_xor_is_learned() -> None:
    data = json.loads(run(example("xor"), "--steps", 5000, "--json").stdout)
    assert data["after"]["reached"] is True
    assert [round(row[0]) for row in data["after"]["outputs"]] == [0, 1, 1, 0]


def test_all_prints_every_step() -> None:
    output = run(example("worked_1"), "--steps", 3, "--all").stdout
    assert [line for line in output.splitlines() if line.startswith("Step ")] == ["Step 1", "Step 2", "Step 3"]
    assert output.count("Forward pass") == 3


def test_json_holds_the_same_structure_in_full_precision() -> None:
    data = json.loads(run(example("worked_1"), "--steps", 2, "--json").stdout)
    assert [s["step"] for s in data["steps"]] == [1, 2]
    first = data["steps"][0]
    assert first["gradients"][1] == {
        "of": "w2",
        "symbol": "∂L/∂w2",
        "formula": "∂L/∂ŷ · ∂ŷ/∂z_ŷ · ∂z_ŷ/∂w2",
        "numbers": "(-0.418264858)(0.243319367)(0.549833997)",
        "value": pytest.approx(-0.0559576727, rel=1e-9),
    }
    assert first["gradients"][1]["value"] != -0.0559576727
    assert [row["step"] for row in data["history"]] == [1, 2]
    assert data["history"][0]["loss"] == first["loss"]
    updated = first["updates"][0]["value"]
    second = data["steps"][1]["updates"][0]["numbers"]
    assert second.startswith(f"{updated:.9g} − ")
    assert data["after"]["steps"] == 2


def test_ascii_where_it_is_asked_for() -> None:
    output = run(example("worked_3"), "--ascii").stdout
    assert output.isascii()
    assert "  dyhat2/dz_yhat1 = -yhat2*yhat1 = -0.403967178*0.342522839 = -0.138367985" in output.splitlines()
    assert run(example("worked_3"), "--ascii", "--json").stdout.isascii()


def test_ascii_where_nothing_else_can_be_shown() -> None:
    code = "import sys; from chainrule.cli.step import step; step(sys.argv[1:])"
    shown = subprocess.run(
        [sys.executable, "-c", code, str(example("worked_1"))],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        check=True,
        timeout=60,
    )
    assert b"  dL/dw2 = dL/dyhat * dyhat/dz_yhat * dz_yhat/dw2 = " in shown.stdout


def test_formulas_are_not_broken_in_the_middle_of_a_factor_when_piped() -> None:
    for name in ("worked_1", "worked_2", "worked_3", "xor"):
        for line in run(example(name)).stdout.splitlines():
            assert len(line) <= 100 or line.startswith(("  loss ", str(EXAMPLES))), line


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "does not exist"),
        ("weights = [[", "is not valid TOML"),
        ("inputs = [1]\ntargets = [1]\nlos = 'x'", "there is no setting 'los'; did you mean 'loss'?"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, complaint: str
) -> None:
    file = tmp_path / "net.toml"
    if text is not None:
        file.write_text(text)
    code = run_guarded(lambda: step.main([str(file)], standalone_mode=False))
    streams = capsys.readouterr()
    assert code == 2
    assert streams.out == ""
    [line] = streams.err.splitlines()
    assert str(file) in line
    assert complaint in line


def test_numbers_that_overflow_stop_with_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.toml"
    text = example("worked_1").read_text().replace('"sigmoid"', '"identity"').replace("_rate = 0.5", "_rate = 1e200")
    file.write_text(text)
    code = run_guarded(lambda: step.main([str(file), "--steps", "9"], standalone_mode=False))
    streams = capsys.readouterr()
    assert code == 3
    assert "Forward pass" in streams.out
    assert "step 2 gives numbers that are not finite, first in 'output'" in streams.err


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--steps", "many"], ["--until", "0"], ["--until", "-1"]])
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(step, [str(example("worked_1")), *arguments])
    assert result.exit_code == 2
