"""Reading the TOML file that describes a small network, its data and one way to train it. It holds data, never code.

    inputs = [0.5]                      # one example; several are a list of such lists
    targets = [1.0]
    loss = "half_squared_error"
    learning_rate = 0.5

    [[layers]]
    activation = "sigmoid"
    weights = [[0.4]]                   # one row per unit, one number per unit of the layer before

``docs/step.md`` lists every setting. Whatever does not fit is refused with the file, the layer and the setting named.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.core.files import read_toml
from chainrule.core.names import escape_terminal, hint, shown_path
from chainrule.insight.activations import ACTIVATIONS, Activation, Softmax, leaky_relu
from chainrule.insight.losses import LOSSES, Loss
from chainrule.insight.network import Layer, Network, default_biases, default_units, default_weights, numbered

# Everything is printed, so a network that nobody could read is refused.
MOST_UNITS = 64
MOST_LAYERS = 16
MOST_EXAMPLES = 64
MOST_PRODUCTS = 10_000
MOST_BYTES = 1 << 20
_LONGEST_NAME = 24
_LONGEST_TITLE = 200

_SETTINGS = {
    "title", "inputs", "targets", "input_names", "target_names", "loss", "learning_rate", "stop_below", "layers",
}  # fmt: skip
_LAYER_SETTINGS = {"name", "units", "activation", "slope", "weights", "biases", "weight_names", "bias_names"}
_RESERVED = {"L", "η", "e", "ln", "tanh", "erf", "max", "sign", "if", "else", "Σ", "π"}

NDArray = np.ndarray[Any, Any]


def read_network(path: Path | str) -> Network:
    """The network in a TOML file. Raises :class:`ConfigError` where it cannot be read or does not make sense."""
    file = Path(path)
    return parse_network(read_toml(file, largest=MOST_BYTES), shown_path(file))


def parse_network(settings: Mapping[str, Any], where: str) -> Network:
    """The network that settings describe; ``where`` begins every complaint. Raises :class:`ConfigError`."""
    top = _Table(settings, where)
    top.only(_SETTINGS)
    inputs = top.examples("inputs")
    targets = top.examples("targets")
    if len(inputs) != len(targets):
        raise top.error(f"inputs has {len(inputs)} examples, but targets has {len(targets)}")
    input_names = top.names("input_names", inputs.shape[1], "inputs", numbered("x", inputs.shape[1]))
    loss = LOSSES[top.choice("loss", LOSSES)]
    layers = _layers(top, input_names)
    if len(layers[-1].units) != targets.shape[1]:
        raise top.error(
            f"{_count(targets.shape[1], 'target')} per example {'is' if targets.shape[1] == 1 else 'are'} given, but the "
            f"last layer has {_count(len(layers[-1].units), 'unit')}"
        )
    network = Network(
        title=top.text("title", _LONGEST_TITLE),
        layers=layers,
        inputs=inputs,
        targets=targets,
        input_names=input_names,
        target_names=top.names("target_names", targets.shape[1], "targets", numbered("y", targets.shape[1])),
        loss=loss,
        learning_rate=top.positive("learning_rate"),
        stop_below=top.positive("stop_below") if "stop_below" in settings else None,
    )
    _check_size(top, network)
    _check_targets(top, network)
    _check_distinct(top, network)
    return network


def _layers(top: _Table, input_names: Sequence[str]) -> list[Layer]:
    tables = top.required("layers")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise top.error("layers must be one or more tables, each begun by a line [[layers]]")
    if len(tables) > MOST_LAYERS:
        raise top.error(f"there are {len(tables)} layers, and {MOST_LAYERS} are allowed")
    layers: list[Layer] = []
    before: Sequence[str] = input_names
    for number, settings in enumerate(tables):
        table = _Table(settings, f"{top.where}, layer {number + 1}")
        layers.append(_layer(table, number, len(tables), before))
        before = layers[-1].units
    return layers


def _layer(table: _Table, number: int, count: int, before: Sequence[str]) -> Layer:
    table.only(_LAYER_SETTINGS)
    name = table.text("name", _LONGEST_NAME)
    if name:
        table.where += f" '{escape_terminal(name)}'"
    weights = table.matrix("weights")
    rows, columns = weights.shape
    if rows > MOST_UNITS:
        raise table.error(f"weights has {rows} rows, one per unit, and {MOST_UNITS} units are allowed")
    if columns != len(before):
        source = "the layer before has" if number else "every example has"
        what = "unit" if number else "input"
        raise table.error(
            f"weights has shape ({rows}, {columns}), but {source} {_count(len(before), what)}, so the shape must be "
            f"({rows}, {len(before)}): one row per unit of this layer, one number per {what}"
        )
    units = table.names("units", rows, "rows of weights", default_units(number, count, rows))
    biases = table.vector("biases") if "biases" in table.settings else None
    if biases is not None and len(biases) != rows:
        raise table.error(f"biases has {_count(len(biases), 'number')}, but weights has {_count(rows, 'row')}")
    if "bias_names" in table.settings and biases is None:
        raise table.error("bias_names are given, but no biases")
    bias_names = table.names("bias_names", rows, "biases", default_biases(units)) if biases is not None else []
    return Layer(
        name=name or f"layer {number + 1}",
        units=units,
        activation=_activation(table),
        weights=weights,
        biases=biases,
        weight_names=table.name_rows("weight_names", rows, columns, default_weights(before, units)),
        bias_names=bias_names,
    )


def _activation(table: _Table) -> Activation | Softmax:
    name = table.choice("activation", ACTIVATIONS)
    if "slope" not in table.settings:
        return ACTIVATIONS[name]
    if name != "leaky_relu":
        raise table.error(f"slope belongs to the activation leaky_relu, not to {name}")
    return leaky_relu(table.positive("slope"))


def _check_size(top: _Table, network: Network) -> None:
    weights = sum(layer.weights.size for layer in network.layers)
    if weights * network.examples > MOST_PRODUCTS:
        raise top.error(
            f"{weights} weights and {_count(network.examples, 'example')} make {weights * network.examples} products of the chain "
            f"rule, and at most {MOST_PRODUCTS} can be printed; leave out units or examples"
        )


def _check_targets(top: _Table, network: Network) -> None:
    """That the loss is defined for the targets and for every output that the last layer can have."""
    loss: Loss = network.loss
    last = network.layers[-1].activation.name
    if loss.needs is not None and last != loss.needs:
        raise top.error(
            f"the loss {loss.name} needs the activation {loss.needs} in the last layer, which has {last}: only then are the "
            "outputs probabilities"
        )
    if loss.needs is None:
        return
    if network.targets.min() < 0 or network.targets.max() > 1:
        raise top.error(f"targets must lie between 0 and 1 for the loss {loss.name}")
    sums = network.targets.sum(axis=1)
    if loss.needs == "softmax" and not np.allclose(sums, 1):
        wrong = int(np.argmax(~np.isclose(sums, 1)))
        raise top.error(
            f"the targets of example {wrong + 1} add up to {sums[wrong]:.9g}, but the loss {loss.name} needs probabilities "
            "that add up to 1, such as a 1 for the right class and 0 for the others"
        )


def _check_distinct(top: _Table, network: Network) -> None:
    names = [*network.input_names, *network.target_names]
    for layer in network.layers:
        names += [*layer.units, *(name for row in layer.weight_names for name in row), *layer.bias_names]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise top.error(
                f"the name {name!r} is used twice; names of inputs, targets, units, weights and biases must differ"
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class _Table:
    """The settings of one table of the file, checked as they are taken out."""

    def __init__(self, settings: Mapping[str, Any], where: str) -> None:
        self.settings = settings
        self.where = where

    def error(self, complaint: str) -> ConfigError:
        return ConfigError(f"{self.where}: {complaint}")

    def only(self, known: Collection[str]) -> None:
        for key in self.settings:
            if key not in known:
                wrong = escape_terminal(key, limit=80)
                raise self.error(f"there is no setting '{wrong}'; {hint(key, sorted(known))}")

    def required(self, key: str) -> Any:
        if key not in self.settings:
            raise self.error(f"the setting {key!r} is missing")
        return self.settings[key]

    def choice(self, key: str, known: Collection[str]) -> str:
        value = self.required(key)
        if not isinstance(value, str) or value not in known:
            raise self.error(f"{key} cannot be {_shown(value)}; {hint(str(value), known)}")
        return value

    def text(self, key: str, longest: int) -> str:
        value = self.settings.get(key, "")
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise self.error(f"{key} must be a text of at most {longest} printable characters, not {_shown(value)}")
        return value

    def positive(self, key: str) -> float:
        value = self.number(self.required(key), key)
        if value <= 0:
            raise self.error(f"{key} must be greater than 0, not {value:.9g}")
        return value

    def number(self, value: Any, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"{place} is {_shown(value)}, and must be a number")
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise self.error(f"{place} is {_shown(value)}, and must be finite")
        return found

    def vector(self, key: str, value: Any = None) -> NDArray:
        found = self.required(key) if value is None else value
        if not isinstance(found, list) or not found:
            raise self.error(f"{key} must be a list of numbers, not {_shown(found)}")
        return np.array([self.number(item, f"{key}, number {place}") for place, item in enumerate(found, 1)])

    def matrix(self, key: str) -> NDArray:
        found = self.required(key)
        if not isinstance(found, list) or not found or not all(isinstance(row, list) for row in found):
            raise self.error(f"{key} must be a list of rows, each a list of numbers, such as [[0.1, 0.2], [0.3, 0.4]]")
        rows = [self.vector(f"{key}, row {place}", row) for place, row in enumerate(found, 1)]
        for place, row in enumerate(rows, 1):
            if len(row) != len(rows[0]):
                raise self.error(f"{key}, row {place} has {_count(len(row), 'number')}, but row 1 has {len(rows[0])}")
        return np.array(rows)

    def examples(self, key: str) -> NDArray:
        """One example as a list of numbers, or several as a list of lists."""
        found = self.required(key)
        single = isinstance(found, list) and bool(found) and not isinstance(found[0], list)
        examples = self.vector(key)[np.newaxis] if single else self.matrix(key)
        if len(examples) > MOST_EXAMPLES or examples.shape[1] > MOST_UNITS:
            raise self.error(
                f"{key} has shape {examples.shape}, and at most {MOST_EXAMPLES} examples of {MOST_UNITS} numbers are allowed"
            )
        return examples

    def names(self, key: str, count: int, of: str, default: Sequence[str]) -> Sequence[str]:
        if key not in self.settings:
            return default
        return self._names(self.settings[key], key, count, of)

    def _names(self, found: Any, key: str, count: int, of: str) -> Sequence[str]:
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.error(f"{key} must be a list of names, not {_shown(found)}")
        if len(found) != count:
            raise self.error(f"{key} has {_count(len(found), 'name')}, but there are {count} {of}")
        for name in found:
            if not name.isidentifier() or len(name) > _LONGEST_NAME or name in _RESERVED:
                raise self.error(
                    f"{key} contains {_shown(name)}, but a name is a letter followed by letters, digits and underscores, "
                    f"at most {_LONGEST_NAME} characters, and none of {', '.join(sorted(_RESERVED))}"
                )
        return found

    def name_rows(self, key: str, rows: int, columns: int, default: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
        """Names in the shape of the weights."""
        if key not in self.settings:
            return default
        found = self.settings[key]
        if not isinstance(found, list) or len(found) != rows:
            raise self.error(f"{key} must have {_count(rows, 'row')}, as weights has")
        return [
            self._names(row, f"{key}, row {place}", columns, "weights in a row") for place, row in enumerate(found, 1)
        ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return escape_terminal(repr(value) if isinstance(value, str) else value, limit=60)
