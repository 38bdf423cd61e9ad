"""Convolutions and transposed convolutions against PyTorch: values, gradients, every option, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ConfigError, ShapeError

NDArray = np.ndarray[Any, Any]
F = torch.nn.functional
Same = Callable[..., None]
FORWARD, TRANSPOSED = (3, 2, 0, 1), (2, 3, 0, 1)


def drawn(*shape: int) -> NDArray:
    return np.random.default_rng(len(shape)).normal(size=shape)


# Stride, padding, dilation, groups.
OPTIONS: list[tuple[Any, Any, Any, int]] = [
    (1, 0, 1, 1),
    (2, 1, 1, 1),
    (1, 2, 2, 2),
    ((3, 1), (2, 0), 1, 1),
    (2, 1, 1, 4),
]


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), OPTIONS)
def test_convolution_equals_pytorch(
    same_as_torch: Same, stride: Any, padding: Any, dilation: Any, groups: int, engine: str
) -> None:
    same_as_torch(
        lambda x, w: cr.convolution(x, w, stride, padding, dilation, groups),
        lambda x, w: F.conv2d(x, w, None, stride, padding, dilation, groups),
        drawn(2, 9, 8, 4),
        drawn(3, 2, 4 // groups, 8),
        FORWARD,
        engine,
    )


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "more"),
    [(1, 0, 1, 1, 0), (2, 1, 1, 1, 1), (3, 0, 2, 2, (2, 0)), ((2, 1), (0, 1), 1, 4, 0)],
)
def test_transposed_convolution_equals_pytorch(
    same_as_torch: Same, stride: Any, padding: Any, dilation: Any, groups: int, more: Any, engine: str
) -> None:
    same_as_torch(
        lambda x, w: cr.transposed_convolution(x, w, stride, padding, dilation, groups, more),
        lambda x, w: F.conv_transpose2d(x, w, None, stride, padding, more, groups, dilation),
        drawn(2, 5, 4, 4),
        drawn(3, 2, 4, 8 // groups),
        TRANSPOSED,
        engine,
    )


def test_sequences_and_volumes_equal_pytorch(same_as_torch: Same) -> None:
    same_as_torch(
        lambda x, w: cr.convolution(x, w, 2, 3, 2),
        lambda x, w: F.conv1d(x, w, None, 2, 3, 2),
        drawn(3, 11, 2),
        drawn(4, 2, 5),
        (2, 1, 0),
    )
    same_as_torch(
        lambda x, w: cr.transposed_convolution(x, w, 2, 1),
        lambda x, w: F.conv_transpose1d(x, w, None, 2, 1),
        drawn(3, 6, 2),
        drawn(4, 2, 5),
        (1, 2, 0),
    )
    same_as_torch(
        lambda x, w: cr.convolution(x, w, (1, 2, 1), 1),
        lambda x, w: F.conv3d(x, w, None, (1, 2, 1), 1),
        drawn(2, 4, 5, 3, 2),
        drawn(2, 3, 2, 2, 3),
        (4, 3, 0, 1, 2),
    )


@given(
    size=st.integers(1, 9),
    window=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
@settings(max_examples=60)
def test_any_window_equals_pytorch(size: int, window: int, stride: int, padding: int, dilation: int) -> None:
    x, w = drawn(2, size, 2), drawn(window, 2, 3)
    if dilation * (window - 1) + 1 > size + 2 * padding:
        with pytest.raises(ShapeError, match="does not fit"):
            cr.convolution(x, w, stride, padding, dilation)
        return
    expected = F.conv1d(torch.tensor(x).mT, torch.tensor(w).permute(2, 1, 0), None, stride, padding, dilation).mT
    np.testing.assert_allclose(cr.convolution(x, w, stride, padding, dilation), expected.numpy(), rtol=1e-9, atol=1e-12)
    if stride * (expected.shape[1] - 1) + dilation * (window - 1) + 1 <= 2 * padding:
        return
    back = cr.transposed_convolution(expected.numpy(), w.transpose(0, 2, 1), stride, padding, dilation)
    theirs = F.conv_transpose1d(
        expected.mT, torch.tensor(w).permute(2, 1, 0), None, stride, padding, dilation=dilation
    ).mT
    np.testing.assert_allclose(back, theirs.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("window", [(3, 3), (2, 3), (4, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_of_stride_one_is_that_of_pytorch(same_as_torch: Same, window: Any, dilation: int) -> None:
    same_as_torch(
        lambda x, w: cr.convolution(x, w, 1, "same", dilation),
        lambda x, w: F.conv2d(x, w, None, 1, "same", dilation),
        drawn(2, 7, 6, 2),
        drawn(*window, 2, 3),
        FORWARD,
    )


@pytest.mark.parametrize(("size", "window", "stride"), [(7, 3, 2), (8, 3, 2), (8, 2, 3), (9, 5, 4), (4, 1, 3)])
def test_same_padding_of_larger_strides_gives_the_positions_of_tensorflow(size: int, window: int, stride: int) -> None:
    # TensorFlow's rule: ceil(size / stride) positions, the smaller half of the padding before.
    x, w = drawn(1, size, 1), drawn(window, 1, 1)
    count = -(-size // stride)
    total = max(0, (count - 1) * stride + window - size)
    padded = np.pad(x, [(0, 0), (total // 2, total - total // 2), (0, 0)])
    expected = [(padded[0, stride * o : stride * o + window, 0] * w[:, 0, 0]).sum() for o in range(count)]
    np.testing.assert_allclose(cr.convolution(x, w, stride, "same")[0, :, 0], expected, rtol=1e-12)


def test_padding_may_differ_before_and_after() -> None:
    x, w = drawn(2, 5, 6, 2), drawn(3, 3, 2, 4)
    padded = np.pad(x, [(0, 0), (2, 0), (0, 1), (0, 0)])
    np.testing.assert_allclose(
        cr.convolution(x, w, 1, ((2, 0), (0, 1))), cr.convolution(padded, w, padding="valid"), rtol=1e-12
    )


def test_leading_axes_are_any_number() -> None:
    x, w = drawn(2, 3, 5, 6, 2), drawn(3, 3, 2, 4)
    found = cr.convolution(x, w)
    assert found.shape == (2, 3, 3, 4, 4)
    np.testing.assert_allclose(found[1, 2], cr.convolution(x[1, 2], w), rtol=1e-12)


def test_second_derivatives_of_a_strided_convolution() -> None:
    x, w = drawn(2, 5, 4, 2), drawn(3, 2, 1, 4)

    def loss(x: Any, w: Any) -> Any:
        slope = cr.grad(lambda w: cr.square(cr.convolution(x, w, 2, 1, groups=2)).sum())(w)
        return cr.sin(slope).sum()

    cr.check_gradients(loss, x, w)


def test_what_does_not_fit_is_refused() -> None:
    x = drawn(2, 5, 6, 4)
    with pytest.raises(ShapeError, match=r"in 1 groups reads 3 channels, but the input has shape \(2, 5, 6, 4\)"):
        cr.convolution(x, drawn(3, 3, 3, 2))
    with pytest.raises(ShapeError, match="5 output channels cannot be cut into 2 groups"):
        cr.convolution(x, drawn(3, 3, 2, 5), groups=2)
    with pytest.raises(ShapeError, match="reaches over 7 positions does not fit into the 5 of spatial axis 0"):
        cr.convolution(x, drawn(4, 3, 4, 2), dilation=2)
    with pytest.raises(ShapeError, match=r"over 2 axes needs an array of rank 3 or more, not one of shape \(2, 5\)"):
        cr.convolution(drawn(2, 5), drawn(3, 3, 4, 2))
    with pytest.raises(ConfigError, match="no padding 'same'"):
        cr.transposed_convolution(x, drawn(3, 3, 4, 2), padding="same")
    with pytest.raises(ShapeError, match="would have the shape"):
        cr.transposed_convolution(x, drawn(1, 1, 4, 2), padding=3)


@pytest.mark.parametrize("stride", [0, -1, 1.5, (1, 2, 3), "2", (1, True)])
def test_strides_that_make_no_sense_are_refused(stride: Any) -> None:
    with pytest.raises(ConfigError, match="stride is an integer of at least 1, or 2 of them"):
        cr.convolution(drawn(2, 5, 6, 4), drawn(3, 3, 4, 2), stride)


@pytest.mark.parametrize("padding", [-1, "full", (1, 2, 3), ((1, 2, 3), 1), (1, -1), 0.5])
def test_padding_that_makes_no_sense_is_refused(padding: Any) -> None:
    with pytest.raises(ConfigError, match="padding is 'same', 'valid', an integer of at least 0, or 2"):
        cr.convolution(drawn(2, 5, 6, 4), drawn(3, 3, 4, 2), padding=padding)
