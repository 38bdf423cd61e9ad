"""Derivatives of functions: gradients, vector products with Jacobians and Hessians.

All are written with backpropagation alone. Inside a traced function they extend the trace; outside they compile and run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import ConfigError, DTypeError, ShapeError, TraceError
from chainrule.core.trees import Tree
from chainrule.grad import STANDARD, RuleSet
from chainrule.grad.backprop import pull_back
from chainrule.ir.graph import Value
from chainrule.trace.array import Array, as_array
from chainrule.trace.context import Context, Eager, current
from chainrule.trace.state import collect_state
from chainrule.transforms.compilation import Compiled


class _Pulled:
    """A call recorded in a context, whose result can be pulled back to the arguments that were watched."""

    def __init__(
        self, function: Callable[..., Tree], args: Sequence[Tree], watched: Sequence[int], rules: RuleSet
    ) -> None:
        context = current()
        assert context is not None
        if isinstance(context, Eager):
            raise TraceError(
                "a gradient was asked for inside an operation that computes at once; call the whole function through "
                "chainrule.compile"
            )
        self.context: Context = context
        self.rules = rules
        self.leaves: list[list[Array]] = []
        self.definitions: list[trees.TreeDef] = []
        self.moving: list[list[bool]] = []
        given = list(args)
        for number in watched:
            given[number] = self._watch(given[number])
        start = len(context.nodes)
        self.result = function(*given)
        self.nodes = tuple(context.nodes[start:])

    def _watch(self, tree: Tree) -> Tree:
        """Leaves under fresh names, so that only their use as this argument counts."""
        leaves, definition = trees.flatten(tree)
        arrays = [as_array(leaf) for leaf in leaves]
        arrays = [Array(self.context.alias(a.value), self.context, a.weak) for a in arrays]
        places = trees.places(definition)
        self.leaves.append(arrays)
        self.definitions.append(definition)
        self.moving.append([a.value.dtype in FLOATS and not p.is_state for a, p in zip(arrays, places, strict=True)])
        return trees.unflatten(definition, arrays)

    def pull(self, outputs: Sequence[Value], cotangents: Sequence[Value]) -> list[Tree]:
        """Cotangents of the watched arguments, zero for state and for integers."""
        wrt = [a.value for group, moves in zip(self.leaves, self.moving) for a, m in zip(group, moves) if m]
        found = iter(pull_back(self.context, self.nodes, outputs, cotangents, wrt, self.rules))
        results = []
        for group, moves, definition in zip(self.leaves, self.moving, self.definitions, strict=True):
            values = [
                next(found) if m else self.context.full(a.value.type, 0) for a, m in zip(group, moves, strict=True)
            ]
            arrays = [Array(value, self.context, a.weak) for value, a in zip(values, group, strict=True)]
            results.append(trees.unflatten(definition, arrays))
        return results


def extend_or_compile(inner: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function that extends the trace where there is one, and otherwise compiles and runs."""
    inner.__name__ = name
    program: Compiled[..., Any] = Compiled(inner, (), "reference", ())

    def applied(*args: Any, **kwargs: Any) -> Any:
        return program(*args, **kwargs)

    applied.__name__ = name
    return applied


def value_and_grad(
    function: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    has_aux: bool = False,
    state: bool = False,
    rules: RuleSet = STANDARD,
) -> Callable[..., Any]:
    """A function that returns ``(loss, gradients)`` of a scalar function with respect to argument ``argnums``.

    The gradient has the structure of the argument (a model, a dict, an array); state and integers in it get zeros. With
    ``has_aux`` the function returns ``(loss, aux)``, and so does the first result. With ``state`` the new state of layers is
    collected, and the result is ``((loss, new_model), gradients)``, where the model is the first of ``argnums``; with both,
    ``((loss, new_model, aux), gradients)``. ``rules`` replaces the chain rule by another :class:`RuleSet`. Raises
    :class:`ShapeError` when the loss is no scalar, and :class:`ConfigError` where a rule's scope matches no layer.
    """
    watched = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def inner(*args: Any, **kwargs: Any) -> Any:
        if max(watched) >= len(args):
            raise TraceError(
                f"argument {max(watched)} is to be differentiated but only {len(args)} were passed by position"
            )
        with collect_state() if state else _no_collection() as collection:
            call = _Pulled(lambda *a: function(*a, **kwargs), args, watched, rules)
        rules.check_scopes(call.nodes)
        loss, aux = _split_result(call.result, has_aux)
        context = call.context
        gradients = call.pull([loss.value], [context.full(loss.value.type, 1)])
        head: tuple[Any, ...] = (loss,)
        if collection is not None:
            model = trees.unflatten(call.definitions[0], call.leaves[0])
            head = (*head, collection.apply(model))
        if has_aux:
            head = (*head, aux)
        return (head[0] if len(head) == 1 else head), (gradients[0] if isinstance(argnums, int) else tuple(gradients))

    return extend_or_compile(inner, f"value_and_grad({getattr(function, '__name__', 'function')})")


class _no_collection:  # noqa: N801 - used like a function
    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def _split_result(result: Any, has_aux: bool) -> tuple[Array, Any]:
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
        raise TraceError("with has_aux=True the function must return a pair (loss, aux)")
    loss, aux = result if has_aux else (result, None)
    array = as_array(loss)
    if array.shape != ():
        raise ShapeError(f"a gradient needs a scalar loss, not {array!r}; reduce it with .mean() or .sum() first")
    if array.value.dtype not in FLOATS:
        raise DTypeError(f"a gradient needs a floating-point loss, not {array!r}")
    return array, aux


def grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, *, rules: RuleSet = STANDARD
) -> Callable[..., Any]:
    """A function that returns the gradient of a scalar function with respect to argument ``argnums``."""
    both = value_and_grad(function, argnums, rules=rules)

    def inner(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return extend_or_compile(inner, f"grad({getattr(function, '__name__', 'function')})")


def vjp(function: Callable[..., Tree], *args: Tree, cotangents: Tree, rules: RuleSet = STANDARD) -> Any:
    """``(outputs, cotangents of args)``: the vector-Jacobian product of a function at ``args``."""

    def inner(args: tuple[Tree, ...], cotangents: Tree) -> Any:
        call = _Pulled(function, args, range(len(args)), rules)
        outputs, definition = trees.flatten(call.result)
        arrays = [as_array(leaf) for leaf in outputs]
        seeds = _like(arrays, cotangents, "cotangents")
        found = call.pull([a.value for a in arrays], seeds)
        return trees.unflatten(definition, arrays), tuple(found)

    return extend_or_compile(inner, f"vjp({getattr(function, '__name__', 'function')})")(args, cotangents)


def jvp(function: Callable[..., Tree], args: Sequence[Tree], tangents: Sequence[Tree]) -> Any:
    """``(outputs, Jacobian · tangents)``: the derivative of a function along a direction, of which ``tangents`` has the part of each
    of ``args``.

    The vector-Jacobian product is linear in its cotangent; its own vector-Jacobian product is the Jacobian-vector product, so no
    second table of rules is needed.
    """
    args, tangents = _each("jvp", args), _each("jvp", tangents)

    def inner(args: tuple[Tree, ...], tangents: tuple[Tree, ...]) -> Any:
        call = _Pulled(function, args, range(len(args)), STANDARD)
        outputs, definition = trees.flatten(call.result)
        arrays = [as_array(leaf) for leaf in outputs]
        probes = [Array(call.context.full(a.value.type, 0), call.context) for a in arrays]

        def back(*cotangents: Array) -> Tree:
            return tuple(call.pull([a.value for a in arrays], [c.value for c in cotangents]))

        transposed = _Pulled(back, probes, range(len(probes)), STANDARD)
        pulled = [as_array(leaf) for leaf in trees.leaves(transposed.result)]
        found = transposed.pull([a.value for a in pulled], _like(pulled, tangents, "tangents"))
        return trees.unflatten(definition, arrays), trees.unflatten(definition, found)

    return extend_or_compile(inner, f"jvp({getattr(function, '__name__', 'function')})")(args, tangents)


def hessian_vector_product(function: Callable[..., Any], args: Sequence[Tree], vectors: Sequence[Tree]) -> Any:
    """``H · v`` for the Hessian of a scalar function at ``args``: the gradient of ``gradient · v``. Pearlmutter 1994.

    ``args`` and ``vectors`` are tuples with an entry for each argument of the function, and so is the result.
    """
    args, vectors = _each("hessian_vector_product", args), _each("hessian_vector_product", vectors)
    count = len(args)

    def inner(args: tuple[Tree, ...], vectors: tuple[Tree, ...]) -> Any:
        def along(*inputs: Tree) -> Array:
            gradients = [as_array(leaf) for leaf in trees.leaves(grad(function, range(count))(*inputs))]
            _like(gradients, vectors, "vectors")
            total = as_array(0.0)
            for g, v in zip(gradients, trees.leaves(vectors), strict=True):
                total = total + (g * v).sum()
            return total

        return grad(along, range(count))(*args)

    return extend_or_compile(inner, f"hvp({getattr(function, '__name__', 'function')})")(args, vectors)


def _each(name: str, given: Sequence[Tree]) -> tuple[Tree, ...]:
    """What is given for each argument of a function."""
    if not isinstance(given, tuple | list):
        kind = "an array" if isinstance(given, np.ndarray | Array) else f"a {type(given).__name__}"
        raise ConfigError(
            f"{name} takes a tuple with an entry for each argument of the function, such as (x,), not {kind}"
        )
    return tuple(given)


def _like(arrays: Sequence[Array], given: Tree, what: str) -> list[Value]:
    leaves = trees.leaves(given)
    if len(leaves) != len(arrays):
        raise ShapeError(f"{len(leaves)} {what} were given for {len(arrays)} arrays")
    values = [as_array(leaf, a.value.dtype).value for leaf, a in zip(leaves, arrays, strict=True)]
    for value, array in zip(values, arrays, strict=True):
        if value.shape != array.shape:
            raise ShapeError(f"{what} of type {value.type} were given for {array!r}")
    return values
