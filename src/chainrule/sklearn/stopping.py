"""When an estimator's training ends: as scikit-learn's networks do, when neither loss nor validation score improves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from chainrule.train import Callback, StepTrainer
from chainrule.train.history import EpochRecord

NDArray = np.ndarray[Any, Any]


@final
class Convergence(Callback):
    """Ends training when ``n_iter_no_change`` epochs in a row have not improved by more than ``tol``.

    What should improve is the loss of an epoch, or, with ``score``, what that function returns after it; the weights of the best
    score are then kept.
    """

    def __init__(
        self, tol: float, n_iter_no_change: int, score: Callable[[], float] | None, verbose: bool = False
    ) -> None:
        self.tol = tol
        self.patience = n_iter_no_change
        self.score = score
        self.verbose = verbose
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.converged = False
        self._best = -np.inf
        self._waited = 0
        self._weights: dict[str, NDArray] = {}

    def on_epoch_end(self, trainer: StepTrainer, record: EpochRecord) -> None:
        loss = float(record["loss"])
        self.losses.append(loss)
        quality = -loss
        if self.score is not None:
            quality = self.score()
            self.scores.append(quality)
        if self.verbose:
            print(
                f"Iteration {len(self.losses)}, loss = {loss:.8f}"
                + (f", validation score = {quality:.6f}" if self.score else "")
            )
        self._waited = 0 if quality > self._best + self.tol else self._waited + 1
        if quality > self._best:
            self._best = quality
            if self.score is not None:
                self._weights = trainer.model_arrays()
        if self._waited >= self.patience:
            self.converged = True
            trainer.stop(f"no improvement by more than {self.tol:g} for {self.patience} epochs")

    def on_train_end(self, trainer: StepTrainer) -> None:
        if self._weights:
            trainer.load_model_arrays(self._weights)
