"""Muon against PyTorch's in float64, the average that ASGD keeps, and Adafactor's memory."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import optim
from chainrule.core.errors import ConfigError
from chainrule.engines.cpu.engine import ENGINE as CPU

RNG = np.random.default_rng(0)
SHAPES = {"wide": (3, 7), "tall": (6, 2), "square": (4, 4)}


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"nesterov": False, "weight_decay": 0.0}, {"nesterov": False, "weight_decay": 0.0}),
        ({"adjust": "match_rms_adamw"}, {"adjust_lr_fn": "match_rms_adamw"}),
        (
            {"steps": 3, "momentum": 0.8, "coefficients": (2.0, -1.5, 0.5)},
            {"ns_steps": 3, "momentum": 0.8, "ns_coefficients": (2.0, -1.5, 0.5)},
        ),
        ({"eps": 100.0}, {"eps": 100.0}),
    ],
)
def test_muon_goes_where_that_of_torch_goes(
    ours: dict[str, Any], theirs: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's matrices are (out, in), and it rounds them to bfloat16, which is left out here."""
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    weights = {path: RNG.normal(size=shape) for path, shape in SHAPES.items()}
    leaves = {path: torch.tensor(w.T.copy(), requires_grad=True) for path, w in weights.items()}
    optimizer, muon = torch.optim.Muon(leaves.values(), lr=0.05, **theirs), optim.Muon(0.05, **ours)
    assert optim.from_description(json.loads(json.dumps(muon.describe))).describe == muon.describe

    def step(weights: Any, state: Any, gradients: Any) -> Any:
        updates, state = muon.update(gradients, state, weights)
        return optim.apply_updates(weights, updates), state

    compiled, state = cr.compile(step, engine=engine), muon.init(weights)
    for number in range(8):
        gradients = {path: RNG.normal(size=shape) * 10.0**-number for path, shape in SHAPES.items()}
        weights, state = compiled(weights, state, gradients)
        for path, leaf in leaves.items():
            leaf.grad = torch.tensor(gradients[path].T.copy())
        optimizer.step()
        for path, leaf in leaves.items():
            np.testing.assert_allclose(weights[path], leaf.detach().numpy().T, rtol=1e-8, atol=1e-10, err_msg=path)


def test_steps_of_muon_are_nearly_orthogonal() -> None:
    muon, params = optim.Muon(1.0, weight_decay=0.0), {"w": np.zeros((5, 5))}
    updates, _ = muon.update({"w": RNG.normal(size=(5, 5))}, muon.init(params), params)
    singular = np.linalg.svd(updates["w"], compute_uv=False)
    assert singular.min() > 0.3
    assert singular.max() < 1.3


def test_the_average_of_asgd_is_that_of_torch(network: Any) -> None:
    kept = []

    def make(weights: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
        optimizer = torch.optim.ASGD(weights.values(), lr=0.1, lambd=0.01, t0=5)
        kept.append((weights, optimizer))
        return optimizer

    network.train_torch(make)
    (weights, optimizer) = kept[0]
    asgd = optim.ASGD(0.1, lambd=0.01, t0=5)
    params, state = network.weights, asgd.init(network.weights)
    with pytest.raises(ConfigError, match="nothing has been averaged"):
        optim.averaged(state)
    for x, y in network.batches:
        updates, state = asgd.update(cr.grad(network.loss)(params, x, y), state, params)
        params = optim.apply_updates(params, updates)
    for path, average in optim.averaged(state).items():
        np.testing.assert_allclose(average, optimizer.state[weights[path]]["ax"].numpy(), rtol=1e-10)
        assert not np.allclose(average, params[path])


def test_adafactor_remembers_rows_and_columns() -> None:
    state = optim.Adafactor().init({"w": np.zeros((2, 30, 40)), "b": np.zeros(5)})
    assert {path: x.shape for path, x in state["row"].items()} == {"w": (2, 30, 1)}
    assert {path: x.shape for path, x in state["column"].items()} == {"w": (2, 1, 40)}
    assert {path: x.shape for path, x in state["square"].items()} == {"b": (5,)}


def test_settings_that_make_no_sense_are_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (
            lambda: optim.Muon().init({"b": np.zeros(3)}),
            r"Muon is for matrices, but parameter 'b' has shape \(3,\); give it to",
        ),
        (lambda: optim.Muon(coefficients=(1.0, 2.0)), "coefficients of Muon are three numbers"),
        (lambda: optim.Muon(adjust="none"), "adjust of Muon is 'original' or 'match_rms_adamw', not 'none'"),  # type: ignore[arg-type]
        (lambda: optim.Muon(steps=0), "steps of Muon must be a whole number of 1 or more"),
        (lambda: optim.Adafactor(beta2_decay=0.8), "Adafactor needs beta2_decay of 0 or less and clip of 1 or more"),
        (lambda: optim.Adafactor(clip=0.5), "Adafactor needs beta2_decay of 0 or less and clip of 1 or more"),
        (lambda: optim.Adafactor(eps=1e-3), "eps of Adafactor are two numbers, of which the first may be None"),  # type: ignore[arg-type]
        (lambda: optim.ASGD(t0=-1), "t0 of ASGD must be 0 or more"),
    ]
    for make, message in cases:
        with pytest.raises(ConfigError, match=message):
            make()
