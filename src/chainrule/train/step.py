"""The training step as one function: forward, loss, backward, update and what is reported, compiled as one program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import FLOATS
from chainrule.core.errors import ConfigError
from chainrule.core.trees import Tree
from chainrule.grad import RuleSet
from chainrule.ir.contraction import Contraction, plain
from chainrule.ops import contract, random
from chainrule.optim import Optimizer, apply_updates
from chainrule.trace import phase, using_key
from chainrule.trace.array import Array
from chainrule.transforms import value_and_grad

Loss = Callable[..., Any]


def trainable(model: Tree) -> dict[str, Any]:
    """The parameters by path: floating-point leaves that are not state."""
    leaves, definition = trees.flatten(model)
    places = trees.places(definition)
    return {
        p.path: leaf for p, leaf in zip(places, leaves, strict=True) if not p.is_state and leaf.dtype.name in FLOATS
    }


def check_model(model: Tree) -> None:
    """Raise :class:`ConfigError` for what is no module, or no tree of modules and arrays."""
    for leaf in trees.leaves(model):
        if callable(leaf) or np.asarray(leaf).dtype.kind == "O":
            kind = "class" if isinstance(leaf, type) else "function"
            given = f"the {kind} {leaf.__name__}" if hasattr(leaf, "__name__") else repr(leaf)
            raise ConfigError(f"a model is a module such as nn.Linear(4, 2), not {given}")


def layer_of(path: str) -> str:
    """The module that a parameter belongs to: ``layers.2`` of ``layers.2.weight``."""
    return path.rpartition(".")[0] or path


def make_step(
    loss: Loss, optimizer: Optimizer, metrics: Mapping[str, Loss], rules: RuleSet
) -> Callable[[Tree, Any, Tree, Tree, Any], Any]:
    """``step(state, key, x, y, weights) -> (new state, report)`` with ``state = {"model", "optimizer", "step"}``."""

    def objective(model: Tree, x: Tree, y: Tree, weights: Any) -> Any:
        outputs = model(x, training=True)
        return loss(outputs, y, weights), outputs

    def step(state: Tree, key: Any, x: Tree, y: Tree, weights: Any) -> Any:
        with using_key(random.fold_in(key, state["step"])):
            (value, model, outputs), gradients = value_and_grad(objective, has_aux=True, state=True, rules=rules)(
                state["model"], x, y, weights
            )
        slopes = trainable(gradients)
        parameters = trainable(state["model"])
        with phase("update"):
            updates, optimizer_state = optimizer.update(slopes, state["optimizer"], parameters)
            model = trees.replace_leaves(model, apply_updates(parameters, updates))
            squares: dict[str, Any] = {}
            add_squares(squares, slopes)
            number = state["step"] + 1
        report = {
            "loss": value,
            "metrics": {name: metric(outputs, y, weights) for name, metric in metrics.items()},
            "squares": squares,
        }
        return {"model": model, "optimizer": optimizer_state, "step": number}, report

    return step


def add_squares(squares: dict[str, Any], slopes: Mapping[str, Any]) -> None:
    """Add the squares of gradients up by layer: what their norms are told from."""
    for path, slope in slopes.items():
        layer = layer_of(path)
        squares[layer] = squares[layer] + square_sum(slope) if layer in squares else square_sum(slope)


def square_sum(x: Array) -> Any:
    """``Σ x²`` as a contraction, which needs no array of squares."""
    axes = plain(*range(x.ndim))
    return contract(Contraction(tuple(x.shape), (), axes, axes, ()), x, x)


def make_evaluation(loss: Loss, metrics: Mapping[str, Loss]) -> Callable[[Tree, Tree, Tree, Any], Any]:
    """``evaluate(model, x, y, weights) -> {"loss": ..., metric: ...}`` in inference mode."""

    def evaluate(model: Tree, x: Tree, y: Tree, weights: Any) -> Any:
        outputs = model(x)
        values = {name: metric(outputs, y, weights) for name, metric in metrics.items()}
        return {"loss": loss(outputs, y, weights), **values}

    return evaluate


def predict(model: Tree, x: Tree) -> Tree:
    """The outputs in inference mode."""
    return model(x)
