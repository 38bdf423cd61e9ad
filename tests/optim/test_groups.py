from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import ops, optim
from chainrule.core.errors import ConfigError
from chainrule.optim.selection import matches


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("layers.0.bias", "*.bias", True),
        ("bias", "*.bias", True),
        ("bias", "bias", True),
        ("layers.0.bias", "bias", False),
        ("layers.0.unbias", "*.bias", False),
        ("layers.0.weight", "layers.*", True),
        ("layers.10.weight", "layers.1.*", False),
        ("layers.1.weight", "layers.[01].*", True),
        ("LAYERS.0.weight", "layers.*", False),
        ("anything.at.all", "*", True),
    ],
)
def test_patterns(path: str, pattern: str, fits: bool) -> None:
    assert matches(path, pattern) is fits


def test_the_first_pattern_that_fits_wins() -> None:
    params = {"a.bias": np.zeros(1), "a.weight": np.zeros(1), "b.weight": np.zeros(1)}
    ones = {path: np.ones(1) for path in params}
    both = optim.groups({"*.bias": optim.SGD(1.0), "a.*": optim.SGD(2.0)}, default=optim.SGD(3.0))
    updates, state = both.update(ones, both.init(params), params)
    assert {path: update.item() for path, update in updates.items()} == {"a.bias": -1, "a.weight": -2, "b.weight": -3}
    assert list(state) == ["0", "1", "default"]
    assert all(part["count"] == 1 for part in state.values())


def test_slots_belong_to_the_group_alone() -> None:
    params = {"a.bias": np.zeros(1), "a.weight": np.zeros((2, 2))}
    state = optim.groups({"*.bias": optim.SGD(1.0, momentum=0.5)}, default=optim.Adam()).init(params)
    assert list(state["0"]["momentum"]) == ["a.bias"]
    assert list(state["default"]["first_moment"]) == ["a.weight"]


@pytest.mark.parametrize(
    "make",
    [
        lambda rest: optim.freeze("hidden.*", rest),
        lambda rest: optim.freeze(["hidden.weight", "hidden.b*"], rest),
        lambda rest: optim.groups({"hidden.*": optim.frozen()}, default=rest),
    ],
    ids=["freeze", "several patterns", "frozen group"],
)
@pytest.mark.parametrize(
    "rest",
    [optim.SGD(0.1, momentum=0.9), optim.AdamW(0.05, weight_decay=0.3), optim.RMSProp()],
    ids=["SGD", "AdamW", "RMSProp"],
)
def test_what_is_frozen_keeps_every_bit(network: Any, make: Any, rest: optim.Optimizer) -> None:
    before = dict(network.weights)
    before["hidden.bias"][0] = -0.0
    after = network.train(make(rest))[-1]
    for path in before:
        same = after[path].tobytes() == before[path].tobytes()
        assert same == path.startswith("hidden."), path


def test_frozen_parameters_have_no_slots_and_cost_no_gradient() -> None:
    params = {"a": np.ones((50, 50), np.float32), "b": np.ones((50, 50), np.float32)}
    frozen = optim.freeze("a", optim.Adam())
    assert list(frozen.init(params)["default"]["first_moment"]) == ["b"]

    def compiled(optimizer: optim.Optimizer) -> int:
        def step(params: Any, state: Any, x: Any) -> Any:
            gradients = cr.grad(lambda p: ops.square(x @ p["a"] @ p["b"]).sum())(params)
            updates, state = optimizer.update(gradients, state, params)
            return optim.apply_updates(params, updates), state

        program = cr.compile(step)
        program(params, optimizer.init(params), np.ones((3, 50), np.float32))
        return sum(node.primitive.name == "contract" for node in program.graph.nodes)

    assert compiled(frozen) == 3
    assert compiled(optim.Adam()) == 5


def test_freezing_inside_clipping_and_outside() -> None:
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    gradients = {"a": np.array([3.0]), "b": np.array([4.0])}
    clip, sgd = optim.clip_by_global_norm(1.0), optim.SGD(1.0)
    alone = optim.freeze("a", optim.chain(clip, sgd))
    together = optim.chain(clip, optim.freeze("a", sgd))
    assert alone.update(gradients, alone.init(params), params)[0]["b"] == -1.0
    assert together.update(gradients, together.init(params), params)[0]["b"] == pytest.approx(-0.8)


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    params = {"encoder.weight": np.zeros((2, 2)), "head.bias": np.zeros(2)}
    message = r"the pattern 'decoder\.\*' fits no parameter; the parameters are encoder\.weight, head\.bias"
    for optimizer in (
        optim.freeze("decoder.*", optim.SGD(0.1)),
        optim.groups({"decoder.*": optim.SGD(0.1)}, default=optim.SGD(0.1)),
        optim.AdamW(decay="decoder.*"),
    ):
        with pytest.raises(ConfigError, match=message):
            optimizer.init(params)


def test_a_parameter_in_no_group_is_refused() -> None:
    optimizer = optim.groups({"*.bias": optim.SGD(0.1)})
    with pytest.raises(ConfigError, match=r"no group's pattern fits parameter 'head\.weight'"):
        optimizer.init({"head.bias": np.zeros(2), "head.weight": np.zeros((2, 2))})


def test_a_pattern_is_text() -> None:
    with pytest.raises(ConfigError, match=r"a parameter pattern is text such as .*, not 3"):
        optim.freeze([3], optim.SGD(0.1))  # type: ignore[list-item]
