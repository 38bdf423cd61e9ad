"""Fully connected layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ShapeError
from chainrule.nn.initialisers import Initialiser, glorot_uniform
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features, check_size
from chainrule.ops.math import matmul
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.values import show_shape


class Linear(Module):
    """``y = x W + b`` for x of shape (..., in_features): the same affine map at every position.

    ``weight`` has shape (in_features, out_features), so that layouts stay channels-last; PyTorch's is its transpose. Weights
    start from ``init``, Glorot's uniform by default: it keeps the variance of signals and gradients through a linear layer
    without a guess about the activation that follows, and is the default of Keras and scikit-learn. Deep stacks of ReLUs are
    better served by ``he_uniform``. The bias starts at 0. Integer input is converted to the type of the weights.
    Raises :class:`ShapeError` when the last axis of the input is not ``in_features``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: Initialiser = glorot_uniform,
        key: Any = None,
    ) -> None:
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            check_size("Linear", name, size)
        shape = (int(in_features), int(out_features))
        self.weight = init(shape, key=key)
        if self.weight.shape != shape:
            raise ShapeError(f"the initialiser of Linear returned shape {self.weight.shape} when asked for {shape}")
        self.bias = np.zeros(out_features, np.float32) if bias else None

    @property
    def in_features(self) -> int:
        return int(self.weight.shape[0])

    @property
    def out_features(self) -> int:
        return int(self.weight.shape[1])

    def forward(self, x: ArrayLike) -> Any:
        return _affine(x, self.weight, self.bias)


class Bilinear(Module):
    """``y[..., o] = Σ x[..., i] weight[i, j, o] z[..., j] + b[o]`` over i and j, for x (..., in1_features) and z (..., in2_features).

    ``weight`` has shape (in1_features, in2_features, out_features); PyTorch's (out, in1, in2) becomes ours by
    ``transpose(1, 2, 0)``. It starts from ``init``, as that of a :class:`Linear` of all products ``x[i] z[j]``; the bias at 0.
    Raises :class:`ShapeError` for inputs of other sizes or with other leading axes.
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: Initialiser = glorot_uniform,
        key: Any = None,
    ) -> None:
        sizes = {"in1_features": in1_features, "in2_features": in2_features, "out_features": out_features}
        for name, size in sizes.items():
            check_size("Bilinear", name, size)
        shape = (int(in1_features) * int(in2_features), int(out_features))
        weight = init(shape, key=key)
        if weight.shape != shape:
            raise ShapeError(f"the initialiser of Bilinear returned shape {weight.shape} when asked for {shape}")
        self.weight = weight.reshape(int(in1_features), int(in2_features), int(out_features))
        self.bias = np.zeros(out_features, np.float32) if bias else None

    def forward(self, x: ArrayLike, z: ArrayLike) -> Any:
        return _bilinear(x, z, self.weight, self.bias)


@operation
def _bilinear(x: ArrayLike, z: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> Any:
    left, right, cube = as_array(x), as_array(z), as_array(weight)
    first, second, out = map(int, cube.shape)
    check_features(left, first)
    check_features(right, second)
    if left.shape[:-1] != right.shape[:-1]:
        raise ShapeError(
            f"the inputs of Bilinear differ in the last axis alone, but they have the shapes {show_shape(left.shape)} and "
            f"{show_shape(right.shape)}"
        )
    matrices = matmul(left, cube.reshape((first, second * out))).reshape((*left.shape[:-1], second, out))
    product = matmul(right.reshape((*right.shape[:-1], 1, second)), matrices).reshape((*left.shape[:-1], out))
    return product if bias is None else product + bias


@operation
def _affine(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> Any:
    array, matrix = as_array(x), as_array(weight)
    check_features(array, int(matrix.shape[0]))
    product = matmul(array, matrix)
    return product if bias is None else product + bias
