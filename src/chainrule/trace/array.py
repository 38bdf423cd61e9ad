"""Symbolic arrays, and the way operations move between them and NumPy.

While a function is traced, its arguments are :class:`Array` objects: a type and no numbers. Their methods and operators have the
names and meanings of ``numpy.ndarray``, so that one function serves both. Outside tracing, operations on NumPy arrays compute at
once and return NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import numpy.typing as npt

from chainrule.core import trees
from chainrule.core.dtypes import (
    BOOL,
    FLOAT32,
    FLOAT64,
    FLOATS,
    INT64,
    INTEGERS,
    UINT32,
    DType,
    convert,
    dtype_name,
    is_float,
    to_numpy,
)
from chainrule.core.errors import DTypeError, ShapeError, TraceError
from chainrule.ir.graph import ArrayType, Value
from chainrule.ir.sizes import Dim, Shape, Size, is_symbolic
from chainrule.trace import values
from chainrule.trace.context import Context, Eager, current, entered

Axes = int | Sequence[int] | None
P = ParamSpec("P")
R = TypeVar("R")
# What Python's numbers are where they meet no array.
_NUMBERS: Mapping[type, DType] = {bool: BOOL, int: INT64, float: FLOAT64}


class Array:
    """An array that is being traced: a type without numbers. ``weak`` marks Python numbers, which adopt the other's type."""

    __slots__ = ("home", "value", "weak")
    __hash__ = object.__hash__

    def __init__(self, value: Value, home: Context, weak: bool = False) -> None:
        self.value = value
        self.home = home
        self.weak = weak

    # What it is.
    @property
    def shape(self) -> Shape:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return to_numpy(self.value.dtype)

    @property
    def ndim(self) -> int:
        return len(self.value.shape)

    @property
    def T(self) -> Array:
        return self.transpose()

    def __repr__(self) -> str:
        name = f" {self.value.name!r}" if self.value.name else ""
        return f"Array({self.value.type}{name})"

    def __len__(self) -> int:
        if not self.shape:
            raise TraceError("an array of rank 0 has no length")
        size = self.shape[0]
        if isinstance(size, Size):
            size.__index__()
        return cast(int, size)

    # What it cannot be while its numbers are unknown.
    def __bool__(self) -> bool:
        raise TraceError(
            f"the truth of {self!r} is not known while the function is traced, so `if`, `while`, `and`, `or` and `not` cannot "
            "depend on it; choose between values with chainrule.where(condition, a, b), combine conditions with & | ~, or pass "
            "the decision as a Python bool or int argument"
        )

    def _no_number(self) -> TraceError:
        return TraceError(
            f"{self!r} has no numbers while the function is traced; compute with it through operators and chainrule.ops, or "
            "return it and look at the result"
        )

    def __float__(self) -> float:
        raise self._no_number()

    def __int__(self) -> int:
        raise self._no_number()

    def __index__(self) -> int:
        raise self._no_number()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._no_number()

    def item(self) -> Any:
        raise self._no_number()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Array:
        """Operators with a NumPy array or number on their left come here; other functions of NumPy are refused."""
        reflected = _REFLECTED.get(ufunc) if method == "__call__" else None
        # What `array += traced` says: the name on the left is then that of the result.
        in_place = settings.keys() == {"out"} and settings["out"][0] is inputs[0]
        if reflected is None or isinstance(inputs[0], Array) or not (in_place or not settings):
            raise _not_of_numpy(ufunc.__name__, self)
        return reflected(inputs[1], inputs[0])

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> Any:
        if function in (np.shape, np.ndim):
            return self.shape if function is np.shape else self.ndim
        raise _not_of_numpy(function.__name__, self)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Array:
        b, (x,) = _here(self)
        return Array(values.index(b, x, key), b, self.weak)

    # Operators.
    def __add__(self, other: Any) -> Array:
        return binary("add", self, other)

    def __radd__(self, other: Any) -> Array:
        return binary("add", other, self)

    def __sub__(self, other: Any) -> Array:
        return binary("sub", self, other)

    def __rsub__(self, other: Any) -> Array:
        return binary("sub", other, self)

    def __mul__(self, other: Any) -> Array:
        return binary("mul", self, other)

    def __rmul__(self, other: Any) -> Array:
        return binary("mul", other, self)

    def __truediv__(self, other: Any) -> Array:
        return binary("div", self, other, floats=True)

    def __rtruediv__(self, other: Any) -> Array:
        return binary("div", other, self, floats=True)

    def __floordiv__(self, other: Any) -> Array:
        return binary("floor_div", self, other)

    def __rfloordiv__(self, other: Any) -> Array:
        return binary("floor_div", other, self)

    def __mod__(self, other: Any) -> Array:
        return binary("remainder", self, other)

    def __rmod__(self, other: Any) -> Array:
        return binary("remainder", other, self)

    def __pow__(self, other: Any) -> Array:
        if isinstance(other, int | float) and other == 2:
            return binary("mul", self, self) if self.value.dtype in FLOATS else self.astype(FLOAT32) ** 2
        return binary("pow", self, other, floats=True)

    def __rpow__(self, other: Any) -> Array:
        return binary("pow", other, self, floats=True)

    def __matmul__(self, other: Any) -> Array:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Array:
        return matmul(other, self)

    def __neg__(self) -> Array:
        return unary("neg", self)

    def __pos__(self) -> Array:
        return self

    def __abs__(self) -> Array:
        return unary("abs", self)

    def __eq__(self, other: object) -> Array:  # type: ignore[override]
        return binary("eq", self, other)

    def __ne__(self, other: object) -> Array:  # type: ignore[override]
        return binary("ne", self, other)

    def __lt__(self, other: Any) -> Array:
        return binary("lt", self, other)

    def __le__(self, other: Any) -> Array:
        return binary("le", self, other)

    def __gt__(self, other: Any) -> Array:
        return binary("lt", other, self)

    def __ge__(self, other: Any) -> Array:
        return binary("le", other, self)

    def __and__(self, other: Any) -> Array:
        return binary("logical_and", self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Array:
        return binary("logical_or", self, other)

    __ror__ = __or__

    def __invert__(self) -> Array:
        return unary("logical_not", self)

    # Methods of numpy.ndarray.
    def astype(self, dtype: npt.DTypeLike) -> Array:
        """The numbers as another type. Floats become integers as in Rust and XLA, on every machine: cut off towards zero, the
        largest or smallest integer of the type for what lies beyond it, 0 for NaN. Integers wrap, and only 0 is false."""
        b, (x,) = _here(self)
        return Array(b.as_type(x, dtype_name(dtype)), b)

    def reshape(self, *shape: Any) -> Array:
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer | Size) else shape
        b, (x,) = _here(self)
        return Array(values.reshape(b, x, tuple(_static(size) for size in wanted)), b, self.weak)

    def transpose(self, *axes: Any) -> Array:
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int | np.integer) else axes
        order = [values.normal_axis(axis, self.ndim) for axis in order] or list(reversed(range(self.ndim)))
        b, (x,) = _here(self)
        return Array(b.transpose(x, order), b, self.weak)

    def swapaxes(self, first: int, second: int) -> Array:
        order = list(range(self.ndim))
        one, two = values.normal_axis(first, self.ndim), values.normal_axis(second, self.ndim)
        order[one], order[two] = two, one
        return self.transpose(order)

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Array:
        return reduce("reduce_sum", self, axis, keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Array:
        total = reduce("reduce_sum", self if self.value.dtype in FLOATS else self.astype(FLOAT32), axis, keepdims)
        count: Dim = 1
        for k in values.normal_axes(axis, self.ndim):
            count = count * self.shape[k]
        return total / extent(count, total.value.dtype)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Array:
        return reduce("reduce_max", self, axis, keepdims)

    def min(self, axis: Axes = None, keepdims: bool = False) -> Array:
        return _backwards(reduce("reduce_max", _backwards(self), axis, keepdims))

    def argmax(self, axis: int) -> Array:
        b, (x,) = _here(self)
        return Array(b.argmax(x, values.normal_axes(axis, self.ndim)[0]), b)


_REFLECTED: Mapping[np.ufunc, Callable[[Array, Any], Array]] = {
    np.add: Array.__radd__,
    np.subtract: Array.__rsub__,
    np.multiply: Array.__rmul__,
    np.divide: Array.__rtruediv__,
    np.floor_divide: Array.__rfloordiv__,
    np.remainder: Array.__rmod__,
    np.power: Array.__rpow__,
    np.matmul: Array.__rmatmul__,
    np.equal: Array.__eq__,
    np.not_equal: Array.__ne__,
    np.less: Array.__gt__,
    np.less_equal: Array.__ge__,
    np.greater: Array.__lt__,
    np.greater_equal: Array.__le__,
    np.bitwise_and: Array.__and__,
    np.bitwise_or: Array.__or__,
}


def _not_of_numpy(name: str, array: Array) -> TraceError:
    return TraceError(
        f"numpy.{name} needs numbers, and {array!r} has none while the function is traced; use the functions of NumPy's names in "
        "chainrule, such as chainrule.tanh, and methods such as x.sum()"
    )


ArrayLike = Array | np.ndarray[Any, Any] | np.generic | float | int | bool | Sequence[Any]


def _backwards(x: Array) -> Array:
    """The same order upside down: a map that is its own inverse and overflows for no integer."""
    if x.value.dtype in FLOATS:
        return -x
    if x.value.dtype == BOOL:
        return ~x
    return (2**32 - 1 if x.value.dtype == UINT32 else -1) - x


def _static(size: Any) -> Dim:
    return size if isinstance(size, Size) else int(size)


def _here(*arrays: Array) -> tuple[Context, list[Value]]:
    """The current context, and the values of the arrays as seen from it."""
    context = current()
    if context is None or any(array.home.closed for array in arrays):
        raise _ended(repr(arrays[0]))
    return context, [context.capture(array.value, array.home) for array in arrays]


def _ended(what: str) -> TraceError:
    return TraceError(
        f"{what} is used after the tracing in which it was made has ended; return it from the traced function instead"
    )


def as_array(x: Any, dtype: DType | None = None) -> Array:
    """Anything array-like as an array of the current context. Python numbers are weak: they adopt the type they meet."""
    context = current()
    if context is None:
        # Operations enter a context before they convert their operands: only an operator of a leaked array comes here.
        raise _ended("a symbolic array")
    if isinstance(x, Array):
        value, weak = _captured(context, x), x.weak
    else:
        weak = isinstance(x, bool | int | float) or (isinstance(x, np.generic) and dtype is None)
        value = _placed(context, _numbers(x))
    if dtype is not None:
        return Array(context.as_type(value, dtype), context)
    return Array(value, context, weak)


def _captured(context: Context, x: Array) -> Value:
    if x.home.closed:
        raise _ended(repr(x))
    return context.capture(x.value, x.home)


def _numbers(x: Any) -> npt.NDArray[Any]:
    """What is not traced, as a NumPy array of a type that Chainrule computes with."""
    array = np.asarray(x)
    if array.dtype.kind in "USOMmV" and not is_float(array.dtype):
        raise DTypeError(f"{type(x).__name__} does not hold numbers; convert it to an array of numbers first")
    return array.astype(to_numpy(_adopted(array.dtype)), copy=False)


def _placed(context: Context, array: npt.NDArray[Any]) -> Value:
    if isinstance(context, Eager):
        return context.hold(array, ArrayType(tuple(array.shape), dtype_name(array.dtype)))
    return context.constant(array)


def _adopted(dtype: np.dtype[Any]) -> DType:
    """The nearest type that Chainrule computes with, for types that it can represent exactly."""
    if dtype.kind == "f" and dtype.itemsize < 4:
        return FLOAT32
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return "int32"
    if dtype.kind == "u" and dtype.itemsize == 8:
        return INT64
    return dtype_name(dtype)


def _common(*operands: Any, floats: bool = False) -> tuple[Context, list[Value], bool]:
    """Operands brought to one element type and one shape. Python numbers are written in that type at once."""
    arrays = [x if type(x) in _NUMBERS else as_array(x) for x in operands]
    b = current()
    if b is None:
        raise _ended("a symbolic array")
    kinds = [(a.value.dtype, a.weak) if isinstance(a, Array) else (_NUMBERS[type(a)], True) for a in arrays]
    dtype = values.common_dtype(kinds)
    if floats and dtype not in FLOATS:
        dtype = FLOAT32
    for x in operands:
        if dtype in INTEGERS and type(x) is int and not np.iinfo(dtype).min <= x <= np.iinfo(dtype).max:
            raise DTypeError(f"the number {x} does not fit into {dtype}; convert the array to a wider type first")
    with np.errstate(over="ignore"):
        placed = [
            b.as_type(a.value, dtype) if isinstance(a, Array) else _placed(b, convert(_numbers(a), dtype))
            for a in arrays
        ]
    shape = values.broadcast_shapes([value.shape for value in placed])
    return b, [values.broadcast_to(b, value, shape) for value in placed], all(weak for _, weak in kinds)


def binary(name: str, x: Any, y: Any, *, floats: bool = False) -> Array:
    """An elementwise primitive of two operands, after promotion and broadcasting."""
    b, aligned, weak = _common(x, y, floats=floats)
    return Array(b.emit(name, aligned)[0], b, weak)


def unary(name: str, x: Any, *, floats: bool = False) -> Array:
    """An elementwise primitive of one operand; ``floats`` converts integers to float32 first."""
    array = as_array(x)
    b = array.home
    value = array.value
    if floats and value.dtype not in FLOATS:
        value = b.cast(value, FLOAT32)
    return Array(b.emit(name, [value])[0], b, array.weak)


def select(condition: Any, x: Any, y: Any) -> Array:
    """``x`` where the condition is true, else ``y``, after promotion and broadcasting of all three."""
    chosen = as_array(condition)
    b, (left, right), weak = _common(x, y)
    test = chosen.value
    if test.dtype != BOOL:
        test = b.ne(test, b.full_like(test, 0))
    shape = values.broadcast_shapes([test.shape, left.shape])
    operands = [values.broadcast_to(b, value, shape) for value in (test, left, right)]
    return Array(b.emit("select", operands)[0], b, weak)


def matmul(x: Any, y: Any) -> Array:
    left, right = as_array(x), as_array(y)
    b = left.home
    dtype = values.common_dtype([(left.value.dtype, left.weak), (right.value.dtype, right.weak)])
    return Array(values.matmul(b, b.as_type(left.value, dtype), b.as_type(right.value, dtype)), b)


def reduce(name: str, x: Array, axis: Axes, keepdims: bool) -> Array:
    b, (value,) = _here(x)
    axes = values.normal_axes(axis, x.ndim)
    if name == "reduce_sum" and value.dtype == BOOL:
        value = b.cast(value, INT64)
    try:
        result = b.emit(name, [value], {"axes": axes})[0]
    except IndexError:
        raise ShapeError(f"axes {axes} do not exist in {x!r}") from None
    return Array(values.restore_axes(b, result, x.shape, axes) if keepdims else result, b, x.weak)


def extent(size: Dim, dtype: DType) -> Array:
    """A size as a scalar array, also when it depends on the batch size."""
    b = current()
    assert b is not None
    if not is_symbolic((size,)):
        return Array(b.constant(size, dtype), b)
    return Array(b.cast(b.extent(size), dtype), b)


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function on arrays be called outside tracing: it then computes at once and returns NumPy arrays."""

    @wraps(function)
    def applied(*args: P.args, **kwargs: P.kwargs) -> R:
        if current() is not None:
            return function(*args, **kwargs)
        context = Eager()
        with entered(context):
            result = function(*args, **kwargs)
        return cast(R, trees.tree_map(lambda leaf: _computed(context, leaf), result))

    return applied


def _computed(context: Eager, leaf: Any) -> Any:
    if not isinstance(leaf, Array):
        return leaf
    array = context.arrays[leaf.value]
    if leaf.weak and array.dtype == np.float64:
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    # A result may be an operand, a constant or a view of one, or another result; callers own what they get.
    if not (array.flags.owndata and array.flags.writeable) or id(array) in context.owned_outside:
        return np.array(array)
    context.owned_outside.add(id(array))
    return array
