"""Several models that learn from each other in turns: adversaries, teacher and student, actor and critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chainrule.core import trees
from chainrule.core.errors import ConfigError
from chainrule.core.trees import Tree
from chainrule.grad import STANDARD, RuleSet
from chainrule.ops import random
from chainrule.optim import Optimizer, apply_updates, check_optimizer, current_learning_rate
from chainrule.trace import phase, using_key
from chainrule.trace.context import current
from chainrule.train.batches import Examples, by_batches, inputs
from chainrule.train.history import History
from chainrule.train.step import add_squares, predict, trainable
from chainrule.train.stepping import StepTrainer
from chainrule.transforms import Compiled, compile, value_and_grad


@dataclass(frozen=True)
class Turn:
    """One model's update in a step: ``optimizer`` lowers ``loss(models, x, y, weights)`` by changing ``models[model]`` alone.

    ``models`` is a dict of all models, as the turns before have left them; the loss calls them with ``training=True`` where they
    should learn statistics or drop units, and draws random numbers as it likes. ``repeats`` updates follow each other, each
    with random numbers of its own.
    """

    model: str
    loss: Callable[[Mapping[str, Any], Any, Any, Any], Any]
    optimizer: Optimizer
    repeats: int = 1
    name: str = ""

    @property
    def label(self) -> str:
        """What the reported loss is called: ``name``, or that of the model."""
        return self.name or self.model


class AlternatingTrainer(StepTrainer):
    """Trains several models by turns; every step takes all of them on one batch, as one compiled program.

        turns = cr.adversarial_turns(100, optim.Adam(2e-4, (0.5, 0.999)), optim.Adam(2e-4, (0.5, 0.999)))
        trainer = cr.AlternatingTrainer({"generator": g, "discriminator": d}, turns, seed=0)
        trainer.fit(images, epochs=20, batch_size=64)

    Data are an array (or tree) x, ``(x, y)`` or ``(x, y, weights)``. Histories have the loss of each turn as ``<label>_loss``, their
    sum as ``loss``, and gradient norms by layer. Callbacks, checkpoints, Ctrl-C and the handling of losses that are not finite
    are those of :class:`Trainer`. Raises :class:`ConfigError` for turns that name no model, or the same label twice.
    """

    def __init__(
        self,
        models: Mapping[str, Tree],
        turns: Sequence[Turn],
        *,
        seed: int = 0,
        engine: str = "auto",
        rules: RuleSet = STANDARD,
        memory_limit: float | None = None,
    ) -> None:
        self.turns = tuple(turns)
        _check(models, self.turns)
        own = {turn.label: _of_model(trainable(dict(models)), turn.model) for turn in self.turns}
        states = {turn.label: turn.optimizer.init(own[turn.label]) for turn in self.turns}
        super().__init__(
            dict(models),
            states,
            make_alternating_step(self.turns, rules),
            seed=seed,
            engine=engine,
            memory_limit=memory_limit,
        )
        self._predict: Compiled[..., Any] = compile(predict, engine=engine, batch=("x",))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first turn's next update."""
        first = self.turns[0]
        return current_learning_rate(first.optimizer, self._state["optimizer"][first.label])

    def fit(self, data: Any, **arguments: Any) -> History:
        """Train as :meth:`Trainer.fit` does, with the same arguments."""
        return super().fit(data if isinstance(data, tuple) else (data, None), **arguments)

    def resume(self, data: Any, **arguments: Any) -> History:
        """Go on from the newest checkpoint, as :meth:`Trainer.resume` does."""
        return super().resume(data if isinstance(data, tuple) else (data, None), **arguments)

    def check_examples(self, given: Examples, what: str) -> None:
        """Nothing can be said of examples without knowing what the turns do with them."""

    def evaluate_examples(self, given: Examples) -> dict[str, float]:
        raise _no_validation_loss()

    def nonfinite_place(self, given: Examples) -> str:
        raise _no_validation_loss()

    def predict(self, model: str, x: Tree) -> Tree:
        """The outputs of one of the models in inference mode."""
        if model not in self._state["model"]:
            raise ConfigError(f"there is no model {model!r}; there are {', '.join(self._state['model'])}")
        return by_batches(lambda rows: self._predict(self._state["model"][model], rows), inputs(x, self.dtype))


def _no_validation_loss() -> ConfigError:
    return ConfigError(
        "an AlternatingTrainer has no validation loss, because its losses pull against each other; judge its samples in a "
        "callback, such as ModeCollapse or SampleSheets"
    )


def make_alternating_step(turns: Sequence[Turn], rules: RuleSet) -> Callable[[Tree, Any, Tree, Tree, Any], Any]:
    """``step(state, key, x, y, weights) -> (new state, report)`` in which each turn sees what the ones before it have changed."""
    in_turn = replace(rules, for_part=True)  # a scope may be of a model that only another turn runs

    def step(state: Tree, key: Any, x: Tree, y: Tree, weights: Any) -> Any:
        models, optimizers = state["model"], dict(state["optimizer"])
        context = current()
        assert context is not None, "a step is recorded as a whole"
        start = len(context.nodes)
        key = random.fold_in(key, state["step"])
        losses: dict[str, Any] = {}
        squares: dict[str, Any] = {}
        updates_so_far = 0
        for turn in turns:
            for _ in range(turn.repeats):
                with using_key(random.fold_in(key, updates_so_far)):
                    # Gradients for the other models are never asked for, so they are not computed either.
                    (value, models), gradients = value_and_grad(turn.loss, state=True, rules=in_turn)(
                        models, x, y, weights
                    )
                updates_so_far += 1
                slopes = _of_model(trainable(gradients), turn.model)
                parameters = _of_model(trainable(models), turn.model)
                with phase("update"):
                    changes, optimizers[turn.label] = turn.optimizer.update(slopes, optimizers[turn.label], parameters)
                    models = trees.replace_leaves(models, apply_updates(parameters, changes))
            losses[turn.label] = value
            with phase("update"):
                add_squares(squares, slopes)
        rules.check_scopes(context.nodes[start:])
        report = {
            "loss": sum(losses.values()),
            "metrics": {f"{label}_loss": value for label, value in losses.items()},
            "squares": squares,
        }
        with phase("update"):
            number = state["step"] + 1
        return {"model": models, "optimizer": optimizers, "step": number}, report

    return step


def _of_model(by_path: Mapping[str, Any], model: str) -> dict[str, Any]:
    return {path: array for path, array in by_path.items() if path.startswith(f"{model}.")}


def _check(models: Mapping[str, Tree], turns: Sequence[Turn]) -> None:
    if not turns:
        raise ConfigError("an AlternatingTrainer needs at least one turn")
    labels = [turn.label for turn in turns]
    for turn in turns:
        if turn.model not in models:
            raise ConfigError(f"a turn is for the model {turn.model!r}, but the models are {', '.join(models)}")
        check_optimizer(turn.optimizer, f"the optimizer of the turn {turn.label!r}")
        if turn.repeats < 1:
            raise ConfigError(f"repeats of a turn is a number of at least 1, not {turn.repeats!r}")
        if labels.count(turn.label) > 1:
            raise ConfigError(f"two turns are called {turn.label!r}; give one of them another name=")
