"""A trained model in two files: ``model.graph`` (the inference graph as text) and ``model.safetensors`` (its weights).

Loading needs none of the code that defined the model, and runs none of what the files say beyond the primitives of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import to_numpy
from chainrule.core.errors import ChainruleError, ConfigError, DataError, RunError
from chainrule.core.files import reason, write_text
from chainrule.core.trees import Tree
from chainrule.core.weights import check_same_architecture, load_weights, save_weights
from chainrule.engines.profile import Profile, Profiling
from chainrule.ir.graph import ArrayType, Graph
from chainrule.ir.sizes import shape_at
from chainrule.ir.text import parse_graph, print_graph
from chainrule.passes import optimise
from chainrule.transforms import trace
from chainrule.transforms.engines import AUTO, Choice, batch_size, engine_named

NDArray = np.ndarray[Any, Any]

GRAPH_FILE = "model.graph"
WEIGHTS_FILE = "model.safetensors"
_LARGEST_GRAPH = 64 * 2**20
_MODEL, _INPUTS = "model", "inputs"


def write_model(
    folder: Path,
    function: Callable[[Tree, dict[str, Any]], dict[str, Any]],
    model: Tree,
    example_inputs: Mapping[str, NDArray],
) -> None:
    """Write the inference graph of ``function(model, inputs) -> outputs`` and the model's arrays.

    Inputs and outputs are dicts of arrays by name; the first axis of every input is the batch, of any size. The graph is written
    first and the weights last, each atomically.
    """

    def inference(model: Tree, inputs: dict[str, Any]) -> dict[str, Any]:
        return function(model, inputs)

    graph = optimise(trace(inference, model, dict(example_inputs), batch=(_INPUTS,)))
    write_text(folder / GRAPH_FILE, print_graph(graph) + "\n")
    save_weights(folder / WEIGHTS_FILE, trees.named_leaves(model))


class Predictor:
    """A loaded model: call it with a dict of arrays, get a dict of arrays.

    With ``engine="auto"`` it begins on the reference engine and is compiled when its calls have cost as much as that takes.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, NDArray], engine: str = "auto") -> None:
        self.graph = graph
        self.weights = dict(weights)
        self.input_types: dict[str, ArrayType] = {}
        for value in graph.inputs:
            kind, _, name = value.name.partition(".")
            if kind == _INPUTS:
                self.input_types[name] = value.type
        self._choice = Choice(engine_named(engine), graph)
        if engine == AUTO:
            self._choice.open()

    @property
    def engine(self) -> str:
        """The name of what runs the next call."""
        return self._choice.engine.name

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, NDArray]:
        """The outputs for a batch of inputs; raises :class:`DataError` naming an input that is missing."""
        operands = self._operands(inputs)
        self._choice.count(batch_size(self.graph, operands))
        results = self._choice.program(operands)
        return dict(zip(self.graph.output_names, results, strict=True))

    def profile(self, inputs: Mapping[str, Any], repeats: int = 20) -> Profile:
        """Where the time of a call goes; raises :class:`ConfigError` unless the model was loaded for ``engine="cpu"``."""
        program = self._choice.program
        if not isinstance(program, Profiling):
            raise ConfigError('profiles need engine="cpu"')
        return program.profile(self._operands(inputs), repeats)

    def _operands(self, inputs: Mapping[str, Any]) -> list[NDArray]:
        arrays = []
        for value in self.graph.inputs:
            kind, _, name = value.name.partition(".")
            source = self.weights if kind == _MODEL else inputs
            if name not in source:
                raise DataError(
                    f"the model needs an input {name!r}, which is missing; it has {', '.join(inputs) or 'none'}"
                )
            arrays.append(np.asarray(source[name]).astype(to_numpy(value.dtype), copy=False))
        return arrays


def load_model(folder: Path, engine: str = "auto") -> Predictor:
    """Read what :func:`write_model` wrote.

    Raises :class:`RunError` when a file is missing or no graph, :class:`WeightsError` when the weights are damaged or do not fit
    the graph (naming the first layer and both shapes).
    """
    graph = _read_graph(folder / GRAPH_FILE)
    weights, _ = load_weights(folder / WEIGHTS_FILE, require_checksum=True)
    expected: dict[str, tuple[tuple[int, ...], Any]] = {}
    for value in graph.inputs:
        kind, _, name = value.name.partition(".")
        if kind == _MODEL:
            expected[name] = (shape_at(value.shape, 1), to_numpy(value.dtype))
        elif kind != _INPUTS:
            raise RunError(
                f"{folder / GRAPH_FILE} has an input {value.name!r} that is neither a weight nor an input of the model"
            )
    # Arrays that inference does not read, such as an unused head, may be present beyond the expected ones.
    check_same_architecture(
        expected, {name: weights[name] for name in weights if name in expected}, folder / WEIGHTS_FILE
    )
    return Predictor(graph, weights, engine)


def _read_graph(path: Path) -> Graph:
    try:
        if path.stat().st_size > _LARGEST_GRAPH:
            raise RunError(f"{path} is larger than any graph that Chainrule writes")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{path} is not the text of a graph") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {reason(error)}") from None
    try:
        return parse_graph(text)
    except ChainruleError as error:
        raise RunError(f"{path} is not a graph that can be used: {error}") from None
