"""What the attributes of primitives may hold. An attribute of one name means the same in every row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chainrule.core.errors import GraphError, ShapeError
from chainrule.ir.contraction import Contraction
from chainrule.ir.graph import Graph
from chainrule.ir.sizes import Size


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_size(value: Any) -> bool:
    return _is_int(value) or isinstance(value, Size)


def _all(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) is tuple and all(test(item) for item in value)


# What each attribute must be, in words and as a test. Whether it fits the operands is the typing rule's business.
_Kind = tuple[str, Callable[[Any], bool]]
_INTS: _Kind = ("a tuple of integers", _all(_is_int))
_SIZES: _Kind = ("a tuple of sizes", _all(_is_size))
_COUNT: _Kind = ("a count", _is_count)
_KINDS: Mapping[str, _Kind] = {
    "axes": _INTS,
    "axis": ("an integer", _is_int),
    "backward": ("a graph or nothing", lambda value: value is None or isinstance(value, Graph)),
    "batch": _COUNT,
    "body": ("a graph", lambda value: isinstance(value, Graph)),
    "carries": _COUNT,
    "consts": _COUNT,
    "dtype": ("the name of an element type", lambda value: isinstance(value, str)),
    "high": _INTS,
    "inner": _INTS,
    "label": ("a text", lambda value: isinstance(value, str)),
    "length": _COUNT,
    "limits": _SIZES,
    "low": _INTS,
    "max_iterations": _COUNT,
    "order": _INTS,
    "reverse": ("true or false", lambda value: isinstance(value, bool)),
    "shape": _SIZES,
    "size": ("a size", _is_size),
    "spec": ("a contraction", lambda value: isinstance(value, Contraction)),
    "starts": _INTS,
    "strides": _INTS,
    "tolerance": ("a number", lambda value: isinstance(value, float)),
    "value": ("a number or an array", lambda value: isinstance(value, bool | int | float | np.ndarray)),
}


def check_attributes(primitive: str, attributes: Mapping[str, Any]) -> None:
    """Raise :class:`GraphError` for an attribute of another kind, :class:`ShapeError` for a negative size."""
    for name, value in attributes.items():
        kind, fits = _KINDS[name]
        if not fits(value) or (name == "value" and (primitive == "constant") != isinstance(value, np.ndarray)):
            raise GraphError(f"attribute {name} of {primitive} must be {kind}, not {value!r}")
        for size in _sizes(name, value):
            if isinstance(size, int) and size < 0:
                raise ShapeError(f"attribute {name} of {primitive} has the negative size {size}")


def _sizes(name: str, value: Any) -> tuple[Any, ...]:
    match name:
        case "shape" | "limits":
            return tuple(value)
        case "size":
            return (value,)
        case "spec":
            return (*value.extents, *value.shape)
        case _:
            return ()


def normal_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with NumPy's scalars as Python's and sequences as tuples, so that they print, compare and hash alike."""
    return {name: _normal(value) for name, value in attributes.items()}


def _normal(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple([_normal(item) for item in value])
    if isinstance(value, np.generic):
        return value.item()
    return value
