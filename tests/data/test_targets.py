"""The task that a target column sets, its classes, and answers from a network's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ChainruleError, ConfigError, DataError
from chainrule.core.files import from_json, to_json
from chainrule.data import Table, Target, class_weights, known_rows, learn_target, read_table
from chainrule.engines import reference


def learn(values: Any, **options: Any) -> tuple[Target, Table, list[str]]:
    types = options.pop("types", None)
    table = read_table({"y": values}, types=types)
    notices: list[str] = []
    rows = known_rows(table, "y", notices)
    target = learn_target(table, "y", rows, rows, notices, type_is_given=types is not None, **options)
    return target, table, notices


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["yes", "no", "yes"], "binary", ("no", "yes")),
        ([True, False, True], "binary", (False, True)),
        ([0, 1, 1], "binary", (0, 1)),
        ([1.0, 2.0, 2.0], "binary", (1, 2)),
        (["b", "a", "c"], "multiclass", ("a", "b", "c")),
        ([0, 1, 2] * 10, "multiclass", (0, 1, 2)),
        ([0, 1, 2] * 9, "regression", ()),
        ([0.5, 1.0], "regression", ()),
        (list(range(21)) * 20, "regression", ()),
        (list(range(20)) * 10, "multiclass", tuple(range(20))),
        ([1.5, 2.25, 3.0], "regression", ()),
    ],
)
def test_the_task_follows_from_the_values(values: list[Any], task: str, classes: tuple[Any, ...]) -> None:
    target, _, notices = learn(values)
    assert target.task == task
    assert target.classes == classes
    assert [type(label) for label in target.classes] == [type(label) for label in classes]
    assert len(notices) == (task == "multiclass" and classes[0] == 0)


@pytest.mark.parametrize(
    ("values", "options", "task"),
    [
        ([0, 1, 2] * 10, {"types": {"y": "number"}}, "regression"),
        ([0, 1] * 10, {"types": {"y": "number"}}, "regression"),
        ([1.5, 2.25, 3.5], {"types": {"y": "category"}}, "multiclass"),
        ([0, 1, 2] * 10, {"task": "regression"}, "regression"),
        ([3, 7, 9], {"task": "classification"}, "multiclass"),
        ([f"user {n}" for n in range(30)], {"task": "classification"}, "multiclass"),
        (["a", "b"], {"task": "binary"}, "binary"),
    ],
)
def test_the_task_can_be_told(values: list[Any], options: dict[str, Any], task: str) -> None:
    assert learn(values, **options)[0].task == task


def test_whole_numbers_taken_as_classes_are_noticed() -> None:
    _, _, notices = learn([0, 1, 2] * 10)
    assert notices == [
        "the target 'y' has 3 different whole numbers, which are taken as classes; to predict it as a quantity, give its "
        "type (y=number)"
    ]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([3.0, 3.0, None], {}, "the dict, column 'y': the target has the same value in every row"),
        (["a", "a"], {}, "has the same value in every row"),
        ([None, None], {}, "column 'y': every value of the target is missing"),
        (["2024-01-01", "2024-02-01"], {}, "holds dates, which cannot be predicted"),
        ([f"user {n}" for n in range(30)], {}, r"looks like an identifier .*y=category"),
        (["a", "b", "c"], {"task": "binary"}, "needs a target of two classes, but 'y' has 3"),
        (["a", "b"], {"task": "multiclass"}, "needs three classes or more"),
        (["a", "b"], {"task": "regression"}, "needs a target of numbers, but 'y' is a category"),
        ([1, 2], {"task": "clustering"}, "the task 'clustering' is not one of binary"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(values: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ChainruleError, match=message) as caught:
        learn(values, **options)
    assert isinstance(caught.value, DataError | ConfigError)


def test_rows_without_a_target_are_counted() -> None:
    table = read_table({"y": [1.0, None, 2.5, None], "x": [1, 2, 3, 4]})
    notices: list[str] = []
    assert known_rows(table, "y", notices).tolist() == [0, 2]
    assert notices == ["2 rows (the first is the dict, row 2) have no value of the target 'y' and are left out"]


# --- encoding ---------------------------------------------------------------------------------------------------------


def test_classes_are_numbered_and_counted_in_the_training_rows() -> None:
    table = read_table({"y": ["b", "a", "c", "b", "a"]})
    rows = np.arange(5)
    target = learn_target(table, "y", rows, np.array([0, 1, 3]))
    assert target.encode(table.column("y")).tolist() == [1, 0, 2, 1, 0]
    assert target.counts == (1, 2, 0)
    assert target.labels(np.array([2, 0])).tolist() == ["c", "a"]


def test_booleans_keep_their_words() -> None:
    target, table, _ = learn(["Yes", "no", "no", "Yes"])
    assert target.classes == ("no", "Yes")
    assert target.labels(target.encode(table.column("y"))).tolist() == ["Yes", "no", "no", "Yes"]
    shouted = read_table({"y": ["NO", "YES", "NO"]})
    assert target.encode(shouted.column("y")).tolist() == [0, 1, 0]


def test_a_regression_is_scaled_by_the_training_rows_and_back() -> None:
    values = np.random.default_rng(0).normal(1e4, 5, 50)
    table = read_table({"y": values})
    target = learn_target(table, "y", np.arange(50), np.arange(20))
    scaled = target.encode(table.column("y"))
    assert scaled.dtype == np.float32
    assert abs(scaled[:20].mean()) < 1e-5
    assert abs(scaled[:20].std() - 1) < 1e-5
    back = target.decode(scaled[:, None])["prediction"]
    assert back.dtype == np.float64
    assert np.allclose(back, values, atol=1e-4)


def test_an_unknown_class_and_a_missing_value_name_their_row() -> None:
    target, _, _ = learn(["a", "b", "b"])
    new = read_table({"y": ["a", "b", "q", None]})
    column = new.column("y")
    with pytest.raises(DataError, match=r"the dict, row 4, column 'y': the target is missing"):
        target.encode(column, new.places)
    with pytest.raises(DataError, match=r"the dict, row 3, column 'y': 'q' is not one of the classes .*\('a', 'b'\)"):
        target.encode(column.select(slice(0, 3)), new.places)


def test_class_weights_make_classes_weigh_the_same() -> None:
    codes = np.array([0] * 90 + [2] * 10)
    weights = class_weights(codes, 3)
    assert np.isclose(weights[:90].sum(), weights[90:].sum())
    assert np.isclose(weights.mean(), 1)


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_two_classes_have_a_logistic_probability_without_overflow() -> None:
    target = Target("y", "binary", "category", ("a", "b"), (1, 1))
    logits = np.array([[0.0], [2.0], [-2.0], [1e30], [-1e30], [30.0]], np.float32)
    found = target.decode(logits)
    x = logits[:, 0].astype(np.float64)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-x))
    assert np.allclose(found["probability"][:, 1], expected, rtol=1e-6)
    assert np.allclose(found["probability"].sum(axis=1), 1)
    assert found["probability"][5, 0] == pytest.approx(np.exp(-30), rel=1e-5)
    assert found["prediction"].tolist() == [0, 1, 0, 1, 0, 1]


def test_more_classes_have_a_softmax() -> None:
    target = Target("y", "multiclass", "category", ("a", "b", "c"), (1, 1, 1))
    logits = np.array([[1, 2, 3], [1000, 0, -1000], [0, 0, 0]], np.float32)
    found = target.decode(logits)
    grown = np.exp(logits[0] - 3)
    assert np.allclose(found["probability"][0], grown / grown.sum())
    assert found["probability"][1].tolist() == [1, 0, 0]
    assert found["prediction"].tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    "target",
    [
        Target("y", "binary", "boolean", (False, True), (3, 4)),
        Target("y", "multiclass", "number", (1, 2, 5), (3, 4, 0)),
        Target("y", "regression", "number", centre=3.5, scale=1e-9),
    ],
)
def test_decoding_can_be_traced_and_targets_stored(target: Target) -> None:
    assert Target.from_json(from_json(to_json(target.to_json()))) == target
    outputs = np.random.default_rng(0).normal(size=(7, target.outputs)).astype(np.float32)
    expected = target.decode(outputs)
    graph = cr.trace(target.decode, outputs, batch=("outputs",))
    results = dict(zip(graph.output_names, reference.ENGINE.load(graph)([outputs]), strict=True))
    assert results.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(results[name], array)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "other"},
        {"version": 2},
        {"task": "clustering"},
        {"task": ["binary"]},
        {"classes": ["a"]},
        {"classes": ["a", None]},
        {"classes": 5},
        {"counts": [1]},
        {"counts": [1, -1]},
        {"scale": 0.0},
        {"scale": float("inf")},
        {"centre": "x"},
    ],
)
def test_damaged_json_is_refused(damage: dict[str, Any]) -> None:
    content = Target("y", "binary", "category", ("a", "b"), (1, 1)).to_json()
    with pytest.raises(DataError):
        Target.from_json({**content, **damage})
