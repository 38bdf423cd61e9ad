from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st

from chainrule import optim
from chainrule.core.errors import ConfigError

SGD = optim.SGD(1.0)


def start() -> dict[str, Any]:
    return SGD.init({"w": np.zeros(2)})


def reported(plateau: optim.ReduceOnPlateau, metrics: Any, state: Any = None) -> tuple[list[float], Any]:
    state, rates = start() if state is None else state, []
    for metric in metrics:
        state = plateau.update(metric, state)
        rates.append(optim.current_learning_rate(SGD, state))
    return rates, state


METRICS = st.lists(st.floats(0.0, 10.0).map(lambda x: round(x, 2)) | st.just(float("nan")), max_size=30)


@checked(deadline=None)
@given(
    METRICS,
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["min", "max"]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([("rel", 0.01), ("abs", 1.5)]),
    st.sampled_from([0.0, 0.1]),
)
def test_it_reduces_when_that_of_torch_does(
    metrics: list[float], patience: int, cooldown: int, mode: Any, minimum: float, better: Any, least: float
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.5, patience, better[1], better[0], cooldown=cooldown, min_lr=minimum, eps=least
    )
    expected = []
    for metric in metrics:
        theirs.step(metric)
        expected.append(optimizer.param_groups[0]["lr"])
    ours = optim.ReduceOnPlateau(
        0.5, patience, minimum, better[1], cooldown, mode=mode, threshold_mode=better[0], eps=least
    )
    assert reported(ours, metrics)[0] == pytest.approx(expected, rel=1e-6)


def test_infinite_metrics_are_never_better() -> None:
    plateau = optim.ReduceOnPlateau(0.5, patience=0)
    assert reported(plateau, [float("inf"), float("-inf"), 3.0, 2.0])[0] == [0.5, 0.25, 0.25, 0.25]


def test_the_state_given_is_left_alone_and_all_groups_slow_down() -> None:
    both = optim.groups({"b": optim.SGD(1.0)}, default=optim.chain(optim.clip_by_value(1.0), optim.Adam(0.2)))
    params = {"b": np.zeros(2), "w": np.zeros((2, 2))}
    before = both.init(params)
    after = optim.ReduceOnPlateau(0.1, patience=0).update(float("nan"), before)
    assert optim.learning_rate_factor(before) == 1.0
    assert [after["0"]["factor"], after["default"]["1"]["factor"]] == [np.float32(0.1)] * 2
    assert optim.current_learning_rate(both, after) == pytest.approx(0.02)
    assert after["default"]["1"]["first_moment"] == before["default"]["1"]["first_moment"]


def test_it_goes_on_from_a_stored_progress() -> None:
    metrics = [5, 4, 4, 4, 3, 3, 3, 3, 3, 2]
    settings: dict[str, Any] = {"factor": 0.5, "patience": 1, "cooldown": 1}
    whole, _ = reported(optim.ReduceOnPlateau(**settings), metrics)
    assert len(set(whole)) == 3
    for cut in range(len(metrics) + 1):
        first = optim.ReduceOnPlateau(**settings)
        rates, state = reported(first, metrics[:cut])
        stored = json.loads(json.dumps({"settings": first.describe, "progress": first.progress}))
        again = optim.ReduceOnPlateau(**{k: v for k, v in stored["settings"].items() if k != "kind"})
        again.restore(stored["progress"])
        assert rates + reported(again, metrics[cut:], state)[0] == whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 1.0}, "factor of ReduceOnPlateau must be less than 1"),
        ({"factor": 0.0}, "factor of ReduceOnPlateau must be more than 0"),
        ({"patience": -1}, "patience of ReduceOnPlateau must be a whole number of 0 or more"),
        ({"minimum": -0.1}, "minimum of ReduceOnPlateau must be 0 or more"),
        ({"mode": "lower"}, "mode of ReduceOnPlateau is 'min'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        optim.ReduceOnPlateau(**settings)


@pytest.mark.parametrize(
    "progress", [{}, {"best": 1.0}, {"best": "low", "bad": 0, "resting": 0}, {"best": None, "bad": -1, "resting": 0}]
)
def test_a_broken_progress_is_refused(progress: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="of ReduceOnPlateau"):
        optim.ReduceOnPlateau().restore(progress)
