"""The second and later calls of a compiled function with arguments of one structure.

What binding, flattening and describing the arguments found out the first time is written down as one Python function, which
checks that it still holds, runs the program, and puts the result together. Where anything is different it returns ``MISS``
before it has done anything, and the general way finds out what: another structure, or a mistake with its message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.tree_code import Code, write_building, write_reading
from chainrule.engines.api import Program
from chainrule.transforms import donation

NDArray = np.ndarray[Any, Any]
Call = Callable[..., Any]


def write_call(
    program: Program | None,
    signature: inspect.Signature,
    call: tuple[Sequence[Any], dict[str, Any]],
    passed: Sequence[np.dtype[Any] | None],
    donated: frozenset[int],
    written: Mapping[int, int],
    result: trees.TreeDef,
    outputs: Sequence[Any],
    is_array: Any,
) -> Call | None:
    """The function for calls like ``call``; None where the arguments are bound in a way that it does not cover.

    Without a program it takes one more argument: what to run instead of :meth:`Program.attempt`.

    ``passed`` has for every leaf of the arguments, in order, the element type with which it is passed to the program, or None
    where it is static; ``donated`` numbers those that are donated, and ``written`` tells which results were written over which of them.
    ``outputs`` are the leaves of the result, with ``is_array`` where an array of the program stands.
    """
    code = Code()
    read = _write_binding(code, signature, *call)
    if read is None:
        return None
    operands: list[str] = []
    for (name, leaf), dtype in zip(read, passed, strict=True):
        if dtype is None:
            wanted = code.constant(leaf)
            kind = code.constant(type(leaf))
            code.miss_if(f"{name} is not {wanted} and (type({name}) is not {kind} or {name} != {wanted})")
        elif len(operands) in donated and type(leaf) is np.ndarray and leaf.dtype == dtype:
            operands.append(name)  # checked by :func:`donation.held`
        else:
            operands.append(_write_operand(code, name, leaf, dtype))
    code.line(f"operands = ({_listed(operands)})")
    if donated:
        rest = [name for k, name in enumerate(operands) if k not in donated]
        code.line(f"donated = ({_listed([operands[k] for k in donated])})")
        code.line(f"held = {code.constant(donation.held)}(donated, ({_listed(rest)}))")
        code.miss_if("held is None")
    run = "run" if program is None else code.constant(program.attempt)
    code.line(f"results = {run}(operands)")
    code.miss_if("results is None")
    if donated:
        code.line(
            f"{code.constant(donation.exchange_held)}(results, {code.constant([*written.items()])}, operands, held)"
        )
    made = [code.name() if leaf is is_array else code.constant(leaf) for leaf in outputs]
    arrays = [name for name, leaf in zip(made, outputs) if leaf is is_array]
    if arrays:
        code.line(f"{_listed(arrays)} = results")
    code.line(f"return {write_building(code, result, iter(made))}")
    return code.function("args, kwargs, run" if program is None else "args, kwargs")


def _listed(names: Sequence[str]) -> str:
    return "".join(f"{name}, " for name in names)


def _write_binding(
    code: Code, signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]
) -> list[tuple[str, Any]] | None:
    """Find the parameters among the arguments; returns the names of the leaves, and the leaves of this first call."""
    places: list[tuple[str, Any]] = []
    positional = [code.name() for _ in args]
    keyword = {name: code.name() for name in kwargs}
    code.miss_if(f"len(args) != {len(args)}")
    if positional:
        code.line(f"{', '.join(positional)}, = args")
    if keyword:
        code.miss_if(f"[*kwargs] != {code.constant(list(keyword))}")
        code.line(f"{', '.join(keyword.values())}, = kwargs.values()")
    else:
        code.miss_if("kwargs")
    used = 0
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            places += zip(positional[used:], args[used:])
            used = len(args)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if set(kwargs) - set(signature.parameters):
                return None
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY and used < len(args):
            places.append((positional[used], args[used]))
            used += 1
        elif name in kwargs:
            places.append((keyword[name], kwargs[name]))
        else:
            places.append((code.constant(parameter.default), parameter.default))
    read: list[tuple[str, Any]] = []
    for source, tree in places:
        leaves, definition = trees.flatten(tree)
        read += zip(write_reading(code, definition, source), leaves, strict=True)
    return read


def _write_operand(code: Code, name: str, leaf: Any, dtype: np.dtype[Any]) -> str:
    """Turn a leaf into the array to pass. Shapes, and element types that are not converted here, are the program's to check."""
    code.miss_if(f"type({name}) is not {code.constant(type(leaf))}")
    if type(leaf) is not np.ndarray:
        # Numbers: of one element type for one type. Instances of subclasses of arrays have it written in them.
        converted = code.name()
        code.line(f"{converted} = {code.constant(np.asarray)}({name})")
        leaf, name = np.asarray(leaf), converted
    else:
        reference = code.name()
        code.line(f"{reference} = {code.constant(donation.given_away.references.get)}(id({name}))")
        code.miss_if(f"{reference} is not None and {reference}() is {name}")
    if leaf.dtype == dtype:
        return name
    converted = code.name()
    code.miss_if(f"{name}.dtype is not {code.constant(leaf.dtype)}")
    code.line(f"{converted} = {name}.astype({code.constant(dtype)})")
    return converted
