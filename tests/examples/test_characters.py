"""The character model learns its rhyme and writes it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples/characters.py"


@pytest.mark.slow
def test_it_learns_a_rhyme_and_goes_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["characters.py"])
    example = runpy.run_path(str(SCRIPT))
    written = example["main"]()
    assert example["RHYME"].startswith(written)


def test_windows_go_on_where_those_of_the_batch_before_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    example = runpy.run_path(str(SCRIPT))
    x, y = example["windows"](np.arange(16 * 32 * 3 + 1))
    assert x.shape == y.shape == (48, 32)
    assert (y == x + 1).all()
    assert (x[16:32, 0] == x[:16, -1] + 1).all()
