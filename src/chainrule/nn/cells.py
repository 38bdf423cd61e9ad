"""Recurrent cells: what one step of a recurrent layer computes from its input and its state.

Weights are (in, out), the transposes of PyTorch's, with the gates side by side along the last axis in PyTorch's order: input,
forget, cell, output (LSTM) and reset, update, candidate (GRU).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.initialisers import Initialiser, NDArray, glorot_uniform, orthogonal
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features
from chainrule.ops import random
from chainrule.ops.activations import relu, sigmoid
from chainrule.ops.arrays import zeros
from chainrule.ops.math import matmul, tanh
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.values import show_shape

Carry = tuple[Any, ...]


class Cell(Module):
    """What RNNCell, LSTMCell and GRUCell share: weights, and one step as ``project`` followed by ``step``.

    ``project`` is the part of a step that needs no state, so a layer applies it to all steps at once; ``step`` takes its result
    and the state, a tuple of arrays, to the next state, whose first array is the output.
    """

    gates: ClassVar[int]
    carried: ClassVar[int] = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, fed_back: int | None = None, key: Any = None
    ) -> None:
        kind = type(self).__name__
        check_sizes(kind, input_size=input_size, hidden_size=hidden_size)
        keys = [None] * (2 * self.gates) if key is None else list(np.asarray(random.split(key, 2 * self.gates)))
        self.weight_ih = self._side_by_side(glorot_uniform, input_size, hidden_size, keys[: self.gates])
        self.weight_hh = self._side_by_side(orthogonal, fed_back or hidden_size, hidden_size, keys[self.gates :])
        self.bias_ih = np.zeros(self.gates * hidden_size, np.float32) if bias else None
        self.bias_hh = np.zeros(self.gates * hidden_size, np.float32) if bias else None

    def _side_by_side(self, init: Initialiser, rows: int, columns: int, keys: list[Any]) -> NDArray:
        """Each gate's matrix from a draw of its own: a gate is a layer of its own, with its own fan-out."""
        return np.concatenate([init((int(rows), int(columns)), key=key) for key in keys], axis=1)

    @property
    def input_size(self) -> int:
        return int(self.weight_ih.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self.weight_hh.shape[1]) // self.gates

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The sizes of the arrays of the state; the first is that of the output."""
        return (self.hidden_size,) * self.carried

    def forward(self, x: ArrayLike, state: Any = None) -> Any:
        return _one_step(self, x, state)

    def project(self, x: Array) -> Array:
        """``x W_ih`` and the biases: what of a step depends on the input only, for any number of steps."""
        check_features(x, self.input_size)
        return _plus(matmul(x, self.weight_ih), self.bias_ih, self.bias_hh)

    def step(self, projected: Array, state: Carry) -> Carry:
        """The next state."""
        raise ConfigError(f"{type(self).__name__} has no step method")


class RNNCell(Cell):
    """``h' = tanh(x W_ih + b_ih + h W_hh + b_hh)``, or with ``relu`` in tanh's place: one step of :class:`chainrule.nn.RNN`.

    x has shape (..., input_size) and h (..., hidden_size), zeros by default; returns h'. ``weight_ih`` starts from Glorot's
    uniform and ``weight_hh`` orthogonal, which neither shrinks nor stretches what it carries. Elman 1990.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        *,
        key: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ConfigError(f"the nonlinearity of RNN is 'tanh' or 'relu', not {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, key=key)
        self.nonlinearity = nonlinearity

    def step(self, projected: Array, state: Carry) -> Carry:
        total = projected + matmul(state[0], self.weight_hh)
        return (tanh(total) if self.nonlinearity == "tanh" else relu(total),)


class LSTMCell(Cell):
    """One step of :class:`chainrule.nn.LSTM`, a cell c that gates write to, keep and read. Hochreiter & Schmidhuber 1997.

    ``i, f, g, o = x W_ih + b_ih + h W_hh + b_hh``; ``c' = σ(f) c + σ(i) tanh(g)``; ``h' = σ(o) tanh(c')``. x has shape
    (..., input_size); the state is the pair (h, c) of shape (..., hidden_size) each, zeros by default; returns (h', c'). The forget
    gate's bias starts at 1, so that a new cell remembers (Gers, Schmidhuber & Cummins 2000), the others at 0.

    ``proj_size`` p makes h smaller than c: ``h' = (σ(o) tanh(c')) W_hr`` of p numbers, with ``weight_hr`` (hidden_size, p). Sak,
    Senior & Beaufays 2014. Raises :class:`ConfigError` unless it is less than ``hidden_size``.
    """

    gates = 4
    carried = 2

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, proj_size: int = 0, key: Any = None
    ) -> None:
        if isinstance(proj_size, bool) or not isinstance(proj_size, int) or not 0 <= proj_size < hidden_size:
            raise ConfigError(
                f"the proj_size of LSTM is 0 for none or less than hidden_size={hidden_size}, not {proj_size!r}"
            )
        own = projecting = key
        if proj_size and key is not None:
            own, projecting = np.asarray(random.split(key, 2))
        super().__init__(input_size, hidden_size, bias, fed_back=proj_size or None, key=own)
        self.weight_hr = glorot_uniform((int(hidden_size), int(proj_size)), key=projecting) if proj_size else None
        if self.bias_ih is not None:
            self.bias_ih[hidden_size : 2 * hidden_size] = 1

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size if self.weight_hr is None else int(self.weight_hr.shape[1])), self.hidden_size

    def step(self, projected: Array, state: Carry) -> Carry:
        h, c = state
        i, f, g, o = _split(projected + matmul(h, self.weight_hh), 4)
        kept = sigmoid(f) * c + sigmoid(i) * tanh(g)
        out = sigmoid(o) * tanh(kept)
        return out if self.weight_hr is None else matmul(out, self.weight_hr), kept


class GRUCell(Cell):
    """One step of :class:`chainrule.nn.GRU`: gates mix the old state with a candidate. Cho et al., EMNLP 2014.

    ``r = σ(x W_ir + b_ir + h W_hr + b_hr)``; ``z`` alike; ``n = tanh(x W_in + b_in + r (h W_hn + b_hn))``;
    ``h' = (1 - z) n + z h``. As in PyTorch, and in Keras with ``reset_after``, the reset gate acts on the product, not on h.
    x has shape (..., input_size) and h (..., hidden_size), zeros by default; returns h'.
    """

    gates = 3

    def project(self, x: Array) -> Array:
        # The candidate's b_hn stands inside the reset gate's product, so bias_hh belongs to the step.
        check_features(x, self.input_size)
        return _plus(matmul(x, self.weight_ih), self.bias_ih)

    def step(self, projected: Array, state: Carry) -> Carry:
        (h,) = state
        from_input = _split(projected, 3)
        from_state = _split(_plus(matmul(h, self.weight_hh), self.bias_hh), 3)
        r, z = (sigmoid(a + b) for a, b in zip(from_input[:2], from_state[:2], strict=True))
        n = tanh(from_input[2] + r * from_state[2])
        return (n + z * (h - n),)


def check_sizes(layer: str, **sizes: Any) -> None:
    """Raise :class:`ConfigError` for a size that is not an integer of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ConfigError(f"{layer} needs {name} to be an integer of at least 1, not {size!r}")


@operation
def _one_step(cell: Cell, x: ArrayLike, state: Any) -> Any:
    projected = cell.project(as_array(x))
    shapes = [(*projected.shape[:-1], size) for size in cell.state_sizes]
    if state is None:
        carry: Carry = tuple(zeros(wanted, projected.dtype) for wanted in shapes)
    else:
        carry = tuple(as_array(part) for part in (state if cell.carried > 1 else (state,)))
    for part, wanted in zip(carry, shapes, strict=True):
        if part.shape != wanted:
            raise ShapeError(
                f"the state of a step on input of shape {show_shape(as_array(x).shape)} has shape {show_shape(wanted)}, "
                f"not {show_shape(part.shape)}"
            )
    after = cell.step(projected, carry)
    return after if cell.carried > 1 else after[0]


def _split(x: Array, parts: int) -> list[Array]:
    """Equal parts of the last axis."""
    size = int(x.shape[-1]) // parts
    return [x[..., k * size : (k + 1) * size] for k in range(parts)]


def _plus(x: Array, *biases: ArrayLike | None) -> Array:
    for bias in biases:
        x = x if bias is None else x + bias
    return x
