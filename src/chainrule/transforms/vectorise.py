"""``vmap``: a function of one element becomes a function of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.batching import batched
from chainrule.batching.rules import Batching, Many
from chainrule.core import trees
from chainrule.core.errors import ShapeError
from chainrule.core.trees import Tree
from chainrule.ir.graph import ArrayType, Value
from chainrule.ir.sizes import Dim
from chainrule.trace.array import Array, as_array
from chainrule.trace.context import Trace, current, entered
from chainrule.transforms.derivatives import extend_or_compile

Axes = int | None | Sequence[int | None]


def vmap(function: Callable[..., Tree], in_axes: Axes = 0, out_axes: int = 0) -> Callable[..., Any]:
    """A function that applies ``function`` to every element along an axis, as one program rather than a loop.

    ``in_axes`` says for all arguments, or for each, along which axis of its arrays the elements lie; None passes an argument whole
    to every element. Results have the elements along ``out_axes``. ``vmap(grad(loss), (None, 0, 0))(model, x, y)`` are the gradients
    of single examples. Every operation is rewritten for many elements at once (``batching/rules.py``); draws of random
    numbers and fixed points run element by element. Random numbers without ``key=`` are the same for all elements: pass a key of
    its own to each. Raises :class:`ShapeError` where sizes differ, or no argument has an axis to map over.
    """

    def inner(*args: Any) -> Any:
        context = current()
        assert context is not None
        axes = [in_axes] * len(args) if in_axes is None or isinstance(in_axes, int) else list(in_axes)
        if len(axes) != len(args):
            raise ShapeError(f"in_axes has {len(axes)} entries for {len(args)} arguments")
        given: list[Many] = []
        elements: list[tuple[trees.TreeDef, list[Value]]] = []
        sizes: dict[Dim, str] = {}
        for number, (argument, axis) in enumerate(zip(args, axes, strict=True)):
            leaves, definition = trees.flatten(argument)
            inside = []
            for leaf in leaves:
                array = as_array(leaf)
                if axis is None:
                    given.append(Many(array.value, False))
                    inside.append(Value(array.value.type))
                    continue
                array = _first(array, axis, number)
                sizes.setdefault(array.value.shape[0], f"argument {number}")
                given.append(Many(array.value, True))
                inside.append(Value(ArrayType(array.value.shape[1:], array.value.dtype)))
            elements.append((definition, inside))
        if len(sizes) != 1:
            found = ", ".join(f"{size} in {where}" for size, where in sizes.items())
            raise ShapeError(
                f"vmap needs one size along the mapped axes, but there is {found or 'no axis to map over'}"
            )
        (size,) = sizes
        body = Trace(context)
        with entered(body):
            arguments = [
                trees.unflatten(definition, [Array(value, body) for value in inside]) for definition, inside in elements
            ]
            leaves, definition = trees.flatten(function(*arguments))
            outputs = [as_array(leaf) for leaf in leaves]
        body.inputs = [*body.captures.values(), *(value for _, inside in elements for value in inside)]
        graph = body.close(getattr(function, "__name__", "function"), [array.value for array in outputs])
        captured = [Many(value, False) for value in body.captures]
        results = batched(graph, context, [*captured, *given], size)
        batching = Batching(context, size)
        arrays = [_moved(Array(batching.lift(many), context), out_axes) for many in results]
        return trees.unflatten(definition, arrays)

    return extend_or_compile(inner, f"vmap({getattr(function, '__name__', 'function')})")


def _first(array: Array, axis: int, argument: int) -> Array:
    """The array with the mapped axis first."""
    rank = len(array.shape)
    if not -rank <= axis < rank:
        raise ShapeError(
            f"vmap maps over axis {axis} of argument {argument}, which has an array of shape {array.shape}"
        )
    place = axis % rank
    return _transposed(array, (place, *(k for k in range(rank) if k != place))) if place else array


def _moved(array: Array, axis: int) -> Array:
    """The array with its first axis at ``axis``."""
    rank = len(array.shape)
    if not -rank <= axis < rank:
        raise ShapeError(f"vmap puts the elements along axis {axis} of a result, which has {rank} axes with them")
    place = axis % rank
    order = list(range(1, rank))
    order.insert(place, 0)
    return _transposed(array, tuple(order)) if place else array


def _transposed(array: Array, order: tuple[int, ...]) -> Array:
    return Array(array.home.transpose(array.value, order), array.home, array.weak)
