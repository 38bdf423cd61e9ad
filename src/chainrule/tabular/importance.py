"""Which columns a trained network leans on, by permutation.

A feature depends on one column and one row alone, so shuffling a column is the same as shuffling the rows of its features. The
features are computed once, and each shuffle runs only the part of the inference graph behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from chainrule.core.dtypes import FLOAT32
from chainrule.core.errors import GraphError
from chainrule.data.preprocessing import Preprocessing
from chainrule.data.targets import Target
from chainrule.ir.graph import Graph, Value
from chainrule.ir.sizes import BATCH
from chainrule.metrics import log_loss, permutation_importance, root_mean_squared_error
from chainrule.passes.prune import prune
from chainrule.runs import Predictor
from chainrule.tabular.evaluation import evenly
from chainrule.tabular.preparation import features_of

MOST_ROWS = 2000
# How many rows may be predicted anew, a few seconds' work: of very wide tables fewer rows are used, and shuffled once.
_BUDGET = 300_000
_FEWEST_ROWS = 200
_MOST_REPEATS = 10


def column_importances(
    predictor: Predictor,
    preprocessing: Preprocessing,
    target: Target,
    inputs: Mapping[str, NDArray[Any]],
    true: NDArray[Any],
    seed: int,
) -> tuple[list[tuple[str, float, float]], str]:
    """(column, mean, standard deviation) of how much worse the score gets when the column is shuffled, and the score.

    The score is the log loss, or the root mean squared error of a regression. At most 2000 rows are used, and fewer where
    there are more than 150 columns.
    """
    rows = evenly(len(true), min(MOST_ROWS, max(_FEWEST_ROWS, _BUDGET // len(inputs))))
    truth = true[rows]
    if len(truth) < 2:
        return [], ""
    features = features_of(preprocessing, {name: values[rows] for name, values in inputs.items()})
    places = preprocessing.places()
    columns = {name: features[:, where] for name, where in places.items()}
    network = Predictor(behind_features(predictor.graph, preprocessing.width), predictor.weights)

    def answer(shuffled: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given = features.copy()
        for name, values in shuffled.items():
            if values is not columns[name]:
                given[:, places[name]] = values
        return network({"features": given})

    def score(found: dict[str, NDArray[Any]]) -> float:
        if target.is_regression:
            return -root_mean_squared_error(truth, found["prediction"])
        return -log_loss(truth, found["probability"])

    repeats = max(1, min(_MOST_REPEATS, _BUDGET // (len(truth) * len(columns))))
    found = permutation_importance(answer, columns, score, repeats=repeats, seed=seed)
    name = "root_mean_squared_error" if target.is_regression else "log_loss"
    return [(entry.column, entry.mean, entry.std) for entry in found], name


def behind_features(graph: Graph, width: int) -> Graph:
    """The part of an inference graph that needs of the raw columns only the features: they become its input ``features``.

    Raises GraphError for a graph in which no value of shape (B, width) stands between the columns and the answers.
    """
    raw = {value for value in graph.inputs if value.name.startswith("inputs.")}
    candidates = [
        value
        for node in graph.nodes
        for value in node.outputs
        if value.shape == (BATCH, width) and value.dtype == FLOAT32 and node.origin.path.startswith("preprocessing")
    ]
    for features in reversed(candidates):
        if _hides(graph, raw, features):
            given = Value(features.type, "inputs.features")
            nodes = tuple(
                replace(node, inputs=tuple(given if value is features else value for value in node.inputs))
                for node in graph.nodes
            )
            return prune(replace(graph, inputs=(given, *(v for v in graph.inputs if v not in raw)), nodes=nodes))
    raise GraphError("the graph has no features between its inputs and its outputs")


def _hides(graph: Graph, raw: set[Value], features: Value) -> bool:
    """Whether the outputs depend on the raw columns only through ``features``."""
    dependent = set(raw)
    for node in graph.nodes:
        if not dependent.isdisjoint(node.inputs):
            dependent.update(value for value in node.outputs if value is not features)
    return dependent.isdisjoint(graph.outputs)
