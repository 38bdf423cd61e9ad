"""Rule sets are values: extended, scoped, and asked by node."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ConfigError, GraphError, RuleError
from chainrule.grad import STANDARD, Backward, RuleSet, backprop
from chainrule.grad.standard import single
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.trace import scope


def doubled(b, node, g):
    return (b.add(g, g),)


def two_layers(x):
    with scope("first"):
        x = cr.tanh(x)
    with scope("second"):
        x = cr.tanh(x)
    return x.sum()


X = np.array([0.3, -0.7])
H = np.tanh(X)
LOCAL = (1 - H**2, 1 - np.tanh(H) ** 2)


@pytest.mark.parametrize(
    ("scope_pattern", "expected"),
    [("*", 4 * np.ones(2)), ("first", 2 * LOCAL[1]), ("second", 2 * LOCAL[0]), ("s*", 2 * LOCAL[0])],
)
def test_a_rule_applies_where_its_scope_matches(scope_pattern, expected):
    rules = STANDARD.extend("doubled", {"tanh": single(doubled)}, scope_pattern)
    np.testing.assert_allclose(cr.grad(two_layers, rules=rules)(X), expected, rtol=1e-14)


def test_the_last_matching_rule_wins_and_the_first_set_is_unchanged():
    once = STANDARD.extend("none", {"tanh": single(lambda b, node, g: (None,))})
    twice = once.extend("some", {"tanh": single(doubled)}, "*")
    np.testing.assert_array_equal(cr.grad(two_layers, rules=once)(X), [0, 0])
    np.testing.assert_array_equal(cr.grad(two_layers, rules=twice)(X), [4, 4])
    np.testing.assert_allclose(cr.grad(two_layers)(X), LOCAL[0] * LOCAL[1], rtol=1e-14)
    assert STANDARD.overrides == ()
    assert (once.name, twice.name) == ("none", "some")


def test_rules_reach_into_the_bodies_of_loops():
    def looped(x):
        with scope("cell"):
            return cr.scan(lambda c, _: (cr.tanh(c), None), x, length=3)[0].sum()

    rules = STANDARD.extend("doubled", {"tanh": single(doubled)}, "cell")
    np.testing.assert_allclose(cr.grad(looped, rules=rules)(X.astype(np.float64)), [8, 8])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("frist", "rule set 'other': no layer matches the scope 'frist'; did you mean 'first'?"),
        ("secnd*", "rule set 'other': no layer matches the scope 'secnd*'; did you mean 'second'?"),
        ("9*", "rule set 'other': no layer matches the scope '9*'; there are first, second"),
    ],
)
def test_a_scope_that_no_layer_matches_is_refused(pattern, message):
    rules = STANDARD.extend("other", {"tanh": single(doubled)}, pattern)
    for derivative in (cr.grad, cr.value_and_grad):
        with pytest.raises(ConfigError) as error:
            derivative(two_layers, rules=rules)(X)
        assert str(error.value) == message


def test_a_scope_in_which_nothing_has_the_rule_is_refused():
    rules = STANDARD.extend("other", {"exp": single(doubled), "sin": single(doubled)}, "f*")
    with pytest.raises(ConfigError, match=r"scope 'f\*' computes no exp or sin, .* nothing; it matches first$"):
        cr.grad(two_layers, rules=rules)(X)
    # One of them is enough, and a rule for everything need not be used at all.
    found = STANDARD.extend("other", {"exp": single(doubled), "tanh": single(doubled)}, "f*")
    np.testing.assert_allclose(cr.grad(two_layers, rules=found)(X), 2 * LOCAL[1], rtol=1e-14)
    cr.grad(two_layers, rules=STANDARD.extend("other", {"exp": single(doubled)}))(X)


def test_scopes_of_a_network_may_be_missing_in_a_part_of_it():
    """A vector-Jacobian product may be of one layer, and a set may say that it is for a part."""
    rules = STANDARD.extend("other", {"tanh": single(doubled)}, "third")
    found = cr.vjp(two_layers, X, cotangents=np.ones(()), rules=rules)[1][0]
    np.testing.assert_allclose(found, LOCAL[0] * LOCAL[1], rtol=1e-14)
    np.testing.assert_array_equal(cr.grad(two_layers, rules=replace(rules, for_part=True))(X), found)


def test_extending_by_an_unknown_primitive_is_refused():
    with pytest.raises(RuleError, match="no primitive 'tan'; did you mean 'tanh'"):
        STANDARD.extend("wrong", {"tan": single(doubled)})


def test_a_missing_rule_names_the_set_the_primitive_and_the_layer():
    with pytest.raises(RuleError, match=r"'empty' has no rule for primitive reduce_sum.*'layer'"):

        def named(x):
            with scope("layer"):
                return x.sum()

        cr.grad(named, rules=RuleSet("empty", {}))(X)


def test_a_cotangent_of_another_type_is_refused():
    b = Builder()
    x = b.input(ArrayType((2,), "float32"))
    wrong = b.input(ArrayType((3,), "float32"))
    with pytest.raises(GraphError, match=r"f32\[3\] was given to a value of type f32\[2\]"):
        Backward(b, STANDARD).add(x, wrong)


def test_what_no_path_reaches_has_no_cotangent():
    b = Builder()
    x, y = b.input(ArrayType((), "float32")), b.input(ArrayType((), "float32"))
    z = b.exp(x)
    found = backprop(b, tuple(b.nodes), {z: b.constant(1, "float32")}, [x, y], STANDARD)
    assert found[0] is not None
    assert found[1] is None


def test_every_node_of_the_backward_pass_knows_its_layer_and_phase():
    graph = cr.trace(cr.grad(two_layers), X)
    back = [node for node in graph.nodes if node.origin.phase == "backward"]
    assert {"first", "second"} <= {node.origin.path for node in back}
    assert {node.origin.phase for node in graph.nodes} == {"forward", "backward"}
    assert {node.origin.file for node in graph.nodes if node.origin.path} == {"test_rulesets.py"}
