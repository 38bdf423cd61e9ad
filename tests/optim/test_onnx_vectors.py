"""The ONNX operators Adam and Momentum (ai.onnx.preview.training), and their published test vectors.

Where the definitions agree, and where not:

* Momentum: ONNX scales the gradient by β from the second step on; ours, like PyTorch's, is the case β = 1. At T = 0, which all
  published vectors have, ONNX does not apply β, so they hold for ours as they are.
* Adam: ONNX corrects the bias of the moments in the learning rate alone, ``r·√(1-β₂ᵗ)/(1-β₁ᵗ)·v/(√h + ε)``; in the paper and
  PyTorch ε is added after the correction of h, which makes it ``ε·√(1-β₂ᵗ)`` in this form. With ε scaled by that factor the two
  are equal at every t; the published vectors have T = 0, which is ONNX for no correction at all, ours when t is large.
* ``norm_coefficient`` is ``weight_decay``. ONNX decays every tensor; ours only what ``decay`` selects.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import adam as adam_vectors
from onnx.backend.test.case.node import momentum as momentum_vectors
from onnx.reference import ReferenceEvaluator

from chainrule import optim

AFTER_ALL_BIAS = 2**40  # a step at which 1 - βᵗ is 1


class Vector:
    """One published case: attributes, learning rate, and per tensor the inputs and expected outputs by letter."""

    def __init__(self, node: Any, inputs: list[np.ndarray], outputs: list[np.ndarray], letters: str) -> None:
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.rate, self.count, *tensors = inputs
        tensor_count = len(tensors) // len(letters)
        self.given = {
            letter: {f"{k}": tensors[place * tensor_count + k] for k in range(tensor_count)}
            for place, letter in enumerate(letters)
        }
        kept = [letter for letter in letters if letter != "G"]
        self.expected = {
            letter: {f"{k}": outputs[place * tensor_count + k] for k in range(tensor_count)}
            for place, letter in enumerate(kept)
        }

    def __getattr__(self, name: str) -> float:
        return float(self.attributes[name])


def published(module: ModuleType, cls: type, letters: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Vector]:
    """The cases that a module of ONNX's test generator would write to files."""
    found: dict[str, Vector] = {}

    def note(node: Any, inputs: Any, outputs: Any, name: str, **_: Any) -> None:
        found[name] = Vector(node, list(inputs), list(outputs), letters)

    monkeypatch.setattr(module, "expect", note)
    for name in dir(cls):
        if name.startswith("export"):
            getattr(cls, name)()
    return found


def check(result: tuple[Any, Any], vector: Vector, slots: dict[str, str]) -> None:
    updates, state = result
    found = {"X": optim.apply_updates(vector.given["X"], updates), **{k: state[slot] for k, slot in slots.items()}}
    for letter, tensors in vector.expected.items():
        for path, expected in tensors.items():
            np.testing.assert_allclose(found[letter][path], expected, rtol=1e-6, err_msg=letter)


@pytest.fixture
def momentum_cases(monkeypatch: pytest.MonkeyPatch) -> dict[str, Vector]:
    return published(momentum_vectors, momentum_vectors.Momentum, "XGV", monkeypatch)


@pytest.fixture
def adam_cases(monkeypatch: pytest.MonkeyPatch) -> dict[str, Vector]:
    return published(adam_vectors, adam_vectors.Adam, "XGVH", monkeypatch)


def test_momentum_equals_the_published_vectors(momentum_cases: dict[str, Vector]) -> None:
    assert set(momentum_cases) == {"test_momentum", "test_nesterov_momentum", "test_momentum_multiple"}
    for vector in momentum_cases.values():
        assert vector.count == 0
        nesterov = vector.attributes["mode"] == b"nesterov"
        sgd = optim.SGD(float(vector.rate), vector.alpha, nesterov, weight_decay=vector.norm_coefficient, decay="*")
        state = {**sgd.init(vector.given["X"]), "momentum": vector.given["V"]}
        check(sgd.update(vector.given["G"], state, vector.given["X"]), vector, {"V": "momentum"})


def test_adam_equals_the_published_vectors(adam_cases: dict[str, Vector]) -> None:
    assert set(adam_cases) == {"test_adam", "test_adam_multiple"}
    for vector in adam_cases.values():
        assert vector.count == 0
        adam = adam_like(vector.attributes, float(vector.rate))
        state = adam_state(adam, vector.given, AFTER_ALL_BIAS)
        check(
            adam.update(vector.given["G"], state, vector.given["X"]),
            vector,
            {"V": "first_moment", "H": "second_moment"},
        )


@pytest.mark.parametrize("t", [1, 2, 10, 500])
def test_adam_equals_the_operator_at_any_step_when_epsilon_is_scaled(t: int) -> None:
    rng = np.random.default_rng(t)
    given = {letter: {"0": rng.normal(size=(3, 2)).astype(np.float32)} for letter in "XGV"}
    given["H"] = {"0": rng.uniform(0.1, 1.0, size=(3, 2)).astype(np.float32)}
    attributes = {"alpha": 0.9, "beta": 0.99, "epsilon": 0.01, "norm_coefficient": 0.05}
    node = onnx.helper.make_node(
        "Adam", list("RTXGVH"), ["X_new", "V_new", "H_new"], domain="ai.onnx.preview.training", **attributes
    )
    feeds = {"R": np.float32(0.1), "T": np.int64(t), **{letter: tensors["0"] for letter, tensors in given.items()}}
    expected = ReferenceEvaluator(node).run(None, {name: np.asarray(value) for name, value in feeds.items()})

    scaled = adam_like({**attributes, "epsilon": 0.01 / np.sqrt(1 - 0.99**t)}, 0.1)
    updates, state = scaled.update(given["G"], adam_state(scaled, given, t - 1), given["X"])
    found = optim.apply_updates(given["X"], updates)["0"], state["first_moment"]["0"], state["second_moment"]["0"]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)

    same_epsilon = adam_like(attributes, 0.1)
    updates, _ = same_epsilon.update(given["G"], adam_state(same_epsilon, given, t - 1), given["X"])
    other = optim.apply_updates(given["X"], updates)["0"]
    assert np.allclose(other, expected[0], rtol=1e-4) == (t == 500), (
        "only once the bias is gone do the definitions meet"
    )


def adam_like(attributes: dict[str, Any], rate: float) -> optim.Optimizer:
    return optim.Adam(
        rate,
        (float(attributes["alpha"]), float(attributes["beta"])),
        float(attributes["epsilon"]),
        weight_decay=float(attributes["norm_coefficient"]),
        decay="*",
    )


def adam_state(adam: optim.Optimizer, given: dict[str, Any], count: int) -> dict[str, Any]:
    moments = {"first_moment": given["V"], "second_moment": given["H"]}
    return {**adam.init(given["X"]), **moments, "count": np.asarray(count)}
