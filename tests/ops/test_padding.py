"""Padding by a value and by the array's own elements, against NumPy and PyTorch, with gradients, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ConfigError, ShapeError

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
X = np.random.default_rng(0).normal(size=(2, 5, 4, 3))


@pytest.mark.parametrize("mode", MODES)
def test_padding_equals_pytorch(same_as_torch: Callable[..., None], mode: Any, engine: str) -> None:
    for pairs in (((1, 1), (2, 2)), ((4, 0), (1, 3)), ((0, 3), (0, 0))):
        (top, bottom), (left, right) = pairs
        same_as_torch(
            lambda x, pairs=pairs: cr.pad(x, [(0, 0), *pairs, (0, 0)], mode=mode),
            lambda x, sides=(left, right, top, bottom): torch.nn.functional.pad(x, sides, mode),
            X,
            engine=engine,
        )


@given(st.data())
def test_padding_of_any_shape_equals_numpy(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(list(MODES)))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    most = {"reflect": -1, "circular": 0}.get(mode, 4)
    widths = [data.draw(st.tuples(*[st.integers(0, size + most)] * 2)) for size in shape]
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(cr.pad(x, widths, mode=mode), np.pad(x, widths, MODES[mode]))


def test_second_derivatives() -> None:
    for mode in ("reflect", "replicate", "circular"):
        loss = lambda x, mode=mode: (cr.pad(x, [(0, 0), (2, 1), (1, 2)], mode=mode) ** 3).sum()  # noqa: E731
        cr.check_gradients(lambda x, loss=loss: cr.square(cr.grad(loss)(x)).sum(), X[:, :, :3, 0])


def test_what_cannot_be_padded_is_refused() -> None:
    x = np.zeros((2, 4, 1))
    with pytest.raises(ShapeError, match=r"axis 1 .* \(2, 4, 1\) cannot be padded by 4 and 0 .* by at most 3"):
        cr.pad(x, [(0, 0), (4, 0), (0, 0)], mode="reflect")
    with pytest.raises(ShapeError, match="cannot be padded by 0 and 5 in mode 'circular', but by at most 4"):
        cr.pad(x, [(0, 0), (0, 5), (0, 0)], mode="circular")
    with pytest.raises(ShapeError, match="cannot be padded by 1 and 0 in mode 'replicate'"):
        cr.pad(np.zeros((0, 2)), [(1, 0), (0, 0)], mode="replicate")
    with pytest.raises(ConfigError, match="constant, reflect, replicate, circular, not 'edge'"):
        cr.pad(x, [(0, 0), (1, 1), (0, 0)], mode="edge")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="not of the batch axis"):
        cr.compile(lambda x: cr.pad(x, [(1, 0), (0, 0), (0, 0)], mode="circular"), batch=("x",))(x)
    with pytest.raises(ShapeError, match=r"needs 3 \(before, after\) pairs, not 1"):
        cr.pad(x, [(1, 1)])
