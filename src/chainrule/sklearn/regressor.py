"""The regressor."""

from __future__ import annotations

from typing import Any

from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import column_or_1d

from chainrule import nn
from chainrule.sklearn.estimator import NDArray, NeuralNetEstimator
from chainrule.train.step import Loss


class NeuralNetRegressor(RegressorMixin, NeuralNetEstimator):  # type: ignore[misc]
    """A neural network that predicts numbers, trained by backpropagation on half the squared error.

    Parameters and attributes are those of :class:`NeuralNetClassifier`, but ``class_weight`` and ``classes_``; early stopping
    watches R². Neither inputs nor targets are scaled: put a ``StandardScaler`` before it, and a ``TransformedTargetRegressor`` around.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NeuralNetRegressor:
        """Train on X of shape (n, features) and targets y of shape (n,) or (n, outputs)."""
        x, y = self._targets(X, y, reset=not self._goes_on())
        self._train(x, y, y.shape[1], self._weights(sample_weight, x))
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> NeuralNetRegressor:
        """One epoch over these examples, from where training is."""
        x, y = self._targets(X, y, reset=not hasattr(self, "network_"))
        self._train_once(x, y, y.shape[1], self._weights(sample_weight, x))
        return self

    def predict(self, X: Any) -> NDArray:
        """The predicted targets, of shape (n,) or (n, outputs)."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._flat else outputs

    def _targets(self, X: Any, y: Any, reset: bool) -> tuple[NDArray, NDArray]:
        x, y = self._checked(X, y, reset=reset, numeric=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if reset:
            self._flat = y.ndim == 1
        elif (y.ndim == 1) != self._flat or (y.ndim == 2 and y.shape[1] != self.n_outputs_):
            raise ValueError(f"y has shape {y.shape}, but the network was made for {self.n_outputs_} outputs")
        return x, y.reshape(len(y), -1).astype(x.dtype)

    def _loss(self) -> Loss:
        return nn.losses.half_squared_error

    def _stratify(self, y: NDArray) -> NDArray | None:
        return None

    def _score_of(self, x: NDArray, y: NDArray, weights: NDArray | None) -> float:
        return float(r2_score(y, self._ready().predict(x), sample_weight=weights))
