"""A layer whose output is an equilibrium, trained by recurrent backpropagation."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.nn.cells import check_sizes
from chainrule.nn.initialisers import glorot_uniform, orthogonal
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features
from chainrule.ops import random
from chainrule.ops.arrays import zeros
from chainrule.ops.loops import fixed_point
from chainrule.ops.math import matmul, tanh
from chainrule.trace.array import Array, ArrayLike, as_array, operation


class Equilibrium(Module):
    """The state z at which a recurrent network comes to rest: ``z = tanh(x W + z U + b)``, x of shape (..., in_features).

    The network runs from 0 until every component moves by at most ``tolerance · (1 + |z|)``, or ``max_iterations`` times. Its gradient
    does not go back through the iterations but solves for the equilibrium of the cotangents, which takes no memory for them:
    recurrent backpropagation. Almeida 1987; Pineda 1987; for deep networks Bai, Kolter & Koltun, NeurIPS 2019.

    ``U`` starts orthogonal times ``contraction``; with a largest singular value below 1 there is one equilibrium and the iteration
    reaches it. Training may lead U out of that range: ``layer.iterations(x)`` tells how many were needed.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        contraction: float = 0.5,
        tolerance: float = 1e-6,
        max_iterations: int = 200,
        key: Any = None,
    ) -> None:
        check_sizes("Equilibrium", in_features=in_features, features=features, max_iterations=max_iterations)
        if not contraction > 0 or not tolerance > 0:
            raise ConfigError(
                f"Equilibrium needs contraction and tolerance above 0, not contraction={contraction!r}, tolerance={tolerance!r}"
            )
        keys = [None] * 2 if key is None else list(np.asarray(random.split(key, 2)))
        self.weight = glorot_uniform((int(in_features), int(features)), key=keys[0])
        self.recurrent = orthogonal((int(features), int(features)), gain=contraction, key=keys[1])
        self.bias = np.zeros(features, np.float32)
        self.tolerance = float(tolerance)
        self.max_iterations = int(max_iterations)

    def forward(self, x: ArrayLike) -> Any:
        return _solved(self, x)[0]

    def iterations(self, x: ArrayLike) -> Any:
        """How many iterations an input takes; ``max_iterations`` if it does not come to rest."""
        return _solved(self, x)[1]


@operation
def _solved(layer: Equilibrium, x: ArrayLike) -> Any:
    array = as_array(x)
    check_features(array, int(as_array(layer.weight).shape[0]))
    drive: Array = matmul(array, layer.weight) + layer.bias
    return fixed_point(
        lambda z: tanh(drive + matmul(z, layer.recurrent)),
        zeros(drive.shape, drive.dtype),
        tolerance=layer.tolerance,
        max_iterations=layer.max_iterations,
    )
