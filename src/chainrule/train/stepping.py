"""Training around any compiled step: the state, stretches of steps, and the way back from a step that failed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import nn
from chainrule.core import trees
from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, NonFiniteError
from chainrule.core.trees import Tree
from chainrule.core.weights import check_same_architecture
from chainrule.engines.profile import Profile
from chainrule.trace.seeds import fold_in, key_from_seed
from chainrule.train.batches import Examples, examples
from chainrule.train.callbacks import Callback
from chainrule.train.checkpoints import CheckpointFolder, load_newest
from chainrule.train.diagnosis import first_nonfinite_place
from chainrule.train.history import History
from chainrule.train.journal import Journal, Stretch
from chainrule.train.loop import BatchSize, Loop
from chainrule.train.progress import Reports
from chainrule.transforms import Compiled, compile

NDArray = np.ndarray[Any, Any]

# Streams of the trainer's key: the order of the examples, and the keys of the steps (dropout).
_SHUFFLING, _STEPS = 1, 2


class StepTrainer(ABC):
    """What every trainer is: a state, and a step ``(state, key, x, y, weights) -> (state, report)`` that changes it.

    The state is ``{"model", "optimizer", "step"}``; the report has the ``loss``, the ``metrics`` by name and the ``squares``, the
    squared norm of the gradient by layer.
    """

    def __init__(
        self,
        model: Tree,
        optimizer_state: Tree,
        step: Callable[..., Any],
        *,
        seed: int,
        engine: str,
        memory_limit: float | None = None,
    ) -> None:
        self.history = History()
        root = key_from_seed(seed)
        self.order_key, self._step_key = fold_in(root, _SHUFFLING), fold_in(root, _STEPS)
        model = trees.tree_map(np.array, model)
        self.dtype = _widest_float(model)
        self._state: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer_state,
            "step": np.asarray(0, np.int64),
        }
        self._step: Compiled[..., Any] = compile(
            step, donate=("state",), engine=engine, batch=("x", "y", "weights"), memory_limit=memory_limit
        )
        self.stopping: str | None = None
        self._journal = Journal()

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """The learning rate of the next step."""

    @abstractmethod
    def check_examples(self, given: Examples, what: str) -> None:
        """Raise :class:`DataError` for examples that make no sense, before the first step; ``what`` is what they are called."""

    @abstractmethod
    def evaluate_examples(self, given: Examples) -> dict[str, float]:
        """The loss and the metrics in inference mode, as weighted means over the examples."""

    @abstractmethod
    def nonfinite_place(self, given: Examples) -> str:
        """The layer and primitive of the first NaN or infinity that reaches the loss of these examples in inference mode."""

    # What training has come to.
    @property
    def model(self) -> Tree:
        """The model with its present weights (a copy)."""
        return trees.tree_map(np.array, self._state["model"])

    @property
    def optimizer_state(self) -> Tree:
        """The state of the optimiser (a copy); it can be set."""
        return trees.tree_map(np.array, self._state["optimizer"])

    @optimizer_state.setter
    def optimizer_state(self, state: Tree) -> None:
        self._replace(optimizer=trees.tree_map(np.array, state))

    def change_optimizer_state(self, change: Callable[[Tree], Tree]) -> None:
        """Set the state of the optimiser to ``change(state)``; nothing is copied where it returns what it was given."""
        state = self._state["optimizer"]
        changed = change(state)
        if changed is not state:
            self._replace(optimizer=changed)

    @property
    def step(self) -> Compiled[..., Any]:
        """The compiled training step; its ``graph`` and ``backward_graph`` can be looked at once it has run."""
        return self._step

    @property
    def steps(self) -> int:
        """The number of updates so far."""
        return int(self._state["step"])

    def model_arrays(self) -> dict[str, NDArray]:
        """Every array of the model by path, state included (copies)."""
        return {path: np.array(leaf) for path, leaf in trees.named_leaves(self._state["model"]).items()}

    def load_model_arrays(self, arrays: Mapping[str, NDArray]) -> None:
        """Replace the model's arrays; raises :class:`WeightsError` naming the first that does not fit."""
        self._replace(model=_refilled(self._state["model"], arrays, "the set of weights"))

    def state_arrays(self) -> dict[str, Mapping[str, NDArray]]:
        """Everything the next step depends on, in named groups: what a checkpoint holds (copies)."""
        state = trees.tree_map(np.array, self._state)
        return {
            "model": trees.named_leaves(state["model"]),
            "optimizer": trees.named_leaves(state["optimizer"]),
            "trainer": {"step": state["step"]},
        }

    def load_state_arrays(self, groups: Mapping[str, Mapping[str, NDArray]]) -> None:
        """Take back what :meth:`state_arrays` gave; raises :class:`WeightsError` naming the first array that does not fit."""
        step = {"step": self._state["step"]}
        self._replace(
            model=_refilled(self._state["model"], groups.get("model", {}), "the checkpoint"),
            optimizer=_refilled(
                self._state["optimizer"], groups.get("optimizer", {}), "the optimiser state of the checkpoint"
            ),
            **_refilled(step, groups.get("trainer", {}), "the checkpoint"),
        )

    def _replace(self, **parts: Tree) -> None:
        """Put other parts into the state."""
        self._state = {**self._state, **parts}
        self._journal.forget()

    # Engines.
    @property
    def engine(self) -> str:
        """The name of the engine that runs the training step."""
        return self._step.engine.name

    def compiled(self) -> dict[str, Compiled[..., Any]]:
        """The compiled functions that a training depends on, by name."""
        return {"step": self._step}

    def choose_engines(self, first: Examples, steps: int, validation: Examples | None, evaluations: int) -> str:
        """Decide which engines run a training of so many steps on batches like ``first``; returns why that of the steps does.

        The rule is in ``transforms/engines.py``.
        """
        return self._step.choose((self._state, self._step_key, first.x, first.y, first.weights), steps)

    def use_engines(self, names: Mapping[str, str]) -> None:
        """Go on with the engines that a training began with.

        Raises :class:`ConfigError` where one cannot be used on this machine, or another was asked for: it would give other last
        bits.
        """
        for name, compiled in self.compiled().items():
            wanted = names.get(name, compiled.engine.name)
            if not compiled.is_open and wanted != compiled.engine.name:
                raise ConfigError(
                    f"this training began on the {wanted} engine and would not go on to the same bits on the "
                    f"{compiled.engine.name} engine; choose engine={wanted!r}"
                )
            compiled.use(wanted)

    def stop(self, reason: str) -> None:
        """End training after the current step; the reason goes into the history."""
        self.stopping = self.stopping or reason

    # Training.
    def fit(
        self,
        data: Any,
        *,
        validation_data: Any = None,
        epochs: int = 10,
        batch_size: BatchSize = 32,
        shuffle: bool = True,
        callbacks: Sequence[Callback] = (),
        stop_at_loss: float | None = None,
        stop_at_gradient_norm: float | None = None,
        checkpoints: Path | str | CheckpointFolder | None = None,
        checkpoint_seconds: float = 5.0,
    ) -> History:
        """Train for a number of epochs and return the history.

        ``data`` is ``(x, y)`` or ``(x, y, weights)``. ``batch_size`` is 1 for online learning, ``"full"`` for the whole set. Training
        ends early when an epoch's loss is at most ``stop_at_loss``, when its gradient norm is at most ``stop_at_gradient_norm``,
        when a callback says so, or at Ctrl-C (after the current step; a second one interrupts at once). With ``checkpoints`` a
        folder, everything needed to go on is saved after every epoch and every ``checkpoint_seconds``. Raises
        :class:`NonFiniteError` when loss or gradients stop being finite; the weights before that step are kept. A validation loss
        of NaN raises it after the epoch, unless one before was finite: then the epoch only counts as no better.
        """
        loop = Loop(
            self,
            data,
            validation_data=validation_data,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            callbacks=callbacks,
            stop_at_loss=stop_at_loss,
            stop_at_gradient_norm=stop_at_gradient_norm,
            checkpoints=checkpoints,
            checkpoint_seconds=checkpoint_seconds,
        )
        # The caller may have changed the examples of earlier steps, which could not be taken again.
        self._journal.forget()
        return loop.start()

    def resume(self, data: Any, *, checkpoints: Path | str | CheckpointFolder, **arguments: Any) -> History:
        """Go on from the newest checkpoint with the same data and arguments as ``fit``: the result has the same bits.

        Raises :class:`RunError` when there is no checkpoint, :class:`WeightsError` when it belongs to another model.
        """
        folder = CheckpointFolder.of(checkpoints)
        loop = Loop(self, data, checkpoints=folder, **arguments)
        return loop.train(loop.restore(load_newest(folder.path)))

    def partial_fit(self, x: Tree, y: Tree, weights: Any = None) -> float:
        """One update from these examples, for data that arrives bit by bit; returns the loss before the update."""
        given = examples((x, y, weights), self.dtype)
        self.check_streams(given.count, shuffled=False)
        reports = self.advance(Stretch.of_copies(given.x, given.y, given.weights, given.count))
        return float(reports.losses[0])

    def profile(self, x: Tree, y: Tree, weights: Any = None, repeats: int = 20) -> Profile:
        """Where the time of a training step on these examples goes; nothing is learned.

        Raises :class:`ConfigError` unless the trainer has ``engine="cpu"``.
        """
        given = examples((x, y, weights), self.dtype)
        return self._step.profile(self._state, self._step_key, given.x, given.y, given.weights, repeats=repeats)

    def check_streams(self, batch: int, shuffled: bool) -> None:
        """Raise :class:`ConfigError` where a layer carries states of sequences that such batches do not go on with."""
        model = self._state["model"]
        for part in model.values() if isinstance(model, dict) else (model,):
            if isinstance(part, nn.Module):
                nn.check_streams(part, batch, shuffled)

    def advance(self, stretch: Stretch) -> Reports:
        """Take steps in one go; where the loss or a gradient is not finite, the state is that before the first such step."""
        self._journal.note(self._state, stretch)
        try:
            state, told = self._run(self._state, stretch)
        except BaseException:
            self._go_back(0)
            raise
        self._state = state
        reports = Reports.of_steps(told, stretch.shares())
        failed = reports.first_nonfinite()
        if failed is not None:
            self._go_back(failed)
            x, y, weights = stretch.examples_of(failed)
            where = first_nonfinite_place(self._step, (self._state, self._step_key, x, y, weights))
            quantity = "loss" if not math.isfinite(reports.losses[failed]) else "gradient"
            raise NonFiniteError(
                f"the {quantity} is no longer finite at step {self.steps + 1}: the first non-finite value appeared in {where}; the "
                "weights before this step are kept; try a smaller learning rate, gradient clipping, or check the inputs"
            )
        return reports

    def _run(self, state: Tree, stretch: Stretch) -> Any:
        arguments = (state, self._step_key, stretch.x, stretch.y, stretch.weights)
        if stretch.steps == 1 and stretch.rows is None and len(trees.leaves(stretch.x)[0]) == stretch.batch:
            return self._step(*arguments)  # the same bits, in less time
        return self._step.repeat(arguments, carry="state", steps=stretch.steps, batch=stretch.batch, rows=stretch.rows)

    def _go_back(self, step: int) -> None:
        """To the state before a step of the latest stretch."""
        self._state = self._journal.state_before(step, lambda state, stretch: self._run(state, stretch)[0])
        self._journal.forget()


def _widest_float(model: Tree) -> np.dtype[Any]:
    floats = [leaf.dtype for leaf in trees.leaves(model) if is_float(leaf.dtype)]
    return max(floats, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float32))


def _refilled(tree: Tree, arrays: Mapping[str, NDArray], source: str) -> Tree:
    """A tree with its leaves taken from named arrays of the same shapes and types."""
    expected = {path: (leaf.shape, leaf.dtype) for path, leaf in trees.named_leaves(tree).items()}
    check_same_architecture(expected, arrays, source)
    return trees.replace_leaves(tree, arrays)
