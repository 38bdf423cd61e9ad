"""The NumPy table: one row per primitive that has no body graph. Together with ``loops.py`` it *defines* the primitives.

A row takes the node and the batch size and returns a function of the operand arrays. Rows of ``UFUNCS`` also accept ``out=``.
:func:`computed_wide` is what they are for operands of bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from chainrule.core.dtypes import BFLOAT16, convert, to_numpy
from chainrule.core.errors import ShapeError
from chainrule.engines.reference import threefry
from chainrule.engines.reference.contraction import plan_contraction
from chainrule.engines.reference.special import erf
from chainrule.ir.graph import Node
from chainrule.ir.sizes import at, shape_at

NDArray = np.ndarray[Any, Any]
Kernel = Callable[..., Any]
Maker = Callable[[Node, int], Kernel]

# Elementwise maps that NumPy has as universal functions, able to write over an operand that is no longer needed.
UFUNCS: Mapping[str, np.ufunc] = {
    "neg": np.negative,
    "abs": np.absolute,
    "sign": np.sign,
    "floor": np.floor,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "logical_not": np.logical_not,
    "is_finite": np.isfinite,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floor_div": np.floor_divide,
    "remainder": np.remainder,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
}


def _logistic(x: NDArray) -> NDArray:
    # exp of a negative number never overflows, and both tails keep full relative accuracy.
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small), x.dtype)


# From here on numpy.where, which branches per element, is slower than five passes over the bits.
_LARGE = 4096
_WORDS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


def _select(condition: NDArray, x: NDArray, y: NDArray) -> NDArray:
    """``y ^ ((x ^ y) & mask)`` on the bits: the same as a choice, for NaN and signed zero too."""
    if condition.size < _LARGE:
        return np.where(condition, x, y)
    word = _WORDS[x.dtype.itemsize]
    mask = condition.astype(word)
    np.negative(mask, out=mask)
    bits = y.view(word)
    mask &= x.view(word) ^ bits
    mask ^= bits
    return mask.view(x.dtype)


def _cast(node: Node, batch: int) -> Kernel:
    dtype = node.attributes["dtype"]
    return lambda x: convert(x, dtype)


def _reduce_sum(node: Node, batch: int) -> Kernel:
    axes = node.attributes["axes"]
    # NumPy starts an empty sum at +0, which would turn -0 into +0 where nothing is summed.
    return (lambda x: np.add.reduce(x, axis=axes, dtype=x.dtype)) if axes else np.copy


def _reduce_max(node: Node, batch: int) -> Kernel:
    axes = node.attributes["axes"]
    _need_elements(node, axes, batch)
    return lambda x: np.maximum.reduce(x, axis=axes)


def _argmax(node: Node, batch: int) -> Kernel:
    axis = node.attributes["axis"]
    _need_elements(node, (axis,), batch)
    return lambda x: np.argmax(x, axis)


def _need_elements(node: Node, axes: Iterable[int], batch: int) -> None:
    """Sizes that depend on the batch are only known now."""
    shape = shape_at(node.inputs[0].shape, batch)
    if any(shape[axis] == 0 for axis in axes):
        raise ShapeError(
            f"{node.primitive.name} in {node.origin}: the largest element of an empty batch is not defined"
        )


def _contract(node: Node, batch: int) -> Kernel:
    a, b = (shape_at(value.shape, batch) for value in node.inputs)
    return plan_contraction(node.attributes["spec"], a, b, batch)


def _reshape(node: Node, batch: int) -> Kernel:
    shape = shape_at(node.attributes["shape"], batch)
    return lambda x: x.reshape(shape)


def _transpose(node: Node, batch: int) -> Kernel:
    order = node.attributes["order"]
    return lambda x: x.transpose(order)


def _broadcast(node: Node, batch: int) -> Kernel:
    shape, axes = shape_at(node.attributes["shape"], batch), node.attributes["axes"]
    index = tuple(slice(None) if axis in axes else np.newaxis for axis in range(len(shape)))
    return lambda x: np.broadcast_to(x[index], shape)


def _slice(node: Node, batch: int) -> Kernel:
    limits = shape_at(node.attributes["limits"], batch)
    index = tuple(map(slice, node.attributes["starts"], limits, node.attributes["strides"]))
    return lambda x: x[index]


def _pad(node: Node, batch: int) -> Kernel:
    low, inner, value = node.attributes["low"], node.attributes["inner"], node.attributes["value"]
    shape = shape_at(node.output.shape, batch)
    sizes = shape_at(node.inputs[0].shape, batch)
    index = tuple(
        slice(before, before + size + between * max(size - 1, 0), between + 1)
        for before, size, between in zip(low, sizes, inner, strict=True)
    )

    def pad(x: NDArray) -> NDArray:
        out = np.full(shape, value, x.dtype)
        out[index] = x
        return out

    return pad


def _gather(node: Node, batch: int) -> Kernel:
    lead = node.attributes["batch"]
    size = at(node.inputs[0].shape[lead], batch)
    result = shape_at(node.output.shape, batch)

    def gather(x: NDArray, indices: NDArray) -> NDArray:
        if indices.size == 0 or size == 0:
            return np.zeros(result, x.dtype)
        if indices.ndim == 0:
            # An index of rank 0 may give a scalar of NumPy's, which cannot be written to.
            indices = indices.reshape(1)
        inside = (indices >= 0) & (indices < size)
        everything = bool(inside.all())
        safe = indices if everything else np.where(inside, indices, 0)
        found: NDArray = x[(*_batch_index(safe, lead), safe)]
        if not everything:
            found[~inside] = 0
        return found.reshape(result)

    return gather


def _scatter_add(node: Node, batch: int) -> Kernel:
    lead = node.attributes["batch"]
    shape = shape_at(node.output.shape, batch)

    def scatter_add(x: NDArray, indices: NDArray) -> NDArray:
        out = np.zeros(shape, x.dtype)
        inside = (indices >= 0) & (indices < shape[lead])
        places = tuple(np.broadcast_to(i, indices.shape)[inside] for i in (*_batch_index(indices, lead), indices))
        np.add.at(out, places, x[inside])
        return out

    return scatter_add


def _batch_index(indices: NDArray, lead: int) -> list[NDArray]:
    """For each leading axis, its own positions shaped to broadcast against the indices."""
    return [
        np.arange(indices.shape[axis]).reshape([-1 if axis == k else 1 for k in range(indices.ndim)])
        for axis in range(lead)
    ]


def _iota(node: Node, batch: int) -> Kernel:
    shape, axis = shape_at(node.attributes["shape"], batch), node.attributes["axis"]
    count = convert(np.arange(shape[axis]), node.attributes["dtype"])
    array = np.broadcast_to(count.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)
    return lambda: array


def _constant(node: Node, batch: int) -> Kernel:
    value = node.attributes["value"]
    return lambda: value


def _extent(node: Node, batch: int) -> Kernel:
    value = np.asarray(at(node.attributes["size"], batch), np.int64)
    return lambda: value


def _random_bits(node: Node, batch: int) -> Kernel:
    shape = shape_at(node.attributes["shape"], batch)
    return lambda key, stream: threefry.random_bits(key, stream, shape)


_BFLOAT16 = to_numpy(BFLOAT16)
# These move elements and do not look at them.
_MOVES = frozenset(
    {
        *("select", "cast", "reshape", "transpose", "broadcast", "slice", "pad", "flip", "concatenate", "gather"),
        *("constant", "iota", "stop_gradient"),
    }
)


def computed_wide(node: Node) -> bool:
    """Whether the operands of a node are widened to float32 first, and its results rounded to bfloat16 where that is their type."""
    return node.primitive.name not in _MOVES and any(value.dtype == BFLOAT16 for value in node.inputs)


def widened(kernel: Kernel, node: Node) -> Kernel:
    """A kernel for float32 as one for bfloat16."""
    dtype = node.output.dtype

    def wide(*operands: NDArray) -> NDArray:
        result = np.asarray(kernel(*(x.astype(np.float32) if x.dtype == _BFLOAT16 else x for x in operands)))
        return convert(result, dtype)

    return wide


def _plain(function: Kernel) -> Maker:
    return lambda node, batch: function


# Operations whose result may share memory with an operand or a constant.
VIEWS = frozenset(
    {"cast", "reshape", "transpose", "broadcast", "slice", "flip", "stop_gradient", "constant", "iota", "extent"}
)

KERNELS: Mapping[str, Maker] = {
    **{name: _plain(ufunc) for name, ufunc in UFUNCS.items()},
    "logistic": _plain(_logistic),
    "erf": _plain(erf),
    "select": _plain(_select),
    "cast": _cast,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "argmax": _argmax,
    "contract": _contract,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "flip": lambda node, batch: lambda x: np.flip(x, node.attributes["axes"]),
    "concatenate": lambda node, batch: lambda *xs: np.concatenate(xs, node.attributes["axis"]),
    "gather": _gather,
    "scatter_add": _scatter_add,
    "constant": _constant,
    "iota": _iota,
    "extent": _extent,
    "random_bits": _random_bits,
    "stop_gradient": _plain(lambda x: x),
}
