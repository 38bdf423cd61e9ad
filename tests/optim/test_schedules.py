"""Schedules by value; that they train like PyTorch's is in test_trajectories."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import optim
from chainrule.core.errors import ConfigError
from chainrule.optim import schedules


def rates(schedule: Any, counts: Any) -> list[float]:
    return [float(schedule(count)) for count in counts]


def test_constant() -> None:
    assert rates(optim.constant(0.3), [0, 7, 10**12]) == [0.3, 0.3, 0.3]


def test_cosine_ends_at_its_final_rate_and_stays_there() -> None:
    schedule = optim.cosine(1.0, steps=4, final=0.2)
    half = 0.2 + 0.4 * (1 + math.cos(math.pi / 4))
    assert rates(schedule, range(6)) == pytest.approx([1.0, half, 0.6, 0.2 + (1.0 - half), 0.2, 0.2], rel=1e-15)


def test_step() -> None:
    assert rates(optim.step(1.0, every=3, factor=0.5), range(8)) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_exponential() -> None:
    assert rates(optim.exponential(2.0, 0.5), range(4)) == [2.0, 1.0, 0.5, 0.25]


def test_warmup_rises_to_the_full_rate_and_then_starts_what_follows() -> None:
    assert rates(optim.warmup(4, after=0.8), range(6)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    decaying = optim.warmup(2, after=optim.exponential(1.0, 0.5))
    assert rates(decaying, range(5)) == [0.5, 1.0, 1.0, 0.5, 0.25]
    twice = optim.warmup(2, after=optim.warmup(2, after=lambda count: 1.0))
    assert rates(twice, range(5)) == [0.25, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(("steps", "growth"), [(5, 1), (3, 2), (4, 3), (7, 2)])
def test_cosine_restarts_are_those_of_torch(steps: int, growth: int) -> None:
    schedule = optim.cosine_restarts(0.5, steps, growth, final=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, steps, growth, eta_min=0.1)
    for count in range(200):
        assert float(schedule(count)) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12), count
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("steps", "rise"), [(20, 0.3), (100, 0.1), (7, 0.5)])
def test_one_cycle_is_that_of_torch(steps: int, rise: float) -> None:
    schedule = optim.one_cycle(0.5, steps, rise, start_factor=10.0, final_factor=100.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.5, steps, pct_start=rise, div_factor=10.0, final_div_factor=100.0
    )
    for count in range(steps):
        assert float(schedule(count)) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), count
        optimizer.step()
        if count < steps - 1:
            theirs.step()
    assert float(schedule(10 * steps)) == pytest.approx(0.5 / 1000)


@pytest.mark.parametrize("steps", [20, 57])
@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize(("three", "rise"), [(False, 0.3), (True, 0.3), (True, 0.45)])
def test_phases_and_lines_of_one_cycle_are_those_of_torch(steps: int, straight: bool, three: bool, rise: float) -> None:
    schedule = optim.one_cycle(0.5, steps, rise, 10.0, 100.0, straight, three)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        0.5,
        steps,
        pct_start=rise,
        div_factor=10.0,
        final_div_factor=100.0,
        anneal_strategy="linear" if straight else "cos",
        three_phase=three,
    )
    again = optim.schedule_from_description(schedule.describe)
    for count in range(steps):
        assert float(schedule(count)) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), count
        assert float(again(count)) == float(schedule(count))
        optimizer.step()
        if count < steps - 1:
            theirs.step()


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (optim.multi_step(0.5, [3, 4, 11], 0.3), lambda o, s: s.MultiStepLR(o, [3, 4, 11], 0.3)),
        (optim.linear(0.5, 7), lambda o, s: s.LinearLR(o, total_iters=7)),
        (optim.linear(0.5, 9, 1.0, 0.1), lambda o, s: s.LinearLR(o, 1.0, 0.1, 9)),
        (optim.polynomial(0.5, 9, 2.5), lambda o, s: s.PolynomialLR(o, 9, 2.5)),
        (optim.cyclic(0.1, 0.5, 4), lambda o, s: s.CyclicLR(o, 0.1, 0.5, 4, cycle_momentum=False)),
        (
            optim.cyclic(0.1, 0.5, 3, 5, 0.5),
            lambda o, s: s.CyclicLR(o, 0.1, 0.5, 3, 5, "triangular2", cycle_momentum=False),
        ),
        (
            optim.cyclic(0.1, 0.5, 3, 4, fade=0.9),
            lambda o, s: s.CyclicLR(o, 0.1, 0.5, 3, 4, "exp_range", 0.9, cycle_momentum=False),
        ),
        (
            optim.table(0.5 * np.cumprod([1.0, *(0.95 - 0.01 * n for n in range(1, 40))])),
            lambda o, s: s.MultiplicativeLR(o, lambda n: 0.95 - 0.01 * n),
        ),
        (optim.sequence([0.1, 0.5], [5]), lambda o, s: s.ConstantLR(o, 0.2, 5)),
        (optim.step(0.5, 7, 0.3), lambda o, s: s.StepLR(o, 7, 0.3)),
        (
            optim.sequence([optim.linear(0.5, 4, 0.25), optim.exponential(0.5, 0.9), 0.5], [4, 12]),
            lambda o, s: s.SequentialLR(
                o, [s.LinearLR(o, 0.25, 1.0, 4), s.ExponentialLR(o, 0.9), s.ConstantLR(o, 1.0)], [4, 12]
            ),
        ),
    ],
    ids=lambda item: str(getattr(item, "describe", "")),
)
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_schedules_are_those_of_torch(schedule: Any, theirs: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = theirs(optimizer, torch.optim.lr_scheduler)
    again = optim.schedule_from_description(schedule.describe)
    for count in range(40):
        assert float(schedule(count)) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15), count
        assert float(again(count)) == float(schedule(count))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.multi_step(0.1, [3, 2]), "milestones of multi_step are numbers of updates in increasing order"),
        (lambda: optim.sequence([0.1, 0.2], [3, 4]), "sequence needs 1 milestones between 2 schedules, not 2"),
        (lambda: optim.cyclic(0.2, 0.1, 3), "cyclic rises from low to high, but 0.2 is above 0.1"),
        (lambda: optim.polynomial(0.1, 3, 0), "power of polynomial must be more than 0"),
    ],
)
def test_milestones_and_cycles_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_schedule_is_traced_with_a_float64_count() -> None:
    seen = []

    def mine(count: Any) -> Any:
        seen.append((count.dtype, count.shape))
        return 0.1 / (1 + count)

    sgd = optim.SGD(mine)
    params = {"w": np.ones((2, 2), np.float32)}
    update = cr.compile(lambda state: sgd.update(params, state, params))
    state = sgd.init(params)
    for count in range(3):
        updates, state = update(state)
        np.testing.assert_array_equal(updates["w"], np.full((2, 2), -0.1 / (1 + count), np.float32))
    assert seen == [(np.dtype(np.float64), ())], "one trace serves all counts"


def test_counts_beyond_float32_are_told_apart() -> None:
    schedule = optim.step(1.0, every=2**25, factor=0.5)
    assert rates(schedule, [2**25 - 1, 2**25]) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.constant(-1), "lr of constant must be 0 or more, not -1"),
        (lambda: optim.cosine(0.1, 0), "steps of cosine must be a whole number of 1 or more, not 0"),
        (lambda: optim.cosine(0.1, 10, final=-1), "final of cosine must be 0 or more"),
        (lambda: optim.step(0.1, every=2.5), "every of step must be a whole number of 1 or more, not 2.5"),  # type: ignore[arg-type]
        (lambda: optim.step(0.1, every=2, factor=0), "factor of step must be more than 0"),
        (lambda: optim.one_cycle(0.1, 10, rise=1.0), "rise of one_cycle must be less than 1"),
        (lambda: optim.one_cycle(0.1, 10, rise=0.5, three_phases=True), "rise of one_cycle must be less than 1/2 with"),
        (lambda: optim.table([]), "a table of learning rates needs one rate at least"),
        (lambda: optim.table([0.1, -1]), "rates of table must be 0 or more, not -1"),
        (lambda: optim.cosine_restarts(0.1, 10, 0), "growth of cosine_restarts must be a whole number of 1 or more"),
        (lambda: optim.exponential(0.1, float("nan")), "factor of exponential must be a finite number, not nan"),
        (lambda: optim.warmup(True, after=0.1), "steps of warmup must be a whole number of 1 or more, not True"),
        (lambda: optim.warmup(3, after=-0.1), "the learning rate of warmup must be 0 or more"),
        (lambda: optim.warmup(3, after="fast"), "the learning rate of warmup must be a finite number, not 'fast'"),  # type: ignore[arg-type]
    ],
)
def test_bad_schedules_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_numbers_describe_themselves() -> None:
    assert schedules.describe_rate(schedules.as_schedule("SGD", 0.1)) == 0.1
    assert optim.warmup(3, after=0.1).describe == {"kind": "warmup", "steps": 3, "after": 0.1}
