"""Embedding against PyTorch: values, the summed gradient, padding, and integers that are not in the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, DataError, DTypeError
from chainrule.engines.cpu.engine import ENGINE as CPU


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("padding", [None, 2, -1])
@pytest.mark.parametrize("shape", [(6,), (3, 4)])
def test_it_equals_pytorch(shape: tuple[int, ...], padding: int | None, engine: str) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    rng = np.random.default_rng(0)
    table, x = rng.normal(size=(5, 3)), rng.integers(0, 5, shape)
    probe = rng.normal(size=(*shape, 3))
    theirs = torch.nn.Embedding(5, 3, padding).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(table))
    y = theirs(torch.tensor(x))
    (y * torch.tensor(probe)).sum().backward()

    def loss(layer: nn.Module, x: Any, probe: Any) -> Any:
        out = layer(x)
        return (out * probe).sum(), out

    step = cr.compile(cr.value_and_grad(loss, has_aux=True), engine=engine)
    (_, found), gradient = step(nn.Embedding(5, 3, padding).replace(weight=table), x, probe)
    np.testing.assert_array_equal(found, y.detach().numpy())
    np.testing.assert_allclose(gradient.weight, theirs.weight.grad.numpy(), rtol=1e-12)


def test_weights_start_normal_and_the_padding_at_zero() -> None:
    layer = nn.Embedding(200, 50, padding_idx=-1, key=cr.random.key(0))
    assert layer.padding_idx == 199
    assert not layer.weight[199].any()
    assert layer.weight[:199].std() == pytest.approx(1, rel=0.05)


def test_it_is_a_layer_of_a_model() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    assert model(np.array([[1, 2, 3], [0, 9, 9]])).shape == (2, 2)
    assert cr.compile(lambda m, x: m(x), batch=("x",))(model, np.zeros((7, 3), np.uint8)).shape == (7, 2)


def test_what_is_not_in_the_table_is_refused_or_becomes_nan() -> None:
    layer = nn.Embedding(5, 3)
    with pytest.raises(DataError, match=r"Embedding needs integers from 0 to 4, but position \(1, 0\) holds 7"):
        layer(np.array([[0], [7]]))
    with pytest.raises(DTypeError, match=r"integers from 0 to 4, not float64; convert them with \.astype\(int\)"):
        layer(np.zeros(3))
    found = cr.compile(lambda m, x: m(x))(layer, np.array([0, 5, -1]))
    assert np.isnan(found[1:]).all()
    assert np.isfinite(found[0]).all()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="Embedding needs num"):
        nn.Embedding(0, 3)
    with pytest.raises(ConfigError, match="no row padding_idx=5"):
        nn.Embedding(5, 3, 5)
