from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ConfigError


def test_accumulation_equals_one_large_batch(network: Any) -> None:
    whole = [
        (
            np.concatenate([network.batches[k + n][0] for n in range(4)]),
            np.concatenate([network.batches[k + n][1] for n in range(4)]),
        )
        for k in range(0, len(network.batches), 4)
    ]
    small = network.train(optim.accumulate(optim.Adam(0.05), every=4))
    network.batches = whole
    large = network.train(optim.Adam(0.05))
    for path in network.weights:
        assert np.array_equal(small[2][path], network.weights[path]), "no change before the fourth batch"
        for k, weights in enumerate(large):
            np.testing.assert_allclose(small[4 * k + 3][path], weights[path], rtol=1e-11, atol=1e-13)


def averages(network: Any, optimizer: optim.Optimizer) -> list[dict[str, np.ndarray]]:
    """The averages after each step, the weights unaffected."""

    def step(weights: Any, state: Any, x: Any, y: Any) -> Any:
        updates, state = optimizer.update(cr.grad(network.loss)(weights, x, y), state, weights)
        return optim.apply_updates(weights, updates), state

    weights, state, seen = network.weights, optimizer.init(network.weights), []
    compiled = cr.compile(step)
    for (x, y), plain in zip(network.batches, network.train(optim.SGD(0.1)), strict=True):
        weights, state = compiled(weights, state, x, y)
        for path, p in plain.items():
            assert np.array_equal(weights[path], p)
        seen.append(state)
    return seen


def test_the_mean_of_parameters_is_that_of_torch(network: Any) -> None:
    states = averages(network, optim.average(optim.SGD(0.1), decay=None, start=5, every=3))
    path = "hidden.weight"
    model = torch.nn.Linear(1, 1, dtype=torch.float64)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for number, weights in enumerate(network.train(optim.SGD(0.1)), start=1):
        if number > 5 and (number - 5) % 3 == 0:
            model.weight.data.fill_(float(weights[path][1, 2]))
            averaged.update_parameters(model)
            assert optim.averaged(states[number - 1])[path][1, 2] == pytest.approx(
                float(averaged.module.weight.detach()), rel=1e-13
            )
    with pytest.raises(ConfigError, match="nothing has been averaged"):
        optim.averaged(states[4])


def test_the_moving_average(network: Any) -> None:
    states = averages(network, optim.average(optim.SGD(0.1), decay=0.7))
    expected: Any = None
    for n, weights in enumerate(network.train(optim.SGD(0.1)), start=1):
        keep = min(0.7, (n - 1) / (n + 8))
        w = weights["output.bias"]
        expected = w if expected is None else keep * expected + (1 - keep) * w
        np.testing.assert_allclose(optim.averaged(states[n - 1])["output.bias"], expected, rtol=1e-12)


def test_a_trainer_uses_both_and_takes_the_average_over() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    y = (x @ np.array([[1.0], [2.0], [-1.0]], np.float32)).astype(np.float32)
    optimizer = optim.average(optim.accumulate(optim.Adam(0.05), 2), decay=0.9)
    trainer = cr.Trainer(nn.Sequential(nn.Linear(3, 1)), loss=nn.losses.squared_error, optimizer=optimizer, seed=0)
    history = trainer.fit((x, y), epochs=40, batch_size=16)
    assert history.records[-1]["learning_rate"] == pytest.approx(0.05)
    before = trainer.evaluate((x, y))["loss"]
    trainer.load_model_arrays({**trainer.model_arrays(), **optim.averaged(trainer.optimizer_state)})
    assert trainer.evaluate((x, y))["loss"] < 0.05
    assert trainer.evaluate((x, y))["loss"] != before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.accumulate(optim.SGD(0.1), 0), "every of accumulate must be a whole number of 1 or more"),
        (lambda: optim.average(optim.SGD(0.1), decay=1.0), "decay of average must be at least 0 and less than 1"),
        (lambda: optim.average(optim.SGD(0.1), start=-1), "start of average must be a whole number of 0 or more"),
        (lambda: optim.average(optim.SGD(0.1), every=0), "every of average must be a whole number of 1 or more"),
        (lambda: optim.averaged(optim.SGD(0.1).init({})), "nothing has been averaged"),
        (lambda: optim.LBFGS(history=0), "history of LBFGS must be a whole number of 1 or more"),
        (lambda: optim.Adagrad(lr_decay=-1), "lr_decay of Adagrad must be 0 or more"),
        (lambda: optim.Adadelta(rho=1), "rho of Adadelta must be at least 0 and less than 1"),
        (lambda: optim.NAdam(momentum_decay=-1), "momentum_decay of NAdam must be 0 or more"),
        (lambda: optim.Lion(betas=(0.9,)), "betas of Lion are two numbers"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.NAdam(0.1, decoupled=True),
        optim.Adagrad(optim.cosine_restarts(0.1, 10, 2)),
        optim.Adadelta(),
        optim.LAMB(optim.one_cycle(0.1, 50)),
        optim.Lion(),
        optim.LBFGS(0.5, history=4),
        optim.accumulate(optim.chain(optim.clip_by_global_norm(1.0), optim.Adam()), 3),
        optim.average(optim.SGD(0.1), decay=None, start=10, every=5),
    ],
    ids=lambda optimizer: str(optimizer.describe["kind"]),
)
def test_descriptions_make_the_same_again(optimizer: optim.Optimizer) -> None:
    assert optim.from_description(optimizer.describe).describe == optimizer.describe
