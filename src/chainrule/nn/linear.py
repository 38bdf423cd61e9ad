"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ShapeError
from chainrule.nn.initialisers import Initialiser, glorot_uniform
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features, check_size
from chainrule.ops.math import matmul
from chainrule.trace.array import ArrayLike, as_array, operation


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


@operation
def _affine(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> Any:
    array, matrix = as_array(x), as_array(weight)
    check_features(array, int(matrix.shape[0]))
    product = matmul(array, matrix)
    return product if bias is None else product + bias
