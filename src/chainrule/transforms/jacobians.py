"""Whole Jacobians and Hessians, from vector products with all unit vectors at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import DTypeError, ShapeError, TraceError
from chainrule.core.trees import Tree
from chainrule.ir.sizes import is_symbolic
from chainrule.trace.array import Array, as_array
from chainrule.transforms.derivatives import extend_or_compile, grad, jvp, vjp
from chainrule.transforms.vectorise import vmap


def jacobian(function: Callable[..., Any], argnums: int = 0, mode: str = "reverse") -> Callable[..., Any]:
    """A function that returns ``∂ outputs / ∂ argument``, of shape (shape of the output, shape of the argument).

    Outputs and the argument are arrays, or trees, for which the result is a tree of outputs of trees of the argument.
    ``"reverse"`` costs about one backward pass per output, ``"forward"`` one forward derivative per input; both run all at once
    by :func:`vmap`. Raises :class:`ShapeError` for arrays with the batch size in their shape.
    """
    if mode not in ("reverse", "forward"):
        raise ShapeError(f"the mode of a jacobian is reverse or forward, not {mode!r}")

    def inner(*args: Any) -> Any:
        if not -len(args) <= argnums < len(args):
            raise TraceError(f"argument {argnums} is to be differentiated but only {len(args)} were passed")
        place = argnums % len(args)

        def of_one(x: Tree) -> Tree:
            return function(*args[:place], x, *args[place + 1 :])

        x = args[place]
        leaves, definition = trees.flatten(x)
        inputs = [_checked(leaf, "argument") for leaf in leaves]
        x = trees.unflatten(definition, inputs)
        outputs, out_definition = trees.flatten(of_one(x))
        shapes = [_checked(leaf, "output") for leaf in outputs]
        if mode == "reverse":
            rows = _by_outputs(of_one, x, shapes, out_definition)
        else:
            rows = _by_inputs(of_one, x, inputs, definition, shapes)
        return trees.unflatten(out_definition, [trees.unflatten(definition, row) for row in rows])

    return extend_or_compile(inner, f"jacobian({getattr(function, '__name__', 'function')})")


def hessian(function: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function that returns the second derivatives of a scalar function, of shape (shape of x, shape of x)."""
    return jacobian(grad(function, argnums), argnums)


def _by_outputs(of_one: Callable[[Tree], Tree], x: Tree, shapes: list[Array], definition: trees.TreeDef) -> list[Any]:
    """For every output the rows of its Jacobian: pulled back from the unit cotangents."""
    rows = []
    for number, output in enumerate(shapes):
        units = _units(output)

        def pulled(unit: Any, number: int = number) -> Tree:
            cotangents = [unit if k == number else as_array(np.zeros(_shape(o), o.dtype)) for k, o in enumerate(shapes)]
            (found,) = vjp(of_one, x, cotangents=trees.unflatten(definition, cotangents))[1]
            return found

        leaves = trees.leaves(vmap(pulled)(units))
        rows.append([leaf.reshape((*output.shape, *leaf.shape[1:])) for leaf in leaves])
    return rows


def _by_inputs(
    of_one: Callable[[Tree], Tree], x: Tree, inputs: list[Array], definition: trees.TreeDef, shapes: list[Array]
) -> list[Any]:
    """For every output its columns: pushed forward from the unit tangents."""
    columns: list[list[Any]] = [[] for _ in shapes]
    for number, given in enumerate(inputs):

        def pushed(unit: Any, number: int = number) -> Tree:
            tangents = [unit if k == number else as_array(np.zeros(_shape(i), i.dtype)) for k, i in enumerate(inputs)]
            return jvp(of_one, (x,), (trees.unflatten(definition, tangents),))[1]

        for place, leaf in enumerate(trees.leaves(vmap(pushed, out_axes=-1)(_units(given)))):
            columns[place].append(leaf.reshape((*shapes[place].shape, *given.shape)))
    return columns


def _units(array: Array) -> Any:
    """All unit vectors of an array's space, along a new first axis."""
    shape = _shape(array)
    count = int(np.prod(shape))
    return as_array(np.eye(count, dtype=array.dtype).reshape(count, *shape))


def _shape(array: Array) -> tuple[int, ...]:
    return tuple(int(size) for size in array.shape)


def _checked(leaf: Any, what: str) -> Array:
    array = as_array(leaf)
    if array.value.dtype not in FLOATS:
        raise DTypeError(f"a jacobian needs floating-point arrays, but an {what} is {array!r}")
    if is_symbolic(array.value.shape):
        raise ShapeError(
            f"a jacobian needs constant sizes, but an {what} is {array!r}; use vmap over the batch instead"
        )
    return array
