"""Twenty steps of a small network in float64 go where PyTorch's go, for every optimiser and option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from chainrule import optim

SAME = [
    (optim.SGD(0.1), torch.optim.SGD, {"lr": 0.1}),
    (optim.SGD(0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (
        optim.SGD(0.1, momentum=0.9, nesterov=True),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    (
        optim.SGD(0.1, momentum=0.9, dampening=0.3),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    ),
    (optim.RAdam(0.05), torch.optim.RAdam, {"lr": 0.05}),
    (
        optim.RAdam(0.05, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, decay="*"),
        torch.optim.RAdam,
        {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
    (
        optim.RAdam(0.05, betas=(0.8, 0.6), weight_decay=0.1, decoupled=True, decay="*"),
        torch.optim.RAdam,
        {"lr": 0.05, "betas": (0.8, 0.6), "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    (optim.Adamax(), torch.optim.Adamax, {}),
    (
        optim.Adamax(0.05, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1, decay="*"),
        torch.optim.Adamax,
        {"lr": 0.05, "betas": (0.8, 0.7), "eps": 1e-3, "weight_decay": 0.1},
    ),
    (optim.Rprop(), torch.optim.Rprop, {}),
    (
        optim.Rprop(0.05, etas=(0.4, 1.5), step_sizes=(0.01, 0.2)),
        torch.optim.Rprop,
        {"lr": 0.05, "etas": (0.4, 1.5), "step_sizes": (0.01, 0.2)},
    ),
    (optim.SGD(0.1, weight_decay=0.05, decay="*"), torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    (
        optim.SGD(0.1, momentum=0.8, nesterov=True, weight_decay=0.05, decay="*"),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
    ),
    (optim.RMSProp(), torch.optim.RMSprop, {}),
    (optim.RMSProp(0.02, alpha=0.9, eps=1e-3), torch.optim.RMSprop, {"lr": 0.02, "alpha": 0.9, "eps": 1e-3}),
    (optim.RMSProp(centered=True), torch.optim.RMSprop, {"centered": True}),
    (optim.RMSProp(momentum=0.9), torch.optim.RMSprop, {"momentum": 0.9}),
    (
        optim.RMSProp(momentum=0.9, centered=True, weight_decay=0.1, decay="*"),
        torch.optim.RMSprop,
        {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    ),
    (optim.Adam(), torch.optim.Adam, {}),
    (
        optim.Adam(0.05, betas=(0.8, 0.95), eps=1e-3),
        torch.optim.Adam,
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3},
    ),
    (optim.Adam(0.05, betas=(0.0, 0.9)), torch.optim.Adam, {"lr": 0.05, "betas": (0.0, 0.9)}),
    (optim.Adam(0.05, weight_decay=0.1, decay="*"), torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.1}),
    (
        optim.Adam(0.05, betas=(0.9, 0.5), amsgrad=True),
        torch.optim.Adam,
        {"lr": 0.05, "betas": (0.9, 0.5), "amsgrad": True},
    ),
    (optim.AdamW(decay="*"), torch.optim.AdamW, {}),
    (optim.AdamW(0.05, weight_decay=0.2, decay="*"), torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.2}),
    (
        optim.AdamW(0.05, amsgrad=True, weight_decay=0.2, decay="*"),
        torch.optim.AdamW,
        {"lr": 0.05, "amsgrad": True, "weight_decay": 0.2},
    ),
    (optim.NAdam(), torch.optim.NAdam, {}),
    (
        optim.NAdam(0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, momentum_decay=0.02, decay="*"),
        torch.optim.NAdam,
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.02},
    ),
    (
        optim.NAdam(0.05, weight_decay=0.1, decoupled=True, decay="*"),
        torch.optim.NAdam,
        {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    (optim.Adagrad(0.1), torch.optim.Adagrad, {"lr": 0.1}),
    (
        optim.Adagrad(0.1, lr_decay=0.1, initial_accumulator_value=0.5, eps=1e-3, weight_decay=0.1, decay="*"),
        torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3, "weight_decay": 0.1},
    ),
    (optim.Adadelta(), torch.optim.Adadelta, {}),
    (
        optim.Adadelta(0.5, rho=0.8, eps=1e-3, weight_decay=0.1, decay="*"),
        torch.optim.Adadelta,
        {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
    ),
    (optim.ASGD(0.1), torch.optim.ASGD, {"lr": 0.1}),
    (
        optim.ASGD(0.1, lambd=0.05, alpha=0.6, t0=4, weight_decay=0.1, decay="*"),
        torch.optim.ASGD,
        {"lr": 0.1, "lambd": 0.05, "alpha": 0.6, "t0": 4, "weight_decay": 0.1},
    ),
    (optim.Adafactor(), torch.optim.Adafactor, {}),
    (
        optim.Adafactor(0.3, beta2_decay=-0.5, eps=(1e-3, 0.01), clip=1.2, weight_decay=0.1, decay="*"),
        torch.optim.Adafactor,
        {"lr": 0.3, "beta2_decay": -0.5, "eps": (1e-3, 0.01), "d": 1.2, "weight_decay": 0.1},
    ),
    (
        optim.Adafactor(0.3, eps=[None, 2.0], clip=3.0),
        torch.optim.Adafactor,
        {"lr": 0.3, "eps": (None, 2.0), "d": 3.0},
    ),
    (optim.LBFGS(0.5), torch.optim.LBFGS, {"lr": 0.5, "max_iter": 1, "history_size": 10}),
    (
        optim.LBFGS(0.3, history=4, tolerance_grad=0.6),
        torch.optim.LBFGS,
        {"lr": 0.3, "max_iter": 1, "history_size": 4, "tolerance_grad": 0.6},
    ),
    (optim.LBFGS(0.2, history=3), torch.optim.LBFGS, {"lr": 0.2, "max_iter": 1, "history_size": 3}),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "options"), SAME, ids=[f"{theirs.__name__}({options})" for _, theirs, options in SAME]
)
def test_every_optimizer_goes_where_that_of_torch_goes(
    network: Any, same_trajectory: Any, ours: optim.Optimizer, theirs: Callable[..., Any], options: dict[str, Any]
) -> None:
    same_trajectory(network.train(ours), network.train_torch(lambda weights: theirs(weights.values(), **options)))


UPWARDS = [
    (
        optim.SGD(0.05, momentum=0.9, weight_decay=0.1, decay="*"),
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    ),
    (optim.RMSProp(0.02), torch.optim.RMSprop, {"lr": 0.02}),
    (optim.Adam(0.05, weight_decay=0.1, decay="*"), torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.1}),
    (optim.AdamW(0.05, weight_decay=0.1, decay="*"), torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
    (optim.NAdam(0.05), torch.optim.NAdam, {"lr": 0.05}),
    (optim.RAdam(0.05), torch.optim.RAdam, {"lr": 0.05}),
    (optim.Adamax(0.05), torch.optim.Adamax, {"lr": 0.05}),
    (optim.Rprop(0.05), torch.optim.Rprop, {"lr": 0.05}),
    (optim.Adagrad(0.1), torch.optim.Adagrad, {"lr": 0.1}),
    (optim.Adadelta(0.5), torch.optim.Adadelta, {"lr": 0.5}),
    (optim.ASGD(0.05), torch.optim.ASGD, {"lr": 0.05}),
    (optim.Adafactor(0.1), torch.optim.Adafactor, {"lr": 0.1}),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), UPWARDS, ids=[item[1].__name__ for item in UPWARDS])
def test_every_optimizer_climbs_as_that_of_torch_does(
    network: Any, same_trajectory: Any, ours: optim.Optimizer, theirs: Callable[..., Any], options: dict[str, Any]
) -> None:
    upwards = optim.maximize(ours)
    expected = network.train_torch(lambda weights: theirs(weights.values(), maximize=True, **options))
    same_trajectory(network.train(upwards), expected, tolerance=1e-9)
    again = optim.from_description(upwards.describe)
    same_trajectory(network.train(again), expected, tolerance=1e-9)


def decayed_weights_only(weights: dict[str, torch.Tensor], strength: float) -> list[dict[str, Any]]:
    chosen = [w for path, w in weights.items() if path.endswith("weight")]
    others = [w for path, w in weights.items() if not path.endswith("weight")]
    return [{"params": chosen, "weight_decay": strength}, {"params": others, "weight_decay": 0.0}]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.AdamW(0.05, weight_decay=0.2), torch.optim.AdamW),
        (optim.Adam(0.05, weight_decay=0.2), torch.optim.Adam),
        (optim.SGD(0.05, weight_decay=0.2), torch.optim.SGD),
        (optim.RMSProp(0.05, weight_decay=0.2), torch.optim.RMSprop),
        (optim.AdamW(0.05, weight_decay=0.2, decay=["hidden.weight", "output.w*"]), torch.optim.AdamW),
        (optim.AdamW(0.05, weight_decay=0.2, decay=lambda path, p: path.endswith("weight")), torch.optim.AdamW),
    ],
    ids=["AdamW", "Adam", "SGD", "RMSProp", "patterns", "function"],
)
def test_biases_do_not_decay(network: Any, same_trajectory: Any, ours: optim.Optimizer, theirs: Any) -> None:
    expected = network.train_torch(lambda weights: theirs(decayed_weights_only(weights, 0.2), lr=0.05))
    same_trajectory(network.train(ours), expected)


def test_lbfgs_leaves_small_gradients_alone(network: Any) -> None:
    path = network.train(optim.LBFGS(0.3, history=4, tolerance_grad=0.6))
    still = [np.array_equal(a["output.weight"], b["output.weight"]) for a, b in zip(path, path[1:], strict=False)]
    assert 0 < sum(still) < len(still)


def test_lbfgs_rests_where_it_expects_too_little(network: Any) -> None:
    resting, x = optim.LBFGS(0.5, tolerance_change=1.0), {"x": np.array([1.0, -0.5])}
    state, path = resting.init(x), []
    for _ in range(4):
        updates, state = resting.update({"x": 2 * x["x"]}, state, x)
        x = {"x": x["x"] + updates["x"]}
        path.append(x["x"])
    # The gradient (2, -1) is worth 5, and moves x by half of it divided by 3; (4/3, -2/3) is worth 10/9 with H = 1/2.
    np.testing.assert_allclose(path[0], [2 / 3, -1 / 3])
    np.testing.assert_allclose(path[1], [1 / 3, -1 / 6])
    np.testing.assert_array_equal(path[2], path[1])
    np.testing.assert_array_equal(path[3], path[1])


def scale_to_norm(limit: float) -> Callable[[list[torch.Tensor]], None]:
    def clip(weights: list[torch.Tensor]) -> None:
        norm = torch.sqrt(sum((w.grad**2).sum() for w in weights))  # type: ignore[operator, arg-type]
        for w in weights:
            w.grad *= min(1.0, limit / norm.item())

    return clip


def test_clipping_by_norm(network: Any, same_trajectory: Any) -> None:
    ours = network.train(optim.chain(optim.clip_by_global_norm(0.5), optim.SGD(0.3, momentum=0.9)))
    make = lambda weights: torch.optim.SGD(weights.values(), lr=0.3, momentum=0.9)  # noqa: E731
    same_trajectory(ours, network.train_torch(make, clip=scale_to_norm(0.5)))
    # PyTorch's own adds 1e-6 to the norm.
    with_epsilon = network.train_torch(make, clip=lambda weights: torch.nn.utils.clip_grad_norm_(weights, 0.5))
    same_trajectory(ours, with_epsilon, tolerance=1e-5)
    assert not np.allclose(ours[0]["output.bias"], network.train(optim.SGD(0.3, momentum=0.9))[0]["output.bias"])


def test_clipping_by_value(network: Any, same_trajectory: Any) -> None:
    ours = network.train(optim.chain(optim.clip_by_value(0.05), optim.Adam(0.05)))
    expected = network.train_torch(
        lambda weights: torch.optim.Adam(weights.values(), lr=0.05),
        clip=lambda weights: torch.nn.utils.clip_grad_value_(weights, 0.05),
    )
    same_trajectory(ours, expected)


def test_penalties_before_adam(network: Any, same_trajectory: Any) -> None:
    ours = network.train(optim.chain(optim.l1(0.03), optim.l2(0.2), optim.Adam(0.05)))

    def penalty(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        chosen = [w for path, w in weights.items() if path.endswith("weight")]
        return sum(0.03 * w.abs().sum() + 0.1 * (w**2).sum() for w in chosen)  # type: ignore[return-value]

    make = lambda weights: torch.optim.Adam(weights.values(), lr=0.05)  # noqa: E731
    same_trajectory(ours, network.train_torch(make, penalty=penalty))


def test_groups_with_a_learning_rate_each(network: Any, same_trajectory: Any) -> None:
    ours = network.train(
        optim.groups(
            {"*.bias": optim.SGD(0.3), "hidden.*": optim.Adam(0.01)},
            default=optim.AdamW(optim.step(0.05, every=4, factor=0.5), weight_decay=0.2),
        )
    )
    parts = {"*.bias": ["hidden.bias", "output.bias"], "hidden": ["hidden.weight"], "default": ["output.weight"]}
    expected: list[dict[str, Any]] = [{} for _ in ours]
    makers: dict[str, Any] = {
        "*.bias": lambda w: torch.optim.SGD(w, lr=0.3),
        "hidden": lambda w: torch.optim.Adam(w, lr=0.01),
        "default": lambda w: torch.optim.AdamW(w, lr=0.05, weight_decay=0.2),
    }

    class Several(torch.optim.Optimizer):
        """Three optimisers that step together."""

        def __init__(self, weights: dict[str, torch.Tensor]) -> None:
            super().__init__(weights.values(), {})
            self.all = {name: makers[name]([weights[path] for path in paths]) for name, paths in parts.items()}
            self.schedule = torch.optim.lr_scheduler.StepLR(self.all["default"], 4, 0.5)

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for one in self.all.values():
                one.step()
            self.schedule.step()

    expected = network.train_torch(Several)
    same_trajectory(ours, expected)


SCHEDULES: list[tuple[str, Any, Any]] = [
    (
        "cosine",
        optim.cosine(0.2, 15),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 0.5 * (1 + np.cos(np.pi * min(t, 15) / 15))),
    ),
    ("cosine20", optim.cosine(0.2, 20, final=0.01), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 0.01)),
    ("step", optim.step(0.2, every=6, factor=0.3), lambda o: torch.optim.lr_scheduler.StepLR(o, 6, 0.3)),
    ("exponential", optim.exponential(0.2, 0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
    (
        "warmup",
        optim.warmup(5, after=0.2),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 5, total_iters=4),
    ),
    (
        "function",
        lambda count: 0.2 / (1 + count),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    ),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), SCHEDULES, ids=[name for name, _, _ in SCHEDULES])
@pytest.mark.parametrize("adam", [False, True])
def test_schedules_step_like_those_of_torch(
    network: Any, same_trajectory: Any, name: str, ours: Any, theirs: Any, adam: bool
) -> None:
    mine = optim.Adam(ours) if adam else optim.SGD(ours, momentum=0.9)

    def make(weights: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
        if adam:
            return torch.optim.Adam(weights.values(), lr=0.2)
        return torch.optim.SGD(weights.values(), lr=0.2, momentum=0.9)

    same_trajectory(network.train(mine), network.train_torch(make, schedule=theirs))


def test_float32_stays_float32_and_near_torch(same_trajectory: Any, network: Any) -> None:
    single = type(network)(np.float32)
    for ours, theirs in [(optim.Adam(0.01), torch.optim.Adam), (optim.RMSProp(0.01), torch.optim.RMSprop)]:
        expected = single.train_torch(lambda weights, theirs=theirs: theirs(weights.values(), lr=0.01))
        same_trajectory(single.train(ours), expected, tolerance=2e-5)
