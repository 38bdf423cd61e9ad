"""The table of a model's layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError


def test_the_whole_text() -> None:
    model = nn.Sequential(nn.Linear(784, 128), nn.BatchNorm(128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    assert str(model.summary((784,))).splitlines() == [
        "Sequential for input of shape (B, 784)",
        "─────────────────────────────────────────────",
        "path      layer      output shape  parameters",
        "─────────────────────────────────────────────",
        "layers.0  Linear     (B, 128)         100,480",
        "layers.1  BatchNorm  (B, 128)             256",
        "layers.2  ReLU       (B, 128)               0",
        "layers.3  Dropout    (B, 128)               0",
        "layers.4  Linear     (B, 10)            1,290",
        "─────────────────────────────────────────────",
        "102,026 parameters and 256 numbers of state, 400 KiB",
    ]


class Pair(nn.Module):
    """Own arrays beside modules, an input and an output with names, a layer that is called twice and one never."""

    def __init__(self) -> None:
        self.scale = np.ones((4, 1), np.float32)
        self.shared = nn.Linear(3, 4)
        self.spare = nn.Linear(7, 7)

    def forward(self, x: Any) -> Any:
        left, right = self.shared(x["left"]), self.shared(x["right"])
        return {"sum": (left + right) @ self.scale, "mean": left.mean(axis=0)}


def test_trees_of_inputs_and_outputs_and_layers_that_are_not_called() -> None:
    found = nn.Sequential(Pair()).summary({"left": (3,), "right": (3,)})
    assert found.input == "left: (B, 3), right: (B, 3)"
    assert [(row.path, row.layer, row.output, row.parameters) for row in found.rows] == [
        ("layers.0.shared", "Linear", "(B, 4)", 16),
        ("layers.0", "Pair", "sum: (B, 1), mean: (4,)", 4),
        ("layers.0.spare", "Linear", "", 56),
    ]
    assert found.parameters == sum(row.parameters for row in found.rows)
    assert "not called" in str(found)


def test_a_single_layer_other_types_and_sequences() -> None:
    found = nn.Linear(4, 3).astype("float64").summary((7, 4), "float64")
    assert [(row.path, row.output) for row in found.rows] == [("-", "(B, 7, 3)")]
    assert found.size == 15 * 8


def test_shapes_that_do_not_fit_name_the_layer() -> None:
    with pytest.raises(ShapeError, match=r"layer 'layers\.1' \(Linear\): .* size 5, .* \(B, 4\)"):
        nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)).summary((3,))
    with pytest.raises(ConfigError, match=r"without the batch, such as \(784,\)"):
        nn.Linear(3, 4).summary(("B", 3))


def test_it_draws_no_random_numbers_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    cr.seed(2)
    expected = cr.random.uniform((2,))
    cr.seed(2)
    model.summary((3,))
    np.testing.assert_array_equal(cr.random.uniform((2,)), expected)
