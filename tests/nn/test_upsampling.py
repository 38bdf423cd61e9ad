"""Cubic interpolation and scale factors that are no integers, against PyTorch: modes, sizes and corners crossed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

X = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
THEIRS = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
PLACES: list[dict[str, Any]] = [
    {"scale_factor": 2},
    {"scale_factor": (3, 1)},
    {"scale_factor": 1.5},
    {"scale_factor": (0.6, 2.3)},
    {"scale_factor": 0.5},
    {"size": (7, 3)},
    {"size": (4, 10)},
]


MODES = [("nearest", False), ("linear", False), ("linear", True), ("cubic", False), ("cubic", True)]


@pytest.mark.parametrize(
    ("mode", "align", "places", "engine"),
    [(*mode, places, "reference") for mode in MODES for places in PLACES]
    + [(*mode, {"scale_factor": (0.6, 2.3)}, "cpu") for mode in MODES],
    ids=str,
)
def test_every_mode_equals_pytorch(mode: Any, align: bool, places: dict[str, Any], engine: str) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    options = {} if mode == "nearest" else {"align_corners": align}
    leaf = torch.tensor(np.moveaxis(X, -1, 1).copy(), requires_grad=True)
    out = torch.nn.Upsample(mode=THEIRS[mode], **options, **places)(leaf)
    probe = np.random.default_rng(1).normal(size=np.moveaxis(out.detach().numpy(), 1, -1).shape)
    (out * torch.tensor(np.moveaxis(probe, -1, 1).copy())).sum().backward()
    layer = nn.Upsample(mode=mode, align_corners=align, **places)

    def loss(x: Any, probe: Any) -> Any:
        y = layer(x)
        return (y * probe).sum(), y

    graded = cr.value_and_grad(loss, has_aux=True)
    (_, y), slope = cr.compile(lambda x, probe: graded(x, probe), engine=engine, batch=("x", "probe"))(X, probe)
    assert leaf.grad is not None
    np.testing.assert_allclose(y, np.moveaxis(out.detach().numpy(), 1, -1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, np.moveaxis(leaf.grad.numpy(), 1, -1), rtol=1e-9, atol=1e-12)


@given(st.integers(1, 9), st.floats(0.2, 4.0), st.sampled_from(["nearest", "linear"]))
def test_sequences_by_any_factor_equal_pytorch(size: int, factor: float, mode: Any) -> None:
    x = np.arange(float(size))[None, :, None]
    # Where a factor other than 1 leaves the size, PyTorch moves positions or not by mode and number of axes.
    assume(int(size * factor) != size)
    if int(size * factor) < 1:
        with pytest.raises(ShapeError, match="leaves nothing of the"):
            nn.Upsample(factor, mode)(x)
        return
    theirs = torch.nn.Upsample(scale_factor=factor, mode=mode)(torch.tensor(x).movedim(-1, 1)).movedim(1, -1)
    np.testing.assert_allclose(nn.Upsample(factor, mode)(x), theirs.numpy(), rtol=1e-9, atol=1e-12)


def test_a_factor_that_leaves_the_size_moves_a_cubic_and_nothing_else() -> None:
    image = torch.tensor(np.moveaxis(X, -1, 1).copy())
    for mode in ("nearest", "linear", "cubic"):
        theirs = torch.nn.Upsample(scale_factor=1.15, mode=THEIRS[mode])(image).movedim(1, -1)
        np.testing.assert_allclose(nn.Upsample(1.15, mode)(X), theirs.numpy(), rtol=1e-9, atol=1e-12)
    # PyTorch's gradient is that of the identity here, which its bicubic values are not.
    cr.check_gradients(lambda x: cr.square(nn.Upsample(1.15, "cubic")(x)).sum(), X)


@pytest.mark.parametrize("factor", [0, -1.5, float("inf"), True, "2", (2, 0)])
def test_factors_that_make_no_sense_are_refused(factor: Any) -> None:
    with pytest.raises(ConfigError, match="scale_factor is a number above 0, or one for each axis"):
        nn.Upsample(factor)
