"""Dropout: what it keeps, how much, and that seeds and keys determine it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError

ONES = np.ones((200, 300), np.float32)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate_and_the_mean_is_kept(rate: float) -> None:
    cr.seed(0)
    found = nn.Dropout(rate)(ONES, training=True)
    deviation = np.sqrt(rate * (1 - rate) / ONES.size)
    assert abs((found == 0).mean() - rate) < 4 * deviation
    np.testing.assert_allclose(found[found != 0], 1 / (1 - rate), rtol=1e-6)
    assert abs(found.mean() - 1) < 4 * deviation / (1 - rate)
    # Rows and columns are alike: no axis is dropped as a whole.
    assert (found == 0).mean(axis=0).std() < 2 * np.sqrt(rate * (1 - rate) / 200)
    assert (found == 0).mean(axis=1).std() < 2 * np.sqrt(rate * (1 - rate) / 300)


def test_it_is_the_identity_at_inference_and_at_rate_zero() -> None:
    assert nn.Dropout(0.5)(ONES) is ONES
    assert nn.Dropout(0.0)(ONES, training=True) is ONES
    graph = cr.trace(lambda m, x: m(x), nn.Dropout(0.5), ONES, batch=("x",))
    assert not graph.nodes


def test_it_follows_the_seed() -> None:
    layer = nn.Dropout(0.5)
    cr.seed(3)
    first, second = layer(ONES, training=True), layer(ONES, training=True)
    cr.seed(3)
    np.testing.assert_array_equal(first, layer(ONES, training=True))
    np.testing.assert_array_equal(second, layer(ONES, training=True))
    assert not np.array_equal(first, second)


def test_it_follows_a_key() -> None:
    layer = nn.Dropout(0.5)
    key, other = cr.random.key(1), cr.random.key(2)
    np.testing.assert_array_equal(layer(ONES, training=True, key=key), layer(ONES, training=True, key=key))
    assert not np.array_equal(layer(ONES, training=True, key=key), layer(ONES, training=True, key=other))
    compiled = cr.compile(lambda layer, x, key: layer(x, training=True, key=key), batch=("x",))
    np.testing.assert_array_equal(compiled(layer, ONES, key), layer(ONES, training=True, key=key))


def test_every_call_of_a_compiled_step_drops_others() -> None:
    step = cr.compile(lambda layer, x: layer(x, training=True))
    layer = nn.Dropout(0.5)
    cr.seed(5)
    first, second = step(layer, ONES), step(layer, ONES)
    cr.seed(5)
    np.testing.assert_array_equal(first, step(layer, ONES))
    assert not np.array_equal(first, second)


def test_two_layers_drop_independently() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    cr.seed(0)
    found = cr.compile(lambda m, x: m(x, training=True))(model, ONES)
    assert abs((found != 0).mean() - 0.25) < 0.01


def test_the_gradient_passes_where_the_element_was_kept() -> None:
    key = cr.random.key(4)
    layer = nn.Dropout(0.25)
    x = np.random.default_rng(0).normal(size=(6, 5))
    gradient = cr.grad(lambda x: layer(x, training=True, key=key).sum())(x)
    np.testing.assert_allclose(gradient, layer(np.ones_like(x), training=True, key=key), rtol=1e-12)


def test_an_infinite_element_that_is_dropped_is_zero() -> None:
    found = nn.Dropout(0.5)(np.full(1000, np.inf), training=True, key=cr.random.key(0))
    assert set(np.unique(found)) == {0, np.inf}


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "half", None])
def test_rates_that_are_no_probability_are_refused(rate: Any) -> None:
    with pytest.raises(ConfigError, match="rate of Dropout"):
        nn.Dropout(rate)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_alpha_dropout_keeps_mean_and_variance_and_equals_pytorchs_map(rate: float) -> None:
    x = np.random.default_rng(0).normal(size=(400, 500))
    found = nn.AlphaDropout(rate)(x, training=True, key=cr.random.key(1))
    lowest = -1.7580993408473766
    scale = 1 / np.sqrt((1 - rate) * (1 + rate * lowest**2))
    shift = -scale * rate * lowest
    dropped = np.isclose(found, scale * lowest + shift, rtol=1e-12)
    assert abs(dropped.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(found[~dropped], scale * x[~dropped] + shift, rtol=1e-9, atol=1e-12)
    assert abs(found.mean()) < 0.01
    assert abs(found.var() - 1) < 0.01
    theirs = torch.nn.functional.alpha_dropout(torch.tensor(x), rate, training=True).numpy()
    dropped_there = np.isclose(theirs, scale * lowest + shift, rtol=1e-9)
    assert abs(dropped_there.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(theirs[~dropped_there], scale * x[~dropped_there] + shift, rtol=1e-9, atol=1e-12)
    assert nn.AlphaDropout(rate)(x) is x


def test_channels_are_dropped_as_a_whole() -> None:
    cr.seed(0)
    found = nn.Dropout2d(0.25)(np.ones((50, 3, 4, 40), np.float32), training=True)
    assert (found == found[:, :1, :1]).all()
    assert abs((found[:, 0, 0] == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)
    np.testing.assert_allclose(found[found != 0], 1 / 0.75, rtol=1e-6)
    assert nn.Dropout2d(0.25)(ONES) is ONES
    with pytest.raises(ShapeError, match=r"Dropout2d: the input should have shape \(batch"):
        nn.Dropout2d()(np.ones(3), training=True)
