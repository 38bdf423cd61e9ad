"""Recurrent layers: a cell along the time axis of sequences of shape (N, T, C)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from chainrule.core.errors import ConfigError, DTypeError, ShapeError
from chainrule.core.trees import State, replace_leaves
from chainrule.nn.cells import Carry, Cell, GRUCell, LSTMCell, RNNCell, check_sizes
from chainrule.nn.dropout import Dropout
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features, check_lengths
from chainrule.ops import random
from chainrule.ops.arrays import arange, concatenate, scatter_add, stack, take, zeros
from chainrule.ops.loops import scan
from chainrule.ops.math import stop_gradient, where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.scope import is_training, scope
from chainrule.trace.state import read_state, record_state
from chainrule.trace.values import show_shape

M = TypeVar("M", bound=Module)


class Recurrent(Module):
    """What RNN, LSTM and GRU share: layers of cells, each running along time, forwards or in both directions.

    ``layer(x, state=None, *, lengths=None, mask=None)`` takes x of shape (N, T, input_size) and returns ``(output, state)``:
    ``output`` (N, T, D · hidden_size) holds the top layer's states at every step, the D = 2 directions of ``bidirectional`` side
    by side; ``state`` (N, num_layers · D, hidden_size) the state of every layer and direction after its last step, in PyTorch's
    order (layer 0 forwards, layer 0 backwards, layer 1 ...) but with the batch first; an LSTM's is a pair of such arrays.
    ``state`` as an argument is where the sequences start, zeros by default. ``return_state=False`` returns the output alone, which
    a Sequential needs, and with ``return_sequences=False`` the output is that at each sequence's end, (N, D · hidden_size).

    ``lengths`` (N,) says how many steps of each sequence count; ``mask`` (N, T) is true at those that do. Elsewhere the state
    stays as it is and the output is 0, so the state returned is that at each sequence's own end, and the backward direction starts
    there: the results of PyTorch's packed sequences. ``dropout`` acts on the output of every layer but the last.

    The gradient is backpropagation through time (Werbos 1990). ``truncate=k`` cuts it before the steps k, 2k, ... of a call.
    ``stateful=N`` carries the state from one training call to the next, for sequences of which N run side by side in batches that
    follow one another: a call starts where the last one ended, without a gradient to it, which is truncated backpropagation
    through time (Williams & Peng 1990). A last batch may be smaller; a larger one is refused, and becomes NaN in a step for any batch
    size. :func:`reset_states` starts afresh. At inference the state is an argument.
    """

    kind: ClassVar[type[Cell]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        return_sequences: bool = True,
        return_state: bool = True,
        stateful: int | None = None,
        truncate: int | None = None,
        key: Any = None,
        **settings: Any,
    ) -> None:
        name = type(self).__name__
        check_sizes(name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        check_sizes(name, **{k: v for k, v in (("stateful", stateful), ("truncate", truncate)) if v is not None})
        directions = 2 if bidirectional else 1
        count = num_layers * directions
        keys = [None] * count if key is None else list(np.asarray(random.split(key, count)))
        made: list[Cell] = []
        for k in range(count):
            size = input_size if k < directions else directions * made[0].state_sizes[0]
            made.append(self.kind(size, hidden_size, bias, key=keys[k], **settings))
        self.layers = tuple(made[::directions])
        self.reverse_layers = tuple(made[1::directions]) if bidirectional else ()
        self.dropout = Dropout(dropout)
        self.return_sequences = bool(return_sequences)
        self.return_state = bool(return_state)
        self.truncate = truncate
        self.stateful = stateful
        shapes = [(stateful or 0, count, size) for size in made[0].state_sizes]
        self.state = tuple(State(np.zeros(shape, np.float32)) for shape in shapes) if stateful else None

    @property
    def input_size(self) -> int:
        return self.layers[0].input_size

    @property
    def hidden_size(self) -> int:
        return self.layers[0].hidden_size

    def forward(
        self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None
    ) -> Any:
        return _run(self, x, state, lengths, mask)


class RNN(Recurrent):
    """The simple recurrent layer ``h' = tanh(x W_ih + b_ih + h W_hh + b_hh)``, or with ``nonlinearity="relu"``. Elman 1990.

    Arguments, results and settings are those of :class:`Recurrent`.
    """

    kind = RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        **settings: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, nonlinearity=nonlinearity, **settings)


class LSTM(Recurrent):
    """Long short-term memory, a :class:`chainrule.nn.LSTMCell` along time; the state is a pair (h, c).

    ``proj_size=p`` gives outputs and h p numbers instead of ``hidden_size``: see the cell.
    Arguments, results and settings are those of :class:`Recurrent`. Hochreiter & Schmidhuber 1997.
    """

    kind = LSTMCell


class GRU(Recurrent):
    """Gated recurrent units, a :class:`chainrule.nn.GRUCell` along time.

    Arguments, results and settings are those of :class:`Recurrent`. Cho et al., EMNLP 2014.
    """

    kind = GRUCell


def reset_states(model: M) -> M:
    """A copy of a model in which every stateful recurrent layer starts from zeros again."""
    held = {path: m for path, m in model.named_modules().items() if isinstance(m, Recurrent) and m.stateful}
    zeroed = {
        f"{path}.{name}" if path else name: np.zeros(leaf.shape, leaf.dtype)
        for path, module in held.items()
        for name, leaf in module.state_leaves().items()
    }
    reset: M = replace_leaves(model, zeroed)
    return reset


def check_streams(model: Module, batch: int, shuffled: bool) -> None:
    """Raise :class:`ConfigError` where batches of so many sequences cannot go on with the states that layers carry."""
    for path, layer in model.named_modules().items():
        if isinstance(layer, Recurrent) and layer.stateful:
            which = f"layer {path!r} ({type(layer).__name__}) carries the state of {layer.stateful} sequences"
            if batch > layer.stateful:
                raise ConfigError(
                    f"{which}, so a batch has at most so many, not {batch}; use batch_size={layer.stateful}"
                )
            if shuffled:
                raise ConfigError(f"{which} from one batch to the next, which must go on with them; use shuffle=False")


@operation
def _run(layer: Recurrent, x: ArrayLike, state: Any, lengths: ArrayLike | None, mask: ArrayLike | None) -> Any:
    array = as_array(x)
    if array.ndim != 3:
        raise ShapeError(f"the input should have shape (N, T, C), not {show_shape(array.shape)}")
    check_features(array, layer.input_size)
    batch, steps = array.shape[:2]
    counted = _counted(batch, steps, lengths, mask)
    directions = 2 if layer.reverse_layers else 1
    start = _start(layer, batch, state)
    rows: Any = array.transpose(1, 0, 2)
    ends: list[Carry] = []
    for number in range(len(layer.layers)):
        if number:
            rows = layer.dropout(rows)
        outputs = []
        for direction, cells in enumerate((layer.layers, layer.reverse_layers)[:directions]):
            with scope(f"{'reverse_' if direction else ''}layers.{number}"):
                place = number * directions + direction
                first = None if start is None else tuple(part[:, place] for part in start)
                end, output = _along_time(cells[number], rows, first, counted, bool(direction), layer.truncate)
            ends.append(end)
            outputs.append(output)
        rows = concatenate(outputs, -1) if directions > 1 else outputs[0]
    return _returned(layer, rows, ends)


def _along_time(
    cell: Cell, rows: Array, start: Carry | None, counted: Array | None, backwards: bool, truncate: int | None
) -> tuple[Carry, Array]:
    """The last state and the stacked outputs of a cell over rows of shape (T, N, C)."""
    projected = cell.project(rows)
    if start is None:
        start = tuple(zeros((*rows.shape[1:-1], size), projected.dtype) for size in cell.state_sizes)
    carry = tuple(part.astype(projected.dtype) for part in start)

    def body(state: Carry, row: tuple[Array, Array | None]) -> tuple[Carry, Array]:
        given, counts = row
        after = cell.step(given, state)
        if counts is None:
            return after, after[0]
        kept = tuple(where(counts, later, before) for later, before in zip(after, state, strict=True))
        return kept, where(counts, after[0], 0)

    end, outputs = scan(body, carry, (projected, counted), reverse=backwards, truncate=truncate)
    return end, outputs


def _returned(layer: Recurrent, rows: Array, ends: list[Carry]) -> Any:
    """What a call returns, and the state that it records."""
    state = tuple(stack(parts, 1) for parts in zip(*ends, strict=True))
    if layer.state is not None and is_training():
        for held, part in zip(layer.state, state, strict=True):
            _record(held.value, part)
    if layer.return_sequences:
        output = rows.transpose(1, 0, 2)
    else:
        output = concatenate([end[0] for end in ends[len(ends) - (2 if layer.reverse_layers else 1) :]], -1)
    if not layer.return_state:
        return output
    return output, (state if layer.kind.carried > 1 else state[0])


def _start(layer: Recurrent, batch: Any, state: Any) -> Carry | None:
    """The given state, the carried one, or None for zeros."""
    count = len(layer.layers) + len(layer.reverse_layers)
    if state is not None:
        parts = tuple(as_array(part) for part in (state if layer.kind.carried > 1 else (state,)))
        for part, size in zip(parts, layer.layers[0].state_sizes, strict=True):
            wanted = (batch, count, size)
            if part.shape != wanted:
                raise ShapeError(
                    f"the initial state should have shape {show_shape(wanted)} (batch, layers · directions, size), "
                    f"not {show_shape(part.shape)}"
                )
        return parts
    if layer.state is None or not is_training():
        return None
    held = tuple(as_array(read_state(part.value)) for part in layer.state)
    if isinstance(batch, int):
        if batch != layer.stateful:
            raise ShapeError(
                f"a layer with stateful={layer.stateful} takes batches of {layer.stateful} sequences, not {batch}; the state belongs "
                "to sequences that go on from one batch to the next"
            )
        return held
    # The size of the batch is a symbol: its rows are the first of those that are carried. More than these have no state.
    rows = arange(batch)
    carried = (rows < layer.stateful)[:, None, None]
    return tuple(where(carried, take(part, rows, 0), np.nan) for part in held)


def _record(old: Any, new: Array) -> None:
    """Carry a state on: its numbers, without a gradient to the call that made them."""
    kept = as_array(old)
    if not isinstance(new.shape[0], int):
        new = scatter_add(new, arange(new.shape[0]), kept.shape[0])
    record_state(old, stop_gradient(new.astype(kept.dtype)))


def _counted(batch: Any, steps: Any, lengths: ArrayLike | None, mask: ArrayLike | None) -> Array | None:
    """Which steps count, of shape (T, N, 1); None where all do."""
    if lengths is not None and mask is not None:
        raise ConfigError("give lengths or a mask, not both: lengths n are the mask that is true before step n")
    if mask is not None:
        chosen = as_array(mask)
        if chosen.shape != (batch, steps):
            raise ShapeError(
                f"the mask should have shape {show_shape((batch, steps))} (N, T), not {show_shape(chosen.shape)}"
            )
        return (chosen if chosen.dtype == np.bool_ else chosen != 0).transpose(1, 0)[..., None]
    if lengths is None:
        return None
    counts = as_array(lengths)
    if counts.shape != (batch,):
        raise ShapeError(f"lengths should have shape {show_shape((batch,))} (N,), not {show_shape(counts.shape)}")
    if counts.dtype.kind not in "iu":
        raise DTypeError(f"lengths are integers, not {counts.dtype}")
    check_lengths(lengths, steps)
    before: Array = arange(steps, counts.dtype)[:, None] < counts
    return before[..., None]
