"""The C of two small networks, as a person would read it, for vectors of 32 bytes whatever the machine.

A change here is a change of what users see. ``CHAINRULE_GOLDEN=write pytest tests/golden`` writes the files again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from tests.golden import test_golden

import chainrule as cr
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.cpu.prelude import PRELUDE
from chainrule.passes import optimise

FOLDER = Path(__file__).parent


def forward():
    """Inference for a batch of four: every size is known."""
    params = {"hidden": test_golden.layer(2, 2), "output": test_golden.layer(2, 1)}
    return cr.trace(test_golden.loss, params, np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32))


GOLDEN = {"network_2_2_1_step": test_golden.step, "network_2_2_1_forward_of_4": forward}


def text_of(graph):
    """The program, without the part that all programs begin with."""
    return lower(optimise(graph), frozenset(), 32).source.text.split(PRELUDE)[1].lstrip("\n")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_c_is_as_recorded(name):
    text = text_of(GOLDEN[name]())
    file = FOLDER / f"{name}.c"
    if os.environ.get("CHAINRULE_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", GOLDEN)
def test_every_loop_nest_says_what_it_computes(name):
    comments = re.findall(r"/\* (\S+ (?:forward|backward|update))\b", text_of(GOLDEN[name]()))
    assert {"hidden forward", "output forward"} <= set(comments)
