"""Feedback alignment: another rule set, chosen per layer, that changes what it should and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import chainrule as cr
from chainrule.trace import scope

RNG = np.random.default_rng(0)
PARAMS = {"first": RNG.normal(size=(4, 5)), "second": RNG.normal(size=(5, 6)), "third": RNG.normal(size=(6, 2))}
X, Y = RNG.normal(size=(7, 4)), RNG.normal(size=(7, 2))


def network(params, x):
    for name in ("first", "second"):
        with scope(name):
            x = cr.tanh(x @ params[name])
    with scope("third"):
        return x @ params["third"]


def loss(params, x=X):
    return 0.5 * cr.square(network(params, x) - Y).sum()


def by_hand(feedback):
    """The formula of Lillicrap et al.: the error goes back through B in place of the transposed weights."""
    h1 = np.tanh(X @ PARAMS["first"])
    h2 = np.tanh(h1 @ PARAMS["second"])
    error = h2 @ PARAMS["third"] - Y
    delta2 = (error @ feedback.get("third", PARAMS["third"]).T) * (1 - h2**2)
    delta1 = (delta2 @ feedback.get("second", PARAMS["second"]).T) * (1 - h1**2)
    return {"first": X.T @ delta1, "second": h1.T @ delta2, "third": h2.T @ error}


def feedback_of(rules, name):
    """The matrix B that a rule set uses in a layer: the Jacobian of the layer's own backward pass."""
    weight = PARAMS[name]

    def layer(x):
        with scope(name):
            return x @ weight

    rows = [
        cr.vjp(layer, np.zeros((1, len(weight))), cotangents=e[None], rules=rules)[1][0][0]
        for e in np.eye(weight.shape[1])
    ]
    return np.stack(rows, axis=1)


def same(found, expected):
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, atol=1e-14)


def test_the_chain_rule_itself():
    same(cr.grad(loss)(PARAMS), by_hand({}))


@pytest.mark.parametrize("layers", [("third",), ("second",), ("second", "third")])
def test_only_the_chosen_layers_send_the_error_back_at_random(layers):
    rules = cr.STANDARD
    for name in layers:
        rules = cr.feedback_alignment(name, seed=3, rules=rules)
    feedback = {name: feedback_of(rules, name) for name in layers}
    for name, matrix in feedback.items():
        assert np.abs(matrix - PARAMS[name]).max() > 0.1
    same(cr.grad(loss, rules=rules)(PARAMS), by_hand(feedback))


def test_everywhere_by_default():
    rules = cr.feedback_alignment(seed=1)
    same(cr.grad(loss, rules=rules)(PARAMS), by_hand({name: feedback_of(rules, name) for name in PARAMS}))


def test_the_loss_and_the_last_layer_are_as_ever():
    value, gradients = cr.value_and_grad(loss, rules=cr.feedback_alignment("*", seed=0))(PARAMS)
    assert value == loss(PARAMS)
    np.testing.assert_array_equal(gradients["third"], cr.grad(loss)(PARAMS)["third"])


def test_feedback_depends_on_seed_and_layer_alone():
    matrices = {seed: feedback_of(cr.feedback_alignment("*", seed=seed), "second") for seed in (0, 1)}
    assert (matrices[0] != matrices[1]).all()
    np.testing.assert_array_equal(matrices[0], feedback_of(cr.feedback_alignment("second", seed=0), "second"))
    bound = np.sqrt(3 / 5)
    assert np.abs(matrices[0]).max() <= bound
    assert np.abs(matrices[0]).max() > 0.7 * bound


def test_many_seeds_draw_in_silence():
    for seed in range(50):
        feedback_of(cr.feedback_alignment("*", seed=seed), "third")


def test_a_network_learns_under_feedback_alignment_and_its_weights_come_to_agree():
    """The angle between the forward weights and the feedback shrinks: the phenomenon that the rule is named after."""
    rng = np.random.default_rng(1)
    rules = cr.feedback_alignment("second", seed=0)
    feedback = feedback_of(rules, "second")
    x, teacher = rng.normal(size=(200, 4)), rng.normal(size=(4, 6))
    params = {"first": rng.normal(size=(4, 5)) * 0.3, "second": rng.normal(size=(5, 6)) * 0.3}

    def objective(params, x, y):
        with scope("first"):
            h = x @ params["first"]
        with scope("second"):
            return 0.5 * cr.square(h @ params["second"] - y).sum(1).mean()

    def angle(w):
        return np.degrees(np.arccos((w * feedback).sum() / np.linalg.norm(w) / np.linalg.norm(feedback)))

    step = cr.compile(lambda p, x, y: cr.value_and_grad(objective, rules=rules)(p, x, y))
    first, _ = step(params, x, x @ teacher)
    before = angle(params["second"])
    for _ in range(300):
        value, gradients = step(params, x, x @ teacher)
        params = {name: params[name] - 0.05 * gradients[name] for name in params}
    assert float(value) < 0.1 * float(first)
    assert angle(params["second"]) < before - 10
