"""Files that describe a network: what is read from them, and what is refused in which words."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule.core.errors import ConfigError
from chainrule.insight.network_file import MOST_BYTES, parse_network, read_network

SMALL = """
inputs = [0.5, -1]
targets = [1]
loss = "half_squared_error"
learning_rate = 0.5

[[layers]]
name = "hidden"
activation = "sigmoid"
weights = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
biases = [1, 2, 3]

[[layers]]
activation = "identity"
weights = [[0.7, 0.8, 0.9]]
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "net.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_file_is_read() -> None:
    network = parse_network(tomllib.loads(SMALL), "net.toml")
    hidden, output = network.layers
    np.testing.assert_array_equal(network.inputs, [[0.5, -1.0]])
    np.testing.assert_array_equal(network.targets, [[1.0]])
    np.testing.assert_array_equal(hidden.weights, [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    assert hidden.biases is not None
    np.testing.assert_array_equal(hidden.biases, [1, 2, 3])
    assert output.biases is None
    assert (network.loss.name, network.learning_rate, network.stop_below) == ("half_squared_error", 0.5, None)
    assert (hidden.name, output.name) == ("hidden", "layer 2")
    assert all(array.dtype == np.float64 for array in network.parameters())


def test_names_are_made_up_where_none_are_given() -> None:
    network = parse_network(tomllib.loads(SMALL), "net.toml")
    hidden, output = network.layers
    assert (network.input_names, network.target_names) == (["x1", "x2"], ["y"])
    assert (hidden.units, output.units) == (["h1", "h2", "h3"], ["ŷ"])
    assert hidden.weight_names[2] == ["w(x1→h3)", "w(x2→h3)"]
    assert (hidden.bias_names, output.bias_names) == (["b(h1)", "b(h2)", "b(h3)"], [])


def test_units_of_several_hidden_layers_are_told_apart() -> None:
    layer = {"activation": "tanh", "weights": [[1.0, 1.0], [1.0, 1.0]]}
    settings = {
        "inputs": [1, 2], "targets": [1, 2], "loss": "mean_squared_error", "learning_rate": 1, "layers": [layer] * 3,
    }  # fmt: skip
    network = parse_network(settings, "net.toml")
    assert [layer.units for layer in network.layers] == [["h1_1", "h1_2"], ["h2_1", "h2_2"], ["ŷ1", "ŷ2"]]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert read_network(written(tmp_path, b"\xef\xbb\xbf" + SMALL.encode())).examples == 1


def test_several_examples_are_lists_of_lists(tmp_path: Path) -> None:
    text = SMALL.replace("[0.5, -1]", "[[0.5, -1], [2, 3]]").replace("targets = [1]", "targets = [[1], [0]]")
    network = read_network(written(tmp_path, text))
    np.testing.assert_array_equal(network.inputs, [[0.5, -1.0], [2.0, 3.0]])


REFUSED = [
    (
        "learning_rate = 0.5",
        "learning_rates = 0.5",
        "there is no setting 'learning_rates'; did you mean 'learning_rate'?",
    ),
    (
        'activation = "sigmoid"',
        'activaton = "sigmoid"',
        "layer 1: there is no setting 'activaton'; did you mean 'activation'?",
    ),
    ("learning_rate = 0.5", "", "the setting 'learning_rate' is missing"),
    ("learning_rate = 0.5", "learning_rate = 0", "learning_rate must be greater than 0, not 0"),
    ("learning_rate = 0.5", "learning_rate = nan", "learning_rate is nan, and must be finite"),
    ("learning_rate = 0.5", 'learning_rate = "0.5"', "learning_rate is '0.5', and must be a number"),
    ("learning_rate = 0.5", "learning_rate = true", "learning_rate is true, and must be a number"),
    ("learning_rate = 0.5", "learning_rate = 1\nstop_below = -1", "stop_below must be greater than 0, not -1"),
    (
        '"half_squared_error"',
        '"half_square_error"',
        "loss cannot be 'half_square_error'; did you mean 'half_squared_error'?",
    ),
    ('"half_squared_error"', "3", "loss cannot be 3; there are half_squared_error, mean_squared_error"),
    ('"sigmoid"', '"sigmiod"', "layer 1 'hidden': activation cannot be 'sigmiod'; did you mean 'sigmoid'?"),
    ("inputs = [0.5, -1]", "inputs = [0.5, inf]", "inputs, number 2 is inf, and must be finite"),
    ("inputs = [0.5, -1]", f"inputs = [0.5, {10**400}]", "inputs, number 2 is 10000"),
    ("inputs = [0.5, -1]", "inputs = []", "inputs must be a list of rows"),
    ("inputs = [0.5, -1]", "inputs = 0.5", "inputs must be a list of rows"),
    ("inputs = [0.5, -1]", "inputs = [[0.5, -1], [1]]", "inputs, row 2 has 1 number, but row 1 has 2"),
    ("inputs = [0.5, -1]", "inputs = [[0.5, -1], [1, 2]]", "inputs has 2 examples, but targets has 1"),
    (
        "inputs = [0.5, -1]",
        f"inputs = {[[0, 1]] * 65}",
        "inputs has shape (65, 2), and at most 64 examples of 64 numbers",
    ),
    ("targets = [1]", "targets = [1, 2]", "2 targets per example are given, but the last layer has 1 unit"),
    (
        "inputs = [0.5, -1]",
        "inputs = [0.5]",
        "layer 1 'hidden': weights has shape (3, 2), but every example has 1 input, so the shape must be (3, 1)",
    ),
    (
        "[[0.7, 0.8, 0.9]]",
        "[[0.7, 0.8]]",
        "layer 2: weights has shape (1, 2), but the layer before has 3 units, so the shape must be (1, 3)",
    ),
    ("[0.3, 0.4]", "[0.3]", "layer 1 'hidden': weights, row 2 has 1 number, but row 1 has 2"),
    ("[0.3, 0.4]", '[0.3, "0.4"]', "layer 1 'hidden': weights, row 2, number 2 is '0.4', and must be a number"),
    ("weights = [[0.7, 0.8, 0.9]]", "weights = [0.7]", "layer 2: weights must be a list of rows"),
    (
        "weights = [[0.7, 0.8, 0.9]]",
        f"weights = {[[0, 0, 0]] * 65}",
        "layer 2: weights has 65 rows, one per unit, and 64",
    ),
    ("biases = [1, 2, 3]", "biases = [1, 2]", "layer 1 'hidden': biases has 2 numbers, but weights has 3 rows"),
    ("biases = [1, 2, 3]", 'bias_names = ["a", "b", "c"]', "layer 1 'hidden': bias_names are given, but no biases"),
    ('name = "hidden"', 'units = ["a", "b"]', "layer 1: units has 2 names, but there are 3 rows of weights"),
    ('name = "hidden"', 'units = ["a", "b", "a"]', "the name 'a' is used twice"),
    ('name = "hidden"', 'units = ["a", "b", "x2"]', "the name 'x2' is used twice"),
    ('name = "hidden"', 'units = ["a", "b", "c d"]', "units contains 'c d', but a name is a letter followed by"),
    ('name = "hidden"', 'units = ["a", "b", "L"]', "units contains 'L', but a name is"),
    ('name = "hidden"', 'units = ["a", "b", "\\u001b[31m"]', "units contains '\\x1b[31m', but a name is"),
    ('name = "hidden"', 'name = "\\u001b[31m"', "layer 1: name must be a text of at most 24 printable characters"),
    ('name = "hidden"', 'weight_names = [["a", "b"]]', "layer 1: weight_names must have 3 rows, as weights has"),
    ('name = "hidden"', "slope = 0.2", "layer 1: slope belongs to the activation leaky_relu, not to sigmoid"),
    ('loss = "half', 'title = 3\nloss = "half', "title must be a text of at most 200 printable characters, not 3"),
    (
        '"half_squared_error"',
        '"cross_entropy"',
        "cross_entropy needs the activation softmax in the last layer, which has identity",
    ),
    (
        '"half_squared_error"',
        '"binary_cross_entropy"',
        "needs the activation sigmoid in the last layer, which has identity",
    ),
    ("[[layers]]\nname", "[layers]\nname", "is not valid TOML: "),
    ("targets = [1]", "targets = [1", "is not valid TOML: "),
]


@pytest.mark.parametrize(("before", "after", "complaint"), REFUSED)
def test_what_makes_no_sense_is_refused(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    assert before in SMALL
    file = written(tmp_path, SMALL.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        read_network(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert complaint in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize("layers", ["layers = []", "layers = 3", "layers = [1]", ""])
def test_a_file_without_layers_is_refused(tmp_path: Path, layers: str) -> None:
    file = written(tmp_path, SMALL[: SMALL.index("[[layers]]")] + layers)
    with pytest.raises(ConfigError, match=r"layers must be one or more tables|'layers' is missing"):
        read_network(file)


def classification(loss: str, activation: str, targets: Any) -> dict[str, Any]:
    layer = {"activation": activation, "weights": [[0.1], [0.2]]}
    return {"inputs": [[1], [2]], "targets": targets, "loss": loss, "learning_rate": 1, "layers": [layer]}


def test_targets_must_suit_the_loss() -> None:
    with pytest.raises(ConfigError, match=r"the targets of example 2 add up to 0\.5, but the loss cross_entropy needs"):
        parse_network(classification("cross_entropy", "softmax", [[0, 1], [0.25, 0.25]]), "net.toml")
    with pytest.raises(ConfigError, match="targets must lie between 0 and 1 for the loss binary_cross_entropy"):
        parse_network(classification("binary_cross_entropy", "sigmoid", [[0, 1], [2, 0]]), "net.toml")
    parse_network(classification("cross_entropy", "softmax", [[0, 1], [0.25, 0.75]]), "net.toml")


def test_too_many_layers_are_refused() -> None:
    settings = classification("mean_squared_error", "identity", [[0, 1], [1, 0]])
    settings["layers"] += [{"activation": "identity", "weights": [[1, 0], [0, 1]]}] * 16
    with pytest.raises(ConfigError, match="there are 17 layers, and 16 are allowed"):
        parse_network(settings, "net.toml")


def test_too_many_products_are_refused() -> None:
    settings = classification("mean_squared_error", "identity", [[0] * 64] * 3)
    settings["inputs"] = [[1] * 64] * 3
    settings["layers"] = [{"activation": "identity", "weights": [[1] * 64] * 64}]
    with pytest.raises(
        ConfigError, match="4096 weights and 3 examples make 12288 products of the chain rule, and at most"
    ):
        parse_network(settings, "net.toml")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe\x00", "is not text in UTF-8: byte 0 cannot be read"),
        (b"a" * (MOST_BYTES + 1), "is larger than 1048576 bytes"),
        (b"<html><body>404</body></html>", "is not valid TOML"),
        (b"inputs = " + b"[" * 100_000, "is nested too deeply"),
        (b"a = \x00", "is not valid TOML"),
        (b"", "the setting 'inputs' is missing"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_network(written(tmp_path, content))
    assert complaint in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist$"):
        read_network(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=str(tmp_path)):
        read_network(tmp_path)
