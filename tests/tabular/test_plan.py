"""From settings and the size of the data to definite numbers."""

from __future__ import annotations

import numpy as np
import pytest

from chainrule.core.errors import RunError
from chainrule.core.files import from_json, to_json
from chainrule.data import Target
from chainrule.tabular import Plan, Settings
from chainrule.tabular.plan import make_network, make_plan, make_stopping

BINARY = Target("y", "binary", "category", ("a", "b"), (1, 1))
MANY = Target("y", "multiclass", "category", ("a", "b", "c"), (1, 1, 1))
NUMBER = Target("y", "regression", "number")


@pytest.mark.parametrize(
    ("rows", "batch"), [(1, 1), (4, 4), (60, 8), (300, 16), (400, 32), (1250, 64), (2000, 128), (10**6, 128)]
)
def test_batches_grow_with_the_rows(rows: int, batch: int) -> None:
    assert make_plan(Settings(), BINARY, width=5, rows=rows).batch_size == batch


@pytest.mark.parametrize(
    ("rows", "epochs", "patience"), [(100, 200, 30), (64_000, 200, 30), (128_000, 100, 20), (10**7, 20, 5)]
)
def test_very_many_rows_are_seen_fewer_times(rows: int, epochs: int, patience: int) -> None:
    plan = make_plan(Settings(), BINARY, width=5, rows=rows)
    assert (plan.epochs, plan.patience) == (epochs, patience)


def test_weight_decay_falls_with_the_rows_and_does_not_grow_with_the_rate() -> None:
    few, many = (make_plan(Settings(), BINARY, width=5, rows=rows).weight_decay for rows in (200, 4000))
    assert few == pytest.approx(10 * many)
    assert make_plan(Settings(), NUMBER, width=5, rows=200).weight_decay < few
    fast = make_plan(Settings(learning_rate=0.1), BINARY, width=5, rows=200)
    slow = make_plan(Settings(), BINARY, width=5, rows=200)
    assert fast.weight_decay * fast.learning_rate == pytest.approx(slow.weight_decay * slow.learning_rate)
    assert make_plan(Settings(weight_decay=0.0), BINARY, width=5, rows=200).weight_decay == 0


def test_the_settings_of_the_user_win() -> None:
    settings = Settings(
        epochs=3, batch_size="full", learning_rate=0.5, dropout=0.0, hidden=(3,), activation="ReLU", patience=0, seed=9
    )
    plan = make_plan(settings, MANY, width=5, rows=77)
    assert (plan.epochs, plan.batch_size, plan.learning_rate, plan.dropout) == (3, 77, 0.5, 0.0)
    assert (plan.hidden, plan.activation, plan.patience, plan.seed) == ((3,), "ReLU", 0, 9)
    assert plan.describe() == "5 → 3 → 3, ReLU"
    assert make_stopping(plan, has_validation=True) is None
    assert plan.steps(77) == 3


@pytest.mark.parametrize(("target", "outputs"), [(BINARY, 1), (MANY, 3), (NUMBER, 1)])
def test_the_network_has_the_outputs_of_the_task(target: Target, outputs: int) -> None:
    plan = make_plan(Settings(), target, width=5, rows=50)
    network = make_network(plan)
    assert network(np.zeros((4, 5), np.float32)).shape == (4, outputs)
    linear = make_network(plan.replace(hidden=()))
    assert [array.shape for array in linear.named_parameters().values()] == [(5, outputs), (outputs,)]


def test_initial_weights_depend_on_the_seed_alone() -> None:
    plan = make_plan(Settings(), BINARY, width=5, rows=50)
    one, two, other = (make_network(p).named_parameters() for p in (plan, plan.replace(epochs=1), plan.replace(seed=1)))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["layers.0.weight"], other["layers.0.weight"])


def test_a_plan_is_stored_exactly() -> None:
    plan = make_plan(Settings(stop_at_loss=0.1, clip_norm=1.0), BINARY, width=5, rows=333)
    assert Plan.from_json(from_json(to_json(plan.to_json()))) == plan
    with pytest.raises(RunError, match="lacks a setting or has one"):
        Plan.from_json({**plan.to_json(), "code": "x"})
