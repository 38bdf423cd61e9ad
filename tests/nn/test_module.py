"""Modules: trees that cannot be changed, and names of everything inside."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core import trees
from chainrule.core.errors import ConfigError, DTypeError, ShapeError

NDArray = np.ndarray[Any, Any]


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(size, size)
        self.scale = np.ones(size, np.float32)

    def forward(self, x: Any) -> Any:
        return cr.tanh(self.linear(x)) * self.scale + x


class Encoder(nn.Module):
    """Children in an attribute, a list, a dict and a tuple of the same module's attributes."""

    def __init__(self) -> None:
        self.activation = cr.relu
        self.stem = nn.Linear(3, 4)
        self.blocks = [Block(4), Block(4)]
        self.heads = {"mean": nn.Linear(4, 1), "spread": nn.Linear(4, 1)}
        self.norm = nn.BatchNorm(4)
        self.steps = nn.State(np.zeros((), np.int64))
        self.table = np.arange(4)
        self.nothing = None

    def forward(self, x: Any) -> Any:
        x = self.activation(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return {name: head(x) for name, head in self.heads.items()}


X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


# --- as a tree --------------------------------------------------------------------------------------------------------


def test_leaves_have_the_paths_of_attributes_lists_and_dicts() -> None:
    paths = list(trees.named_leaves(Encoder()))
    assert paths == [
        *("stem.weight", "stem.bias"),
        *("blocks.0.linear.weight", "blocks.0.linear.bias", "blocks.0.scale"),
        *("blocks.1.linear.weight", "blocks.1.linear.bias", "blocks.1.scale"),
        *("heads.mean.weight", "heads.mean.bias", "heads.spread.weight", "heads.spread.bias"),
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
        *("steps", "table"),
    ]


def test_parameters_are_the_floats_outside_state() -> None:
    model = Encoder()
    assert set(model.state_leaves()) == {"norm.running_mean", "norm.running_var", "steps"}
    assert set(trees.named_leaves(model)) - set(model.named_parameters()) == {*model.state_leaves(), "table"}
    assert model.named_parameters()["blocks.1.scale"] is model.blocks[1].scale


def test_named_modules() -> None:
    modules = Encoder().named_modules()
    assert list(modules)[:4] == ["", "stem", "blocks.0", "blocks.0.linear"]
    assert type(modules["heads.spread"]) is nn.Linear
    assert type(modules[""]) is Encoder


def test_round_trip_keeps_everything() -> None:
    model = Encoder()
    leaves, definition = trees.flatten(model)
    again = trees.unflatten(definition, leaves)
    assert trees.flatten(again)[1] == definition
    assert hash(trees.flatten(again)[1]) == hash(definition)
    assert all(a is b for a, b in zip(trees.leaves(again), leaves, strict=True))
    assert again.activation is cr.relu
    assert again.nothing is None
    for name, value in model(X).items():
        np.testing.assert_array_equal(again(X)[name], value)


def test_leaves_may_be_replaced_by_anything_and_keep_their_place() -> None:
    model = Encoder()
    mask = trees.tree_map(lambda leaf: leaf.ndim > 1, model)
    assert mask.blocks[0].linear.weight is True
    assert list(trees.named_leaves(mask)) == list(trees.named_leaves(model))
    assert trees.flatten(mask)[1] == trees.flatten(model)[1]


def test_settings_tell_definitions_apart_also_where_only_their_types_differ() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: Any) -> None:
            self.factor = factor

    definitions = [trees.flatten(Scaled(factor))[1] for factor in (1, 1.0, True, 2)]
    assert len(set(definitions)) == 4
    assert trees.flatten(Scaled(2))[1] == definitions[3]


def test_gradients_are_modules_of_the_same_structure() -> None:
    model = Encoder()
    loss, gradients = cr.value_and_grad(lambda m, x: sum(cr.square(v).sum() for v in m(x).values()))(model, X)
    assert loss > 0
    assert isinstance(gradients, Encoder)
    assert trees.flatten(gradients)[1] == trees.flatten(model)[1]
    assert not gradients.table.any()
    assert all(np.any(leaf) for leaf in gradients.named_parameters().values())


def test_copies_and_pickles_compute_the_same() -> None:
    model = Encoder()
    for again in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(nn.Sequential(nn.Linear(3, 2))))):
        assert list(trees.named_leaves(again))
        with pytest.raises(ConfigError, match="immutable"):
            again.extra = 1
    np.testing.assert_array_equal(copy.deepcopy(model)(X)["mean"], model(X)["mean"])


def test_astype_converts_floats_alone() -> None:
    wide = Encoder().astype("float64")
    assert {leaf.dtype.name for leaf in wide.named_parameters().values()} == {"float64"}
    assert wide.norm.running_var.value.dtype == np.float64
    assert wide.table.dtype == np.int64
    with pytest.raises(DTypeError, match="are bfloat16, float32 or float64, not int32"):
        wide.astype("int32")


def test_trees_of_other_classes_are_children() -> None:
    @dataclass
    class Pair:
        one: Any

        def tree_flatten(self) -> Any:
            return ("one",), (self.one,), None

        @classmethod
        def tree_unflatten(cls, static: Any, names: Any, children: Any) -> Pair:
            return cls(*children)

    class Holder(nn.Module):
        def __init__(self) -> None:
            self.pair = Pair(np.zeros(2))

    assert list(Holder().named_parameters()) == ["pair.one"]


def test_a_module_called_twice_shares_its_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.linear(self.linear(x))

    model = Twice().astype("float64")
    assert cr.check_gradients(lambda m: cr.square(m(X.astype(np.float64))).sum(), model)
    graph = cr.trace(lambda m, x: m(x), model, X)
    assert [n.origin.path for n in graph.nodes if n.primitive.name == "contract"] == ["linear", "linear"]


# --- it is immutable --------------------------------------------------------------------------------------------------


def test_setting_and_deleting_an_attribute_says_what_to_write_instead() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(
        ConfigError, match=r"Linear is immutable, .*'weight'.* `linear = linear\.replace\(weight=\.\.\.\)`"
    ):
        layer.weight = np.zeros((2, 2))
    with pytest.raises(ConfigError, match=r"`linear = linear\.replace\(bias=None\)`"):
        del layer.bias
    with pytest.raises(ConfigError, match="immutable"):
        layer.unknown = 3
    with pytest.raises(ConfigError, match="immutable"):
        layer.__init__(3, 3)  # type: ignore[misc]


def test_setting_an_attribute_in_forward_points_to_state() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            self.count = nn.State(np.zeros(()))

        def forward(self, x: Any) -> Any:
            self.count = self.count.value + 1
            return x

    with pytest.raises(ConfigError, match=r"Counter is immutable, .*nn\.record_state"):
        Counter()(X)


def test_a_subclass_is_frozen_after_the_outermost_init() -> None:
    class Base(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = np.zeros(2)

    class Derived(Base):
        def __init__(self) -> None:
            super().__init__()
            self.second = np.ones(3)

    class Plain(Base):
        pass

    assert list(trees.named_leaves(Derived())) == ["first", "second"]
    assert list(trees.named_leaves(Plain())) == ["first"]
    for model in (Derived(), Plain()):
        with pytest.raises(ConfigError, match="immutable"):
            model.third = 1  # type: ignore[union-attr]


def test_a_dataclass_is_frozen_at_first_use() -> None:
    @dataclass(eq=False)
    class Affine(nn.Module):
        weight: Any
        power: int = 1

        def forward(self, x: Any) -> Any:
            return x * self.weight**self.power

    model = Affine(np.full(3, 2.0), power=2)
    np.testing.assert_allclose(model(X), X * 4)
    assert list(model.named_parameters()) == ["weight"]
    with pytest.raises(ConfigError, match="immutable"):
        model.power = 3


def test_replace_makes_a_changed_copy() -> None:
    layer = nn.Linear(2, 2)
    other = layer.replace(bias=np.ones(2, np.float32))
    assert not layer.bias.any()  # type: ignore[union-attr]
    np.testing.assert_allclose(other(np.zeros((1, 2))), 1)
    assert other.weight is layer.weight
    without = layer.replace(bias=None)
    assert list(without.named_parameters()) == ["weight"]
    np.testing.assert_allclose(without(np.eye(2, dtype=np.float32)), layer.weight)
    with pytest.raises(ConfigError, match="Linear has no attribute 'wieght'; did you mean 'weight'"):
        layer.replace(wieght=1)
    with pytest.raises(ConfigError, match="there are weight, bias"):
        layer.replace(zzz=1)


def test_parameters_are_replaced_by_path() -> None:
    layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm(3))
    weight = np.ones((2, 3), np.float32)
    changed = layers.replace_parameters({"layers.0.weight": weight})
    assert changed.named_parameters()["layers.0.weight"] is weight
    assert changed.named_parameters()["layers.0.bias"] is layers.named_parameters()["layers.0.bias"]
    assert list(changed.state_leaves()) == list(layers.state_leaves())
    with pytest.raises(ConfigError, match=r"Sequential has no parameter 'layers\.0\.wight'; did you mean"):
        layers.replace_parameters({"layers.0.wight": weight})
    with pytest.raises(ConfigError, match=r"has no parameter 'layers\.1\.running_mean'"):
        layers.replace_parameters({"layers.1.running_mean": np.ones(3, np.float32)})
    with pytest.raises(ShapeError, match=r"parameter 'layers\.0\.weight' has shape \(2, 3\), not \(3, 2\)"):
        layers.replace_parameters({"layers.0.weight": weight.T})


# --- names while it runs ----------------------------------------------------------------------------------------------


def paths_of(model: Any, primitive: str, *args: Any) -> list[str]:
    graph = cr.trace(lambda m, *a: m(*a), model, *args)
    return [node.origin.path for node in graph.nodes if node.primitive.name == primitive]


def test_nodes_carry_the_path_of_the_module_that_computes_them() -> None:
    model = Encoder()
    assert paths_of(model, "contract", X) == [
        "stem",
        "blocks.0.linear",
        "blocks.1.linear",
        "heads.mean",
        "heads.spread",
    ]
    assert paths_of(model, "tanh", X) == ["blocks.0", "blocks.1"]
    assert set(paths_of(nn.Sequential(nn.Linear(3, 3), Block(3)), "contract", X)) == {"layers.0", "layers.1.linear"}


def test_paths_of_a_backward_pass_are_those_of_the_forward_pass() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    graph = cr.trace(lambda m, x: cr.grad(lambda m, x: m(x).sum())(m, x), model, X)
    backward = [n.origin.path for n in graph.nodes if n.origin.phase == "backward" and n.primitive.name == "contract"]
    assert set(backward) == {"layers.0", "layers.2"}


def test_a_module_reached_past_its_owner_keeps_its_full_path() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x: Any) -> Any:
            return self.inner.layers[0](x)

    assert paths_of(Peeking(), "contract", X) == ["inner.layers.0"]


def test_a_module_of_nobody_is_named_by_its_class() -> None:
    outside = nn.Linear(3, 3)

    class Borrowing(nn.Module):
        def forward(self, x: Any) -> Any:
            return outside(x)

    assert paths_of(nn.Sequential(Borrowing()), "contract", X) == ["layers.0.Linear"]


def test_errors_name_the_innermost_layer_once() -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            self.weight = np.zeros((7, 2), np.float32)

        def forward(self, x: Any) -> Any:
            return x @ self.weight

    model = Holding(nn.Sequential(nn.Linear(3, 4), Bad()))
    with pytest.raises(ShapeError) as caught:
        cr.compile(lambda m, x: m(x), batch=("x",))(model, X)
    message = str(caught.value)
    assert message.startswith("layer 'net.layers.1' (Bad): matrices of shapes (B, 4) and (7, 2) cannot be multiplied")
    assert message.count("layer '") == 1
    assert any(frame.name == "forward" and "test_module" in str(frame.path) for frame in caught.traceback)


class Holding(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net(x)


def test_the_mode_is_inherited_set_for_everything_inside_and_false_at_the_top() -> None:
    class Mode(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 0 + int(nn.is_training())

    class Frozen(nn.Module):
        def __init__(self) -> None:
            self.inner = Mode()

        def forward(self, x: Any) -> Any:
            return self.inner(x, training=False)

    one = np.ones(1)
    assert nn.Sequential(Mode())(one) == 0
    assert nn.Sequential(Mode())(one, training=True) == 1
    assert Holding(Frozen())(one, training=True) == 0
    assert not nn.is_training()


def test_calls_in_threads_do_not_meet() -> None:
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(6)])
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(paths_of(model, "contract", X))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[f"layers.{i}" for i in range(6)]] * 4


def test_an_error_leaves_no_trace_of_the_call() -> None:
    with pytest.raises(ShapeError):
        nn.Sequential(nn.Linear(3, 3))(np.zeros((1, 2)))
    assert paths_of(nn.Linear(3, 3), "contract", X) == [""]


# --- showing ----------------------------------------------------------------------------------------------------------


def test_repr_shows_settings_and_types_and_indents_what_is_inside() -> None:
    assert repr(nn.Linear(2, 3)) == "Linear(weight=f32[2, 3], bias=f32[3])"
    assert repr(nn.Linear(2, 3, bias=False)) == "Linear(weight=f32[2, 3])"
    assert repr(nn.Dropout(0.25)) == "Dropout(rate=0.25)"
    assert repr(nn.Sequential(nn.Linear(2, 3), Block(3), cr.tanh)) == (
        "Sequential(\n"
        "  layers.0: Linear(weight=f32[2, 3], bias=f32[3])\n"
        "  layers.1: Block(\n"
        "    size=3, scale=f32[3],\n"
        "    linear: Linear(weight=f32[3, 3], bias=f32[3])\n"
        "  )\n"
        "  layers.2: Apply(function=tanh)\n"
        ")"
    )
    assert "running_mean=State(f64[2])" in repr(nn.BatchNorm(2).astype("float64"))


def test_repr_works_inside_a_traced_function_and_for_a_tree_of_other_leaves() -> None:
    seen: list[str] = []
    cr.trace(lambda m, x: (seen.append(repr(m)), m(x))[1], nn.Linear(3, 2), X)
    assert seen == ["Linear(weight=f32[3, 2], bias=f32[2])"]
    assert repr(trees.tree_map(lambda leaf: leaf.ndim, nn.Linear(3, 2))) == "Linear(weight=2, bias=1)"
