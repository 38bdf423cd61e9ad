"""What all optimisers share: state, element types, chains, the learning rate, descriptions, errors."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core import trees
from chainrule.core.errors import ConfigError, DTypeError, ShapeError

EVERY = [
    optim.SGD(0.1),
    optim.SGD(optim.cosine(0.1, 10, final=0.01), momentum=0.9, nesterov=True, weight_decay=0.1, decay=["*.w"]),
    optim.RMSProp(0.02, alpha=0.9, eps=1e-3, momentum=0.5, centered=True),
    optim.Adam(optim.warmup(3, after=optim.step(0.1, every=2)), betas=(0.8, 0.9), amsgrad=True),
    optim.AdamW(optim.exponential(0.1, 0.99), weight_decay=0.0),
    optim.SGD(0.1, momentum=0.9, dampening=0.5),
    optim.RAdam(optim.polynomial(0.1, 9), betas=(0.8, 0.9), decoupled=True, weight_decay=0.1),
    optim.Adamax(optim.sequence([optim.multi_step(0.1, [1]), 0.2], [2])),
    optim.Rprop(0.1, step_sizes=(0.01, 0.5)),
    optim.chain(
        optim.l1(0.1), optim.l2(0.1, on="*"), optim.clip_by_value(0.3), optim.clip_by_global_norm(0.2), optim.Adam()
    ),
    optim.groups({"*.b": optim.SGD(0.3), "c": optim.frozen()}, default=optim.AdamW(optim.constant(0.1))),
]
NAMES = ["SGD", "Nesterov", "RMSProp", "Adam", "AdamW", "dampened", "RAdam", "Adamax", "Rprop", "chain", "groups"]


def params_of(dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "a.w": rng.normal(size=(3, 2)).astype(dtype),
        "a.b": rng.normal(size=2).astype(dtype),
        "c": np.ones((), dtype),
    }


@pytest.mark.parametrize("optimizer", EVERY, ids=NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eager_and_compiled_updates_agree_and_keep_types(optimizer: optim.Optimizer, dtype: Any) -> None:
    params = params_of(dtype)
    state = cr.compile(optimizer.init)(params)
    types = {path: (leaf.dtype, leaf.shape) for path, leaf in trees.named_leaves(state).items()}
    assert types == {path: (x.dtype, x.shape) for path, x in trees.named_leaves(optimizer.init(params)).items()}
    update = cr.compile(optimizer.update)
    eager, compiled = (params, state), (params, state)
    for number in range(4):
        gradients = {path: np.cos(p + number).astype(dtype) for path, p in params.items()}
        updates, after = optimizer.update(gradients, eager[1], eager[0])
        eager = optim.apply_updates(eager[0], updates), after
        updates, after = update(gradients, compiled[1], compiled[0])
        compiled = optim.apply_updates(compiled[0], updates), after
    assert {path: (x.dtype, x.shape) for path, x in trees.named_leaves(compiled[1]).items()} == types
    for path, array in trees.named_leaves(eager).items():
        assert array.tobytes() == trees.named_leaves(compiled)[path].tobytes(), path
    assert {p.dtype for p in compiled[0].values()} == {np.dtype(dtype)}
    slots = {x.dtype for path, x in trees.named_leaves(state).items() if not path.endswith(("count", "factor"))}
    assert slots <= {np.dtype(dtype)}


def test_mixed_element_types_each_keep_their_own() -> None:
    params = {"w": np.ones((2, 2)), "v": np.ones((2, 2), np.float32)}
    adam = optim.chain(optim.clip_by_global_norm(1.0), optim.AdamW(0.1))
    updates, state = adam.update(params, adam.init(params), params)
    assert [updates[path].dtype for path in params] == [np.float64, np.float32]
    assert [state["1"]["second_moment"][path].dtype for path in params] == [np.float64, np.float32]


def test_the_layout_of_the_state() -> None:
    params = params_of(np.float32)
    state = optim.Adam().init(params)
    assert list(state) == ["count", "factor", "first_moment", "second_moment"]
    assert (state["count"].dtype, state["count"].shape, int(state["count"])) == (np.int64, (), 0)
    assert (state["factor"].dtype, state["factor"].shape, float(state["factor"])) == (np.float32, (), 1.0)
    assert list(state["first_moment"]) == list(params)
    assert set(optim.SGD(0.1).init(params)) == {"count", "factor"}
    chained = optim.chain(optim.clip_by_value(1.0), optim.SGD(0.1)).init(params)
    assert chained["0"] == {}
    assert list(chained["1"]) == ["count", "factor"]


def test_what_depends_on_the_step_alone_is_computed_once() -> None:
    def nodes(layers: int) -> int:
        params = {f"{k}.w": np.ones((k + 2, 3), np.float32) for k in range(layers)}
        adam = optim.Adam(optim.warmup(5, after=optim.cosine(0.1, 20)))
        update = cr.compile(lambda state: optim.apply_updates(params, adam.update(params, state, params)[0]))
        update(adam.init(params))
        return sum(node.primitive.name not in ("broadcast", "constant") for node in update.graph.nodes)

    assert nodes(3) - nodes(2) == nodes(2) - nodes(1) <= 12


def test_every_node_of_an_update_says_so_and_names_its_parameter() -> None:
    params = params_of(np.float32)
    adam = optim.Adam()
    graph = cr.trace(lambda g, s, p: optim.apply_updates(p, adam.update(g, s, p)[0]), params, adam.init(params), params)
    assert {node.origin.phase for node in graph.nodes} == {"update"}
    assert {node.origin.path for node in graph.nodes} == {"", *params}


# --- chains and updates -----------------------------------------------------------------------------------------------


def test_a_chain_applies_its_transforms_in_order() -> None:
    params = {"w": np.zeros((1, 1))}
    gradient = {"w": np.array([[10.0]])}
    double = optim.chain(optim.SGD(2.0), optim.clip_by_value(1.0))
    assert double.update(gradient, double.init(params), params)[0]["w"] == -1.0
    double = optim.chain(optim.clip_by_value(1.0), optim.SGD(2.0))
    assert double.update(gradient, double.init(params), params)[0]["w"] == -2.0
    nothing = optim.chain()
    assert nothing.update(gradient, nothing.init(params), params) == (gradient, {})


def test_a_transform_of_ones_own_joins_a_chain() -> None:
    def average(gradients: Any, state: Any, params: Any) -> Any:
        mean = {path: 0.5 * state["mean"][path] + 0.5 * g for path, g in gradients.items()}
        return mean, {"mean": mean}

    mine = optim.Transform(lambda params: {"mean": {path: np.zeros_like(p) for path, p in params.items()}}, average)
    both = optim.chain(mine, optim.SGD(1.0))
    params = {"w": np.ones(2)}
    state = both.init(params)
    update = cr.compile(both.update)
    for expected in (-0.5, -0.75):
        updates, state = update(params, state, params)
        np.testing.assert_array_equal(updates["w"], [expected, expected])


def test_updates_are_added_in_the_type_of_the_parameter() -> None:
    params = {"a": np.ones(2, np.float32), "b": np.array([-0.0, np.nan])}
    after = optim.apply_updates(params, {"a": np.array([0.5, -1.0])})
    assert after["a"].dtype == np.float32
    np.testing.assert_array_equal(after["a"], [1.5, 0.0])
    assert after["b"].tobytes() == params["b"].tobytes()
    with pytest.raises(ConfigError, match="there is an update for 'c', but no parameter of that name"):
        optim.apply_updates(params, {"c": np.zeros(2)})
    with pytest.raises(
        ShapeError, match=r"the update of parameter 'a' has shape \(3,\), but the parameter has shape \(2,\)"
    ):
        optim.apply_updates(params, {"a": np.zeros(3, np.float32)})


def test_gradients_must_fit_the_parameters() -> None:
    sgd = optim.SGD(0.1)
    params = {"a": np.zeros((2, 3)), "b": np.zeros(3)}
    state = sgd.init(params)
    with pytest.raises(ConfigError, match="parameter 'b' has no gradient"):
        sgd.update({"a": np.zeros((2, 3))}, state, params)
    with pytest.raises(ConfigError, match="there is a gradient for 'c', but no parameter"):
        sgd.update({**params, "c": np.zeros(3)}, state, params)
    with pytest.raises(
        ShapeError, match=r"the gradient of parameter 'a' has shape \(3, 2\), but .* has shape \(2, 3\)"
    ):
        sgd.update({**params, "a": np.zeros((3, 2))}, state, params)
    with pytest.raises(DTypeError, match="parameter 'k' has element type int64"):
        sgd.init({"k": np.arange(3)})


# --- the learning rate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [optim.Adam, optim.LBFGS, lambda: optim.average(optim.groups({}, optim.SGD(0.1)))])
def test_an_optimiser_starts_from_named_arrays(make: Any) -> None:
    message = r"a dict \{path: array\} such as model\.named_parameters\(\), not Linear"
    with pytest.raises(ConfigError, match=message):
        make().init(nn.Linear(2, 3))


def test_the_learning_rate_of_the_next_update() -> None:
    adam = optim.Adam(optim.step(0.8, every=2, factor=0.5))
    params = {"w": np.ones((2, 2), np.float32)}
    state, seen = adam.init(params), []
    for _ in range(5):
        seen.append(optim.current_learning_rate(adam, state))
        _, state = adam.update(params, state, params)
    assert seen == [0.8, 0.8, 0.4, 0.4, 0.2]
    assert optim.current_learning_rate(adam, optim.scale_learning_rate(state, 0.25)) == pytest.approx(0.05)


def test_scaling_acts_on_the_next_update() -> None:
    params = {"w": np.ones((2, 2))}
    for optimizer in (optim.SGD(0.1, momentum=0.9), optim.Adam(0.1), optim.RMSProp(0.1)):
        state = optimizer.init(params)
        full, _ = optimizer.update(params, state, params)
        half, after = optimizer.update(params, optim.scale_learning_rate(state, 0.5), params)
        np.testing.assert_allclose(half["w"], 0.5 * full["w"], rtol=1e-12)
        assert optim.learning_rate_factor(after) == 0.5
        assert after["factor"].dtype == np.float32


def test_parameters_may_be_called_count_and_factor() -> None:
    params = {"count": np.ones(()), "factor": np.ones(())}
    mine = optim.Transform(lambda params: {"mean": params, "factor": np.ones(())}, lambda g, state, params: (g, state))
    both = optim.chain(mine, optim.SGD(0.1, momentum=0.9))
    scaled = optim.scale_learning_rate(both.init(params), 0.5)
    assert optim.learning_rate_factor(scaled) == 0.5
    assert scaled["0"]["mean"]["factor"] == scaled["0"]["factor"] == 1.0
    assert scaled["1"]["momentum"]["factor"] == 0.0


def test_a_transform_alone_has_no_learning_rate() -> None:
    clip = optim.clip_by_value(1.0)
    with pytest.raises(ConfigError, match="clip_by_value has no learning rate"):
        optim.current_learning_rate(clip, {})
    with pytest.raises(ConfigError, match="holds no learning rate"):
        optim.scale_learning_rate({}, 0.5)
    with pytest.raises(ConfigError, match="multiplied by a positive number, not by 0"):
        optim.scale_learning_rate(optim.SGD(0.1).init({}), 0)


def test_the_rate_of_groups_is_that_of_the_default() -> None:
    params = {"a.b": np.zeros(2), "w": np.zeros(2)}
    both = optim.groups({"*.b": optim.SGD(0.3)}, default=optim.SGD(0.2))
    assert optim.current_learning_rate(both, both.init(params)) == 0.2
    frozen_rest = optim.groups({"*.b": optim.SGD(0.3)}, default=optim.frozen())
    assert optim.current_learning_rate(frozen_rest, frozen_rest.init(params)) == 0.3


# --- descriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", EVERY, ids=NAMES)
def test_a_stored_description_makes_the_same_optimizer_again(optimizer: optim.Optimizer) -> None:
    stored = json.loads(json.dumps(optimizer.describe))
    again = optim.from_description(stored)
    assert json.loads(json.dumps(again.describe)) == stored
    params = params_of(np.float64)
    first, second = optimizer.init(params), again.init(params)
    for number in range(3):
        gradients = {path: np.sin(p + number) for path, p in params.items()}
        updates, first = optimizer.update(gradients, first, params)
        others, second = again.update(gradients, second, params)
        assert {path: u.tobytes() for path, u in updates.items()} == {path: u.tobytes() for path, u in others.items()}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "Adamw"}, r"there is no optimiser or schedule 'Adamw'; did you mean 'Adam.?'\?"),
        ({"lr": 0.1}, "needs a 'kind'"),
        ({"kind": "SGD"}, "the description of SGD does not fit: missing a required argument: 'lr'"),
        ({"kind": "SGD", "lr": 0.1, "speed": 3}, "SGD has no setting 'speed'; there are lr, momentum"),
        ({"kind": "SGD", "lr": 0.1, "momentun": 3}, r"SGD has no setting 'momentun'; did you mean 'momentum'\?"),
        (
            {"kind": "SGD", "lr": {"kind": "cosine", "lr": 0.1, "stesp": 3}},
            r"cosine has no setting 'stesp'; did you mean 'steps'\?",
        ),
        ({"kind": "SGD", "lr": -0.1}, "the learning rate of SGD must be 0 or more"),
        ({"kind": "cosine", "lr": 0.1, "steps": 3}, "cosine is not an optimiser"),
        (optim.SGD(lambda count: 0.1).describe, "the stored function .*lambda.* is the author's own"),
        (optim.AdamW(decay=lambda path, p: True).describe, "the stored function .*lambda.* is the author's own"),
    ],
)
def test_bad_descriptions_are_refused(description: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        optim.from_description(description)


def test_schedules_from_descriptions() -> None:
    schedule = optim.warmup(3, after=optim.cosine(0.1, 10))
    again = optim.schedule_from_description(schedule.describe)
    assert [float(again(k)) for k in range(12)] == [float(schedule(k)) for k in range(12)]
    assert float(optim.schedule_from_description(0.5)(3)) == 0.5
    with pytest.raises(ConfigError, match="SGD is not a schedule"):
        optim.schedule_from_description(optim.SGD(0.1).describe)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.SGD(-0.1), r"the learning rate of SGD must be 0 or more, not -0\.1"),
        (lambda: optim.SGD("fast"), "the learning rate of SGD must be a finite number, not 'fast'"),  # type: ignore[arg-type]
        (lambda: optim.Adam(float("nan")), "the learning rate of Adam must be a finite number, not nan"),
        (lambda: optim.SGD(0.1, momentum=1.0), "momentum of SGD must be at least 0 and less than 1, not 1.0"),
        (lambda: optim.SGD(0.1, nesterov=True), "Nesterov's method needs momentum"),
        (lambda: optim.SGD(0.1, dampening=0.5), "dampening is for momentum that is not Nesterov's"),
        (lambda: optim.Rprop(0.0), "lr of Rprop must be more than 0, not 0.0"),
        (lambda: optim.Rprop(etas=(1.1, 1.2)), "Rprop needs etas below and above 1"),
        (lambda: optim.Rprop(step_sizes=1e-3), "step_sizes of Rprop are two numbers, not 0.001"),  # type: ignore[arg-type]
        (lambda: optim.SGD(0.1, weight_decay=-1), "weight_decay of SGD must be 0 or more"),
        (lambda: optim.RMSProp(alpha=1), "alpha of RMSProp must be at least 0 and less than 1"),
        (lambda: optim.RMSProp(eps=-1), "eps of RMSProp must be 0 or more"),
        (lambda: optim.Adam(betas=(0.9, 1.0)), "the second of betas of Adam must be at least 0 and less than 1"),
        (lambda: optim.AdamW(betas=(-0.1, 0.9)), "the first of betas of AdamW must be at least 0"),
        (lambda: optim.Adam(betas=0.9), r"betas of Adam are two numbers such as \(0\.9, 0\.999\), not 0\.9"),  # type: ignore[arg-type]
        (lambda: optim.Adam(eps=float("inf")), "eps of Adam must be a finite number"),
    ],
)
def test_bad_settings_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_bias_correction_is_exact_for_betas_near_one() -> None:
    adam = optim.Adam(1.0, betas=(0.9, 1 - 1e-9), eps=0.0)
    params = {"w": np.full((1, 1), 3.0, np.float32)}
    updates, _ = adam.update(params, adam.init(params), params)
    np.testing.assert_allclose(updates["w"], [[-1.0]], rtol=1e-6)


def test_a_centered_rmsprop_survives_a_variance_that_rounds_below_zero() -> None:
    rms = optim.RMSProp(0.1, alpha=0.5, eps=1e-6, centered=True)
    params = {"w": np.full((1, 1), -0.5947237, np.float32)}
    state, below = rms.init(params), False
    for _ in range(40):
        updates, state = rms.update(params, state, params)
        below |= bool(state["mean_square"]["w"] < state["mean"]["w"] ** 2)
        assert np.isfinite(updates["w"]).all()
    assert below, "the case that is tested did not occur"


@pytest.mark.parametrize("optimizer", EVERY, ids=NAMES)
def test_optimisers_are_pickled_and_copied(optimizer: optim.Optimizer) -> None:
    for again in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert again.describe == optimizer.describe
        params = params_of(np.float64)
        found, expected = (o.update(params, o.init(params), params) for o in (again, optimizer))
        for one, other in zip(trees.leaves(found), trees.leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)


def test_optimisers_with_a_function_are_copied_and_pickled_with_it() -> None:
    own = optim.SGD(lambda count: 0.5)
    params = params_of(np.float64)
    again = copy.deepcopy(own)
    assert again.update(params, again.init(params), params)[0]["c"] == -0.5
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(own)
    schedule = pickle.loads(pickle.dumps(optim.warmup(2, after=optim.cosine(0.1, 10))))
    assert float(schedule(0)) == pytest.approx(float(optim.warmup(2, after=optim.cosine(0.1, 10))(0)))


def test_no_optimiser_trains_bfloat16() -> None:
    with pytest.raises(DTypeError, match="must be float32 or float64, as most updates vanish in bfloat16"):
        optim.LBFGS().init(nn.Linear(2, 2).astype("bfloat16").named_parameters())
