"""The Trainer: one model, one loss, one optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.errors import ConfigError, DataError
from chainrule.core.trees import Tree
from chainrule.grad import STANDARD, RuleSet
from chainrule.optim import Optimizer, check_optimizer, current_learning_rate
from chainrule.train.batches import EVALUATION_BATCH, Examples, by_batches, examples, inputs, slices
from chainrule.train.diagnosis import first_nonfinite_place
from chainrule.train.step import Loss, check_model, make_evaluation, make_step, predict, trainable
from chainrule.train.stepping import StepTrainer
from chainrule.transforms import Compiled, compile

_CHECKED_AT_ONCE = 2**22


class Trainer(StepTrainer):
    """Trains a model: ``Trainer(model, loss=..., optimizer=...).fit((x, y))``.

    ``loss(outputs, targets, weights)`` and the ``metrics`` of the same form give means over the examples of a batch; ``weights`` is
    None or one weight per example. ``seed`` governs shuffling and dropout. ``rules`` is the rule set of the backward pass.
    ``memory_limit`` in bytes makes the step recompute forward values instead of keeping them, as :func:`chainrule.compile` says.
    """

    def __init__(
        self,
        model: Tree,
        *,
        loss: Loss,
        optimizer: Optimizer,
        metrics: Mapping[str, Loss] | None = None,
        seed: int = 0,
        engine: str = "auto",
        rules: RuleSet = STANDARD,
        memory_limit: float | None = None,
    ) -> None:
        if not callable(loss):
            raise ConfigError(f"the loss of a Trainer is a function such as nn.losses.cross_entropy, not {loss!r}")
        check_optimizer(optimizer, "the optimizer of a Trainer")
        check_model(model)
        if metrics is not None and not (isinstance(metrics, Mapping) and all(map(callable, metrics.values()))):
            raise ConfigError(
                f"the metrics of a Trainer are functions by name, such as {{'mae': nn.losses.absolute_error}}, not {metrics!r}"
            )
        self.loss = loss
        self.optimizer = optimizer
        self.metrics = dict(metrics or {})
        step = make_step(loss, optimizer, self.metrics, rules)
        super().__init__(
            model, optimizer.init(trainable(model)), step, seed=seed, engine=engine, memory_limit=memory_limit
        )
        batched = ("x", "y", "weights")
        self._evaluate: Compiled[..., Any] = compile(make_evaluation(loss, self.metrics), engine=engine, batch=batched)
        self._predict: Compiled[..., Any] = compile(predict, engine=engine, batch=("x",))

    @property
    def learning_rate(self) -> float:
        return current_learning_rate(self.optimizer, self._state["optimizer"])

    def compiled(self) -> dict[str, Compiled[..., Any]]:
        return {**super().compiled(), "evaluate": self._evaluate}

    def choose_engines(self, first: Examples, steps: int, validation: Examples | None, evaluations: int) -> str:
        why = super().choose_engines(first, steps, validation, evaluations)
        if validation is not None:
            x, y, weights = validation.take(slice(0, EVALUATION_BATCH))
            calls = evaluations * -(-validation.count // EVALUATION_BATCH)
            self._evaluate.choose((self._state["model"], x, y, weights), calls)
        return why

    def check_examples(self, given: Examples, what: str) -> None:
        """Call the loss on every target, outside tracing, where it can name the row of a target that makes no sense.

        The outputs are those of the first example, repeated. Raises what the loss raises, such as :class:`DataError`.
        """
        first, _, _ = given.take(slice(0, 1))
        outputs = self.predict(first)
        size = sum(leaf.size for leaf in trees.leaves(outputs))
        rows = max(1, _CHECKED_AT_ONCE // max(1, size))
        for start in range(0, given.count, rows):
            _, y, weights = given.take(slice(start, start + rows))
            count = len(trees.leaves(y)[0])
            repeated = trees.tree_map(lambda leaf, count=count: np.repeat(leaf, count, axis=0), outputs)
            try:
                self.loss(repeated, y, weights)
            except DataError as error:
                counted = f" (counted from row {start})" if start else ""
                raise DataError(f"{what}: {error}{counted}") from None

    def predict(self, x: Tree, batch_size: int = EVALUATION_BATCH) -> Tree:
        """The model's outputs in inference mode."""
        return by_batches(lambda rows: self._predict(self._state["model"], rows), inputs(x, self.dtype), batch_size)

    def evaluate(self, data: Any, batch_size: int = EVALUATION_BATCH) -> dict[str, float]:
        """The loss and the metrics in inference mode, as weighted means over the examples.

        Raises what the loss says of a target that makes no sense, such as :class:`DataError` for a label outside the classes.
        """
        given = examples(data, self.dtype, "the evaluation data")
        result = self.evaluate_examples(given, batch_size)
        if not np.isfinite(result.get("loss", 0.0)):
            self.check_examples(given, "the evaluation data")
        return result

    def evaluate_examples(self, given: Examples, batch_size: int = EVALUATION_BATCH) -> dict[str, float]:
        totals: dict[str, float] = {}
        weight = 0.0
        for rows in slices(given.count, batch_size):
            x, y, weights = given.take(rows)
            share = float(len(trees.leaves(x)[0]) if weights is None else weights.sum(dtype=np.float64))
            if share > 0:
                for name, value in self._evaluate(self._state["model"], x, y, weights).items():
                    totals[name] = totals.get(name, 0.0) + share * float(value)
                weight += share
        return {name: total / weight for name, total in totals.items()}

    def nonfinite_place(self, given: Examples) -> str:
        for rows in slices(given.count, EVALUATION_BATCH):
            arguments = (self._state["model"], *given.take(rows))
            if not np.isfinite(self._evaluate(*arguments)["loss"]):
                return first_nonfinite_place(self._evaluate, arguments)
        raise AssertionError("the loss of these examples is finite")
