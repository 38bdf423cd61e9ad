"""Lowering the learning rate when progress stops; decided between epochs, outside the compiled step."""

from __future__ import annotations

import math
from collections.abc import Mapping

from chainrule.core.errors import ConfigError
from chainrule.optim.optimizer import JSON, State, learning_rate_factor, scale_learning_rate
from chainrule.optim.settings import count, non_negative, positive, real


class ReduceOnPlateau:
    """Multiplies the learning rate by ``factor`` when a metric has not improved for more than ``patience`` reports in a row.

    Call :meth:`update` once per epoch. Better means lower (``mode="min"``) or higher (``mode="max"``) than the best so far
    by more than ``threshold`` times its size, or with ``threshold_mode="abs"`` by more than ``threshold`` itself; a metric
    that is not finite is never better. After a reduction ``cooldown`` reports do not count as bad. A reduction of the factor
    by ``eps`` or less is not made.

    What is multiplied is the number ``factor`` in the optimiser's state, which does not fall below ``minimum``; a schedule
    goes on underneath. Otherwise as in PyTorch, whose ``min_lr`` is ``minimum`` times the rate.

    Raises :class:`ConfigError` for a factor outside (0, 1), and for negative numbers.
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        minimum: float = 0.0,
        threshold: float = 1e-4,
        cooldown: int = 0,
        mode: str = "min",
        threshold_mode: str = "rel",
        eps: float = 0.0,
    ) -> None:
        name = "ReduceOnPlateau"
        self.factor = positive(name, "factor", factor)
        if self.factor >= 1:
            raise ConfigError(f"factor of {name} must be less than 1, so that the learning rate falls, not {factor!r}")
        if mode not in ("min", "max"):
            raise ConfigError(f"mode of {name} is 'min' (lower is better) or 'max' (higher is better), not {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ConfigError(f"threshold_mode of {name} is 'rel' or 'abs', not {threshold_mode!r}")
        self.patience = count(name, "patience", patience, least=0)
        self.minimum = non_negative(name, "minimum", minimum)
        self.threshold = non_negative(name, "threshold", threshold)
        self.cooldown = count(name, "cooldown", cooldown, least=0)
        self.mode = mode
        self.threshold_mode = threshold_mode
        self.eps = non_negative(name, "eps", eps)
        self._best: float | None = None
        self._bad = 0
        self._resting = 0

    @property
    def describe(self) -> dict[str, JSON]:
        """The settings, in JSON; ``ReduceOnPlateau(**settings)`` without ``kind`` makes it again."""
        return {
            "kind": "ReduceOnPlateau",
            "factor": self.factor,
            "patience": self.patience,
            "minimum": self.minimum,
            "threshold": self.threshold,
            "cooldown": self.cooldown,
            "mode": self.mode,
            "threshold_mode": self.threshold_mode,
            "eps": self.eps,
        }

    @property
    def progress(self) -> dict[str, JSON]:
        """What it remembers, in JSON, for a checkpoint; :meth:`restore` takes it back."""
        return {"best": self._best, "bad": self._bad, "resting": self._resting}

    def restore(self, progress: Mapping[str, JSON]) -> None:
        """Go on from a stored :attr:`progress`. Raises :class:`ConfigError` when it is not one."""
        name = "ReduceOnPlateau"
        if set(progress) != {"best", "bad", "resting"}:
            raise ConfigError(f"the stored progress of {name} has {sorted(progress)} instead of best, bad and resting")
        best = progress["best"]
        self._best = None if best is None else real(name, "the stored best", best)
        self._bad = count(name, "the stored bad", progress["bad"], least=0)
        self._resting = count(name, "the stored resting", progress["resting"], least=0)

    def update(self, metric: float, state: State) -> State:
        """Take note of a metric; the optimiser state to go on with, whose learning rate may be lower."""
        value = float(metric)
        if self._is_better(value):
            self._best = value
            self._bad = 0
        else:
            self._bad += 1
        if self._resting:
            self._resting -= 1
            self._bad = 0
        if self._bad <= self.patience:
            return state
        self._bad, self._resting = 0, self.cooldown
        now = learning_rate_factor(state)
        lower = max(now * self.factor, self.minimum)
        return scale_learning_rate(state, lower / now) if now - lower > self.eps else state

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self._best is None:
            return True
        margin = self.threshold * (abs(self._best) if self.threshold_mode == "rel" else 1.0)
        return value < self._best - margin if self.mode == "min" else value > self._best + margin
