"""From settings and data to definite numbers: the network, the optimiser and the loop. The choice of defaults is here.

The defaults come from five-fold cross-validation of scikit-learn's bundled tables, which ``make bench-tables`` repeats
(``bench/tables.md``): two hidden layers with SiLU, dropout and decoupled weight decay, a cosine schedule, and early
stopping on the validation loss.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule import nn, optim
from chainrule.core.errors import RunError
from chainrule.data.targets import Target
from chainrule.ops import random
from chainrule.optim import Optimizer
from chainrule.tabular.settings import Settings
from chainrule.train import EarlyStopping, Trainer

HIDDEN = (128, 128)
ACTIVATION = "SiLU"
DROPOUT = 0.2
LEARNING_RATE = 1e-3
# Weight decay per update is the learning rate times these, or less for more rows: the more there is to learn from, the less
# a network needs to be held back. Cross-entropy, which never ceases to reward larger weights, needs more of it.
DECAY_OF_CLASSES = 1.0
DECAY_OF_NUMBERS = 0.3
ROWS_OF_FULL_DECAY = 400
MOST_EPOCHS = 200
FEWEST_EPOCHS = 20
MOST_STEPS = 100_000
PATIENCE = 30
SMALLEST_BATCH = 8
LARGEST_BATCH = 128
BATCHES_AN_EPOCH = 16


@dataclass(frozen=True)
class Plan:
    """A network for ``width`` features and ``outputs`` outputs, and how it is trained. All of it is in ``run.json``."""

    width: int
    outputs: int
    hidden: tuple[int, ...]
    activation: str
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    stop_at_loss: float | None
    clip_norm: float | None
    class_weight: str | None
    seed: int
    engine: str

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, content: Any) -> Plan:
        """The inverse of :meth:`to_json`; raises RunError for anything else."""
        names = {entry.name for entry in dataclasses.fields(cls)}
        if not isinstance(content, dict) or content.keys() != names:
            raise RunError("the plan of the run lacks a setting or has one that this release does not know")
        return cls(**{**content, "hidden": tuple(content["hidden"])})

    def replace(self, **changes: Any) -> Plan:
        return dataclasses.replace(self, **changes)

    def steps(self, rows: int) -> int:
        """How many updates the whole of training has."""
        return self.epochs * math.ceil(rows / self.batch_size)

    def describe(self) -> str:
        """The network in a line: ``30 → 128 → 128 → 1, SiLU, dropout 0.2``."""
        sizes = " → ".join(map(str, (self.width, *self.hidden, self.outputs)))
        if not self.hidden:
            return f"{sizes}, linear"
        return f"{sizes}, {self.activation}" + (f", dropout {self.dropout:g}" if self.dropout else "")


def make_plan(settings: Settings, target: Target, *, width: int, rows: int) -> Plan:
    """Settings completed for ``rows`` training rows of ``width`` features.

    By default a batch is about a sixteenth of the rows, as a power of two from 8 to 128: few rows need many small
    updates, and many rows are learned from well enough in large batches, which are faster. There are 200 epochs at most,
    fewer (down to 20, and patience with them) where that would be more than 100 000 updates.
    """

    def chosen(given: Any, default: Any) -> Any:
        return default if given is None else given

    batch = settings.batch_size
    if batch is None:
        ideal = 2 ** round(math.log2(max(rows, 1) / BATCHES_AN_EPOCH)) if rows > BATCHES_AN_EPOCH else 1
        batch = max(SMALLEST_BATCH, min(LARGEST_BATCH, ideal))
    batch = rows if batch == "full" else min(batch, rows)
    epochs = settings.epochs
    if epochs is None:
        epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, MOST_STEPS // math.ceil(rows / batch)))
    rate = chosen(settings.learning_rate, LEARNING_RATE)
    decay = DECAY_OF_NUMBERS if target.is_regression else DECAY_OF_CLASSES
    # A faster learner is not held back more.
    decay *= min(1.0, ROWS_OF_FULL_DECAY / rows) * min(1.0, LEARNING_RATE / rate)
    return Plan(
        width=width,
        outputs=target.outputs,
        hidden=chosen(settings.hidden, HIDDEN),
        activation=chosen(settings.activation, ACTIVATION),
        dropout=float(chosen(settings.dropout, DROPOUT)),
        epochs=epochs,
        batch_size=batch,
        learning_rate=float(rate),
        weight_decay=float(chosen(settings.weight_decay, decay)),
        patience=chosen(settings.patience, max(5, min(PATIENCE, epochs // 5))),
        stop_at_loss=settings.stop_at_loss,
        clip_norm=settings.clip_norm,
        class_weight=settings.class_weight,
        seed=settings.seed,
        engine=settings.engine,
    )


def make_network(plan: Plan) -> nn.Sequential:
    """The network with its initial weights, which depend on the seed alone.

    They are Glorot's, smaller than He's: in the cross-validation behind the defaults, networks that begin nearly linear
    did better on small tables.
    """
    keys = random.split(random.key(plan.seed), len(plan.hidden) + 1)
    layers: list[nn.Module] = []
    width = plan.width
    for size, key in zip(plan.hidden, keys[:-1], strict=True):
        layers += [nn.Linear(width, size, key=key), getattr(nn, plan.activation)()]
        if plan.dropout:
            layers.append(nn.Dropout(plan.dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, plan.outputs, key=keys[-1]))


def make_optimizer(plan: Plan, rows: int) -> Optimizer:
    """AdamW whose learning rate falls along half a cosine to 0 over the whole of training; gradients clipped if asked."""
    schedule = optim.cosine(plan.learning_rate, plan.steps(rows))
    optimizer = optim.AdamW(schedule, weight_decay=plan.weight_decay)
    return optimizer if plan.clip_norm is None else optim.chain(optim.clip_by_global_norm(plan.clip_norm), optimizer)


def make_trainer(plan: Plan, target: Target, model: nn.Module, rows: int) -> Trainer:
    """A trainer with the loss of the task: squared error of the scaled target, or cross-entropy."""
    if target.is_regression:
        loss = nn.losses.squared_error
        metrics: dict[str, Any] = {}
    else:
        loss = nn.losses.binary_cross_entropy if target.task == "binary" else nn.losses.cross_entropy
        metrics = {"accuracy": _binary_accuracy if target.task == "binary" else _accuracy}
    return Trainer(
        model, loss=loss, optimizer=make_optimizer(plan, rows), metrics=metrics, seed=plan.seed, engine=plan.engine
    )


def make_stopping(plan: Plan, *, has_validation: bool) -> EarlyStopping | None:
    """Early stopping on the validation loss; None without validation rows or with a patience of 0."""
    return EarlyStopping("val_loss", plan.patience) if has_validation and plan.patience else None


def as_trained(target: Target, values: NDArray[Any]) -> NDArray[Any]:
    """Encoded targets in the shape and type that the loss takes: a column of floats, or integer labels."""
    return values if target.task == "multiclass" else values.astype(np.float32)[:, None]


def _weighted_mean(values: Any, weights: Any) -> Any:
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()


def _accuracy(outputs: Any, targets: Any, weights: Any = None) -> Any:
    return _weighted_mean((outputs.argmax(-1) == targets).astype(np.float32), weights)


def _binary_accuracy(outputs: Any, targets: Any, weights: Any = None) -> Any:
    return _weighted_mean(((outputs > 0) == (targets > 0.5))[:, 0].astype(np.float32), weights)
