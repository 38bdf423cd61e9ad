"""Recording a function: how the leaves of its arguments enter, the graph, and how its result is put together again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import dtype_name
from chainrule.core.errors import ShapeError, TraceError
from chainrule.core.garbage import uncollected
from chainrule.ir.graph import ArrayType, Graph
from chainrule.ir.sizes import BATCH, Shape
from chainrule.ir.verify import verify
from chainrule.trace.array import Array, as_array
from chainrule.trace.context import Trace, entered

# Stands among the leaves of a result for an array that the graph computes.
ARRAY = object()


@dataclass(frozen=True, slots=True)
class Leaf:
    """How one leaf of the arguments enters the program: traced with a type, or static with a value."""

    type: ArrayType | None
    weak: bool = False
    static: Hashable = None


@dataclass(frozen=True, slots=True)
class Traced:
    """A function recorded for one structure of arguments: the graph, and how to rebuild its result."""

    graph: Graph
    result: trees.TreeDef
    statics: tuple[Any, ...]
    uses_key: bool


def describe_leaf(leaf: Any, batched: bool, name: str) -> Leaf:
    if isinstance(leaf, float):
        return Leaf(ArrayType((), "float64"), weak=True)
    if isinstance(leaf, np.ndarray | np.generic):
        if batched and not leaf.shape:
            raise ShapeError(f"argument {name!r} has the batch size as its first axis, but a scalar was passed")
        return _array_leaf((BATCH, *leaf.shape[1:]) if batched else leaf.shape, leaf.dtype)
    try:
        hash(leaf)
    except TypeError:
        raise TraceError(
            f"argument {name!r} contains a {type(leaf).__name__}, which is neither an array nor hashable; convert it to a "
            "NumPy array"
        ) from None
    return Leaf(None, static=(type(leaf), leaf))


@lru_cache(maxsize=4096)
def _array_leaf(shape: Shape, dtype: np.dtype[Any]) -> Leaf:
    return Leaf(ArrayType(shape, dtype_name(as_supported(dtype))))


def as_supported(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Narrow integers and floats widen to the nearest type that Chainrule computes with."""
    if dtype.kind == "f" and dtype.itemsize < 4:
        return np.dtype(np.float32)
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return np.dtype(np.int32)
    if dtype.kind == "u" and dtype.itemsize == 8:
        return np.dtype(np.int64)
    return dtype.newbyteorder("=")


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def record(function: Callable[..., Any], bound: dict[str, Any], described: Sequence[Leaf], name: str) -> Traced:
    """Record the function on symbolic arguments."""
    with uncollected():
        return _recorded(function, bound, described, name)


def _recorded(function: Callable[..., Any], bound: dict[str, Any], described: Sequence[Leaf], name: str) -> Traced:
    context = Trace()
    remaining = iter(described)
    arguments = {}
    for argument, tree in bound.items():
        leaves, definition = trees.flatten(tree)
        replaced = []
        for leaf, place in zip(leaves, trees.places(definition), strict=True):
            how = next(remaining)
            if how.type is None:
                replaced.append(leaf)
            else:
                label = f"{argument}.{place.path}" if place.path else argument
                replaced.append(Array(context.input(how.type, label), context, how.weak))
        arguments[argument] = trees.unflatten(definition, replaced)
    with entered(context):
        result = _apply(function, arguments)
        leaves, definition = trees.flatten(result)
        names = [place.path for place in trees.places(definition)]
        statics, outputs, output_names = [], [], []
        for leaf, label in zip(leaves, names, strict=True):
            if isinstance(leaf, Array | np.ndarray | np.generic | float | int) and not isinstance(leaf, bool):
                statics.append(ARRAY)
                array = as_array(leaf)
                outputs.append(_settled(array).value)
                output_names.append(label)
            else:
                statics.append(leaf)
    if context.key_input is not None:
        context.inputs.append(context.key_input)
    graph = verify(context.close(name, outputs, output_names))
    return Traced(graph, definition, tuple(statics), context.key_input is not None)


def _settled(array: Array) -> Array:
    """A weak result becomes float32: a Python number that nothing gave a width."""
    if array.weak and array.value.dtype == "float64":
        return as_array(array, "float32")
    return as_array(array)


def _apply(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    positional, keyword = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            positional.extend(arguments[name])
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            keyword.update(arguments[name])
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            keyword[name] = arguments[name]
        else:
            positional.append(arguments[name])
    return function(*positional, **keyword)
