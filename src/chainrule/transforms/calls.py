"""The second and later calls of a compiled function with arguments of one structure.

What binding, flattening and describing the arguments found out the first time is written down as one Python function, which
checks that it still holds, runs the program, and puts the result together. Where anything is different it returns ``MISS``
before it has done anything, and the general way finds out what: another structure, or a mistake with its message.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.alignment import is_aligned, owns_memory
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
    operands = []
    for (name, leaf), dtype in zip(read, passed, strict=True):
        if dtype is None:
            wanted = code.constant(leaf)
            kind = code.constant(type(leaf))
            code.miss_if(f"{name} is not {wanted} and (type({name}) is not {kind} or {name} != {wanted})")
        else:
            operands.append(_write_operand(code, name, leaf, dtype))
    if donated:
        _write_privacy(code, operands, donated)
    run = "run" if program is None else code.constant(program.attempt)
    code.line(f"results = {run}(({_listed(operands)}))")
    code.miss_if("results is None")
    made = [code.name() if leaf is is_array else code.constant(leaf) for leaf in outputs]
    arrays = [name for name, leaf in zip(made, outputs) if leaf is is_array]
    if arrays:
        code.line(f"{_listed(arrays)} = results")
    if donated:
        _write_exchange(
            code, [operands[k] for k in donated], {arrays[k]: operands[over] for k, over in written.items()}
        )
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


def _write_privacy(code: Code, operands: Sequence[str], donated: frozenset[int]) -> None:
    """Check that the program may write over the donated operands as they are; see :func:`donation.writable`."""
    issued = code.constant(donation.issued.references.get)
    root, owns, aligned = map(code.constant, (donation.root, owns_memory, is_aligned))
    roots = []
    for name in (operands[k] for k in donated):
        roots.append(f"root_{name}")
        code.line(f"number_{name} = id({name})")
        code.line(f"known_{name} = {issued}(number_{name})")
        code.line(f"if known_{name} is not None and known_{name}() is {name}: root_{name} = id({name}.base)")
        code.line("else:")
        code.line(f"    flags = {name}.flags")
        code.line(f"    if not ({owns}({name}) and flags.c_contiguous and flags.writeable): return MISS")
        code.line(f"    if not {aligned}({name}): return MISS")
        code.line(f"    known_{name} = {code.constant(weakref.ref)}({name})")
        code.line(f"    root_{name} = number_{name}")
    code.line(f"memory = {{{', '.join(roots)}}}")
    code.miss_if(f"len(memory) != {len(roots)}")
    for name in (name for k, name in enumerate(operands) if k not in donated):
        code.miss_if(f"(id({name}) if {name}.base is None else {root}({name})) in memory")


def _write_exchange(code: Code, donated: Sequence[str], written: Mapping[str, str]) -> None:
    """What :func:`donation.exchange` does, with the references that the checks have found."""
    issued, given = code.constant(donation.issued.references), code.constant(donation.given_away.references)
    for result, over in written.items():
        code.line(f"if {result} is {over}:")
        code.line(f"    {result} = {result}.view()")
        code.line(f"    number = id({result})")
        code.line(f"    {issued}[number] = {code.constant(weakref.ref)}({result})")
        code.line(f"    if number in {given}: del {given}[number]")
    for name in donated:
        code.line(f"{given}[number_{name}] = known_{name}")
        code.line(f"{issued}.pop(number_{name}, None)")
    for known in (donation.issued, donation.given_away):
        code.line(
            f"if len({code.constant(known.references)}) > {code.constant(known)}.most: {code.constant(known.sweep)}()"
        )
