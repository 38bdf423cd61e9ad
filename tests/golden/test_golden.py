"""The text of one training step of a 2-2-1 network, as a person would read it.

A change here is a change of what users see. ``CHAINRULE_GOLDEN=write pytest tests/golden`` writes the files again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

import chainrule as cr
from chainrule.passes import optimise
from chainrule.trace import scope

FOLDER = Path(__file__).parent


def loss(params, x, y):
    with scope("hidden"):
        h = 1 / (1 + cr.exp(-(x @ params["hidden"]["weight"] + params["hidden"]["bias"])))
    with scope("output"):
        p = 1 / (1 + cr.exp(-(h @ params["output"]["weight"] + params["output"]["bias"])))
    return 0.5 * cr.square(p - y).mean()


def layer(rows, columns):
    return {"weight": np.zeros((rows, columns), np.float32), "bias": np.zeros(columns, np.float32)}


def forward():
    params = {"hidden": layer(2, 2), "output": layer(2, 1)}
    x, y = np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32)
    return cr.trace(loss, params, x, y, batch=("x", "y"))


def step():
    """Forward and backward pass for a batch of any size."""

    def value_and_gradients(params, x, y):
        return cr.value_and_grad(loss)(params, x, y)

    params = {"hidden": layer(2, 2), "output": layer(2, 1)}
    x, y = np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32)
    return cr.trace(value_and_gradients, params, x, y, batch=("x", "y"))


GOLDEN = {"forward": forward, "step": step, "step_optimised": lambda: optimise(step())}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_text_is_as_recorded(name):
    # Where this file defines the network does not matter.
    text = re.sub(r'"test_golden\.py":\d+', '"network.py":1', cr.print_graph(GOLDEN[name]())) + "\n"
    file = FOLDER / f"network_2_2_1_{name}.graph"
    if os.environ.get("CHAINRULE_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", GOLDEN)
def test_the_recorded_text_still_runs(name):
    from chainrule.engines.reference import ENGINE

    graph = cr.parse_graph((FOLDER / f"network_2_2_1_{name}.graph").read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=[d if isinstance(d, int) else 3 for d in v.shape]).astype(np.float32) for v in graph.inputs
    ]
    results = ENGINE.load(graph)(arrays)
    named = dict(zip([value.name for value in graph.inputs], arrays, strict=True))
    params = {
        name: {kind: named[f"params.{name}.{kind}"] for kind in ("weight", "bias")} for name in ("hidden", "output")
    }
    value, gradients = cr.value_and_grad(loss)(params, named["x"], named["y"])
    expected = [value]
    if name != "forward":
        expected += [gradients[layer][kind] for layer in ("hidden", "output") for kind in ("weight", "bias")]
    for found, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-7)
