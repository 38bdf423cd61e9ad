"""The C of a graph, generated or taken from the cache.

Lowering takes longer than loading a compiled library, so its outcome is kept beside the libraries, as JSON that is only read as
data. The key is everything that it depends on: the text of the graph with the contents of its constants, what is donated, the width
of vectors, the compiler, and the sources of the generator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.engines.cpu import sections, straight
from chainrule.engines.cpu.cache import entry_key, open_cache
from chainrule.engines.cpu.debugging import watcher
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.cpu.toolchain import Toolchain
from chainrule.ir.graph import Graph
from chainrule.ir.text import print_graph

NDArray = np.ndarray[Any, Any]

_FOLDERS = ("chainrule.core", "chainrule.engines.cpu", "chainrule.engines.cpu.c", "chainrule.ir")


@dataclass(frozen=True, slots=True)
class Generated:
    """The C of a program, the arrays that it is called with besides operands, and which results are written over operands."""

    text: str
    constants: Sequence[NDArray]
    written_over: dict[int, int]


def generate(graph: Graph, donated: frozenset[int], toolchain: Toolchain) -> Generated:
    """The C of a graph. Where ``CHAINRULE_DEBUG`` shows the lowering it is done in any case."""
    watch = watcher(graph.name)
    if watch is not None:
        return _lowered(graph, donated, toolchain, watch)
    key = generated_key(graph, donated, toolchain)
    made: list[Generated] = []

    def make(path: Path) -> None:
        made.append(_lowered(graph, donated, toolchain))
        path.write_text(json.dumps(_as_json(made[0], graph)), encoding="utf-8")

    try:
        path = open_cache()[0].obtain(key, ".json", make)
        return made[0] if made else _from_json(json.loads(path.read_bytes()), graph)
    except OSError:  # the disk is full, or the folder has become unusable
        return made[0] if made else _lowered(graph, donated, toolchain)


def generated_key(graph: Graph, donated: frozenset[int], toolchain: Toolchain) -> str:
    """The key of the program in the cache; limits are named beside the sources because they can be set for a while."""
    return entry_key(
        "program",
        print_graph(graph),
        repr(sorted(donated)),
        str(toolchain.vector_bytes),
        str(straight.MOST_OPERATIONS),
        repr(sections.LIMITS),
        toolchain.identity,
        _generator(),
    )


def _lowered(graph: Graph, donated: frozenset[int], toolchain: Toolchain, watch: Any = None) -> Generated:
    source = lower(graph, donated, toolchain.vector_bytes, watch).source
    constants = [source.arrays[value].attributes["value"] for value in source.constants]
    return Generated(source.text, constants, source.written_over)


@cache
def _generator() -> str:
    """The hash of the sources that decide what is generated."""
    digest = hashlib.sha256()
    for folder in _FOLDERS:
        for file in sorted(resources.files(folder).iterdir(), key=lambda file: file.name):
            if file.name.endswith((".py", ".c", ".h")):
                digest.update(f"{folder}/{file.name}\n".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


# Constants are part of the graph that every process has; what is kept says which of them they are.


def _as_json(generated: Generated, graph: Graph) -> dict[str, Any]:
    places = {id(array): number for number, array in enumerate(_constants(graph))}
    return {
        "text": generated.text,
        "constants": [places[id(array)] for array in generated.constants],
        "written_over": [[result, operand] for result, operand in generated.written_over.items()],
    }


def _from_json(read: dict[str, Any], graph: Graph) -> Generated:
    arrays = list(_constants(graph))
    return Generated(
        read["text"],
        [arrays[number] for number in read["constants"]],
        {int(result): int(operand) for result, operand in read["written_over"]},
    )


def _constants(graph: Graph) -> Iterator[NDArray]:
    """The arrays of all constants in the graph and its bodies, in the order of the text."""
    for node in graph.nodes:
        if node.primitive.name == "constant":
            yield node.attributes["value"]
        for _, body in node.subgraphs():
            yield from _constants(body)
