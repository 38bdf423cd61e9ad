"""Trees of arrays: taken apart and put together, described, named, mapped."""

from __future__ import annotations

from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.core.errors import ConfigError
from chainrule.core.trees import (
    State,
    TreeDef,
    flatten,
    leaves,
    named_leaves,
    places,
    replace_leaves,
    tree_map,
    unflatten,
)

Pair = namedtuple("Pair", ["left", "right"])


class Layer:
    """A node of our own: two children and something static."""

    def __init__(self, weight, bias, kind):
        self.weight, self.bias, self.kind = weight, bias, kind

    def tree_flatten(self):
        return ("weight", "bias"), (self.weight, self.bias), self.kind

    @classmethod
    def tree_unflatten(cls, static, names, children):
        return cls(*children, static)

    def __eq__(self, other):
        return vars(self) == vars(other)

    __hash__ = None


trees = st.recursive(
    st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(Layer, inner, inner, st.sampled_from(["a", "b"]))
    ),
    max_leaves=12,
)


@given(trees)
def test_a_tree_is_put_together_again(tree):
    found, definition = flatten(tree)
    assert unflatten(definition, found) == tree
    assert definition.leaf_count == len(found) == len(places(definition))
    again = flatten(unflatten(definition, found))[1]
    assert again == definition
    assert hash(again) == hash(definition)


@given(trees)
def test_mapping_keeps_the_structure(tree):
    doubled = tree_map(lambda x: 2 * x, tree)
    assert leaves(doubled) == [2 * x for x in leaves(tree)]
    assert flatten(doubled)[1] == flatten(tree)[1]
    assert tree_map(lambda x, y: y - x, tree, doubled) == tree


TREE = {"layers": [Layer(1, 2, "a"), Layer(3, State(4), "b")], "pair": Pair(5, None), "": 6}


def test_paths():
    assert list(named_leaves(TREE)) == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "pair.left",
        "",
    ]
    assert named_leaves(7) == {"": 7}
    assert [place.is_state for place in places(flatten(TREE)[1])] == [False, False, False, True, False, False]


def test_leaves_are_replaced_by_path():
    changed = replace_leaves(TREE, {"layers.1.bias": 40, "pair.left": 50})
    assert changed["layers"][1].bias.value == 40
    assert changed["pair"] == Pair(50, None)
    assert leaves(TREE) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ConfigError, match=r"no leaf named .layers\.2\.bias."):
        replace_leaves(TREE, {"layers.2.bias": 0})


def test_definitions_differ_where_anything_static_differs():
    kinds = [
        flatten(tree)[1] for tree in ([1], (1,), {"a": 1}, {"b": 1}, Pair(1, 2), Layer(1, 2, "a"), Layer(1, 2, "b"), 1)
    ]
    assert len(set(kinds)) == len(kinds)
    assert isinstance(kinds[0], TreeDef)


def test_trees_that_do_not_fit():
    with pytest.raises(ConfigError, match="tree 2 does not have the structure"):
        tree_map(lambda x, y: x, [1, 2], [1])
    with pytest.raises(ConfigError, match="tree 2 does not have the structure"):
        tree_map(lambda x, y: x, {"a": 1}, {"b": 1})
    definition = flatten([1, 2])[1]
    with pytest.raises(ConfigError, match="fewer leaves"):
        unflatten(definition, [1])
    with pytest.raises(ConfigError, match="more leaves"):
        unflatten(definition, [1, 2, 3])


def test_state_shows_what_it_holds():
    assert repr(State(3)) == "State(3)"
    assert leaves(State([1, 2])) == [1, 2]
