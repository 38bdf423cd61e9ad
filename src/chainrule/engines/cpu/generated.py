"""The C of a graph, generated or taken from the cache.

Rewriting and lowering a graph takes longer than loading a compiled library, so their outcome is kept beside the libraries, as JSON
that is only read as data. The key is everything that it depends on: the graph as it was given, with the contents of its constants,
how it is rewritten, what is donated, the width of vectors, the compiler, and the sources of the generator. Where the outcome is
there, nothing is rewritten and nothing lowered.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core.dtypes import dtype_name, to_numpy
from chainrule.core.errors import GraphError
from chainrule.core.source_code import code_digest
from chainrule.engines.api import Preparation
from chainrule.engines.cpu import parts, recomputed, sections, straight
from chainrule.engines.cpu.cache import entry_key, open_cache
from chainrule.engines.cpu.debugging import watcher
from chainrule.engines.cpu.emit import Source
from chainrule.engines.cpu.loading import library_key
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.cpu.toolchain import Toolchain
from chainrule.ir.fingerprint import fingerprint
from chainrule.ir.graph import Graph
from chainrule.ir.sizes import Dim, is_symbolic, parse_dim

NDArray = np.ndarray[Any, Any]

_GENERATOR = ("chainrule.core", "chainrule.engines.cpu", "chainrule.engines.cpu.c", "chainrule.ir")


@dataclass(frozen=True, slots=True)
class Generated:
    """The C of a program, and what calling it takes.

    ``library`` is the key of what is compiled from it. ``constants`` are the arrays that the program is called with besides operands,
    ``written_over`` says which results are written over which operands, and ``searched`` names every search for a largest element
    along an axis whose size depends on the batch, with that size.
    """

    text: str
    library: str
    constants: Sequence[NDArray]
    written_over: dict[int, int]
    searched: Sequence[tuple[str, Dim]]


def generate(graph: Graph, donated: frozenset[int], preparation: Preparation, toolchain: Toolchain) -> Generated:
    """The C of what the preparation makes of a graph. Where ``CHAINRULE_DEBUG`` shows the lowering it is done in any case."""
    watch = watcher(graph.name)

    def make() -> Generated:
        prepared = preparation.run(graph)
        return outcome(prepared, lower(prepared, donated, toolchain.vector_bytes, watch).source, toolchain)

    if watch is not None:
        return make()
    return _kept(generated_key(graph, donated, preparation, toolchain), graph, donated, make)


def outcome(graph: Graph, source: Source, toolchain: Toolchain) -> Generated:
    """What is needed from now on of a graph and the C that it became."""
    constants = [source.arrays[value].attributes["value"] for value in source.constants]
    key = library_key(source.text, graph.name, toolchain)
    return Generated(source.text, key, constants, source.written_over, list(_searched(graph)))


def _searched(graph: Graph) -> Iterator[tuple[str, Dim]]:
    for node in graph.nodes:
        name = node.primitive.name
        if name in ("reduce_max", "argmax"):
            shape = node.inputs[0].shape
            axes = node.attributes["axes"] if name == "reduce_max" else (node.attributes["axis"],)
            yield from ((f"{name} in {node.origin}", shape[axis]) for axis in axes if is_symbolic((shape[axis],)))
        for _, body in node.subgraphs():
            yield from _searched(body)


# --- what is kept ---------------------------------------------------------------------------------------------------------


def generated_key(graph: Graph, donated: frozenset[int], preparation: Preparation, toolchain: Toolchain) -> str:
    """The key of the program in the cache; limits are named beside the sources because they can be set for a while."""
    return entry_key(
        "program",
        fingerprint(graph),
        preparation.identity,
        repr(sorted(donated)),
        str(toolchain.vector_bytes),
        str(straight.MOST_OPERATIONS),
        repr(sections.LIMITS),
        str(parts.PART),
        str(recomputed.SMALLEST),
        toolchain.identity,
        code_digest(*_GENERATOR),
    )


def _kept(key: str, graph: Graph, donated: frozenset[int], make: Callable[[], Generated]) -> Generated:
    """The entry of this key; where it is missing, or is not what such an entry must be, it is made."""
    made: list[Generated] = []

    def write(path: Path) -> None:
        made.append(make())
        path.write_text(json.dumps(_as_json(made[0], graph)), encoding="utf-8")

    try:
        cache = open_cache()[0]
        path = cache.obtain(key, ".json", write)
        if not made:
            try:
                return _from_json(json.loads(path.read_bytes()), graph, donated)
            except (ValueError, KeyError, TypeError, IndexError, GraphError):
                cache.discard(key, ".json")
                cache.obtain(key, ".json", write)
    except OSError:  # the disk is full, or the folder has become unusable
        pass
    return made[0] if made else make()


def _as_json(generated: Generated, graph: Graph) -> dict[str, Any]:
    """Constants of the graph, which every process has, are named by their number; the preparation may have made others."""
    places = {id(array): number for number, array in enumerate(_constants(graph))}
    return {
        "text": generated.text,
        "library": generated.library,
        "constants": [places.get(id(array), _array_as_json(array)) for array in generated.constants],
        "written_over": [[result, operand] for result, operand in generated.written_over.items()],
        "searched": [[where, str(size)] for where, size in generated.searched],
    }


def _from_json(read: dict[str, Any], graph: Graph, donated: frozenset[int]) -> Generated:
    """Raises one of several errors where this is not an entry for the graph."""
    arrays = list(_constants(graph)) if read["constants"] else []
    constants = [arrays[found] if isinstance(found, int) else _array_from_json(**found) for found in read["constants"]]
    written_over = {int(result): int(operand) for result, operand in read["written_over"]}
    for result, operand in written_over.items():
        if operand not in donated or graph.outputs[result].type != graph.inputs[operand].type:
            raise ValueError("a result cannot be written over that operand")
    searched = [(str(where), parse_dim(size)) for where, size in read["searched"]]
    return Generated(str(read["text"]), str(read["library"]), constants, written_over, searched)


def _constants(graph: Graph) -> Iterator[NDArray]:
    """The arrays of all constants in the graph and its bodies, in the order of the text."""
    for node in graph.nodes:
        if node.primitive.name == "constant":
            yield node.attributes["value"]
        for _, body in node.subgraphs():
            yield from _constants(body)


def _array_as_json(array: NDArray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": dtype_name(array.dtype), "shape": list(array.shape), "data": data}


def _array_from_json(dtype: str, shape: list[int], data: str) -> NDArray:
    return np.frombuffer(base64.b64decode(data, validate=True), to_numpy(dtype)).reshape(shape)
