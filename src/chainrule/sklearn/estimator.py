"""What the classifier and the regressor share: settings, training, and the trained network."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from chainrule import nn
from chainrule.core import trees
from chainrule.sklearn.architecture import Network, hidden_sizes, in_dtype, make_optimizer, multilayer_perceptron
from chainrule.sklearn.stopping import Convergence
from chainrule.trace.seeds import seeded
from chainrule.train import Trainer
from chainrule.train.step import Loss

NDArray = np.ndarray[Any, Any]

_LARGEST_AUTOMATIC_BATCH = 200
_ACCEPTED: dict[str, Any] = {"accept_sparse": ["csr", "csc"], "dtype": (np.float64, np.float32)}


class NeuralNetEstimator(BaseEstimator):  # type: ignore[misc]
    """The common part of :class:`NeuralNetClassifier` and :class:`NeuralNetRegressor`, which describe the settings."""

    _trainer: Trainer | None

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
        network: Network | None = None,
        optimizer: Any = "adam",
        learning_rate_init: float = 0.001,
        alpha: float = 0.0001,
        gradient_clip: float | None = None,
        batch_size: Any = "auto",
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        verbose: bool = False,
        engine: str = "auto",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.network = network
        self.optimizer = optimizer
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.gradient_clip = gradient_clip
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.verbose = verbose
        self.engine = engine

    # What a subclass says of its task.
    def _loss(self) -> Loss:
        raise NotImplementedError

    def _stratify(self, y: NDArray) -> NDArray | None:
        raise NotImplementedError

    def _score_of(self, x: NDArray, y: NDArray, weights: NDArray | None) -> float:
        """The score that early stopping watches, of encoded targets."""
        raise NotImplementedError

    # Training.
    def _train(self, x: NDArray, y: NDArray, outputs: int, weights: NDArray | None) -> None:
        """``fit``, for checked inputs and encoded targets."""
        random = check_random_state(self.random_state)
        if self._goes_on():
            self._go_on()
        else:
            self._begin(x, outputs, random)
        score = None
        if self.early_stopping:
            x, held_x, y, held_y, *rest = train_test_split(
                x,
                y,
                *([weights] if weights is not None else []),
                test_size=self.validation_fraction,
                random_state=random,
                stratify=self._stratify(y),
            )
            weights, held_weights = rest or (None, None)

            def score() -> float:
                return self._score_of(held_x, held_y, held_weights)

        watcher = Convergence(self.tol, self.n_iter_no_change, score, bool(self.verbose))
        history = self._ready().fit(
            (x, y, weights),
            epochs=self.max_iter,
            batch_size=self._batch(len(x)),
            shuffle=self.shuffle,
            callbacks=[watcher],
        )
        self._remember(watcher.losses)
        self.n_iter_ = len(history)
        self.validation_scores_ = watcher.scores if self.early_stopping else None
        if not watcher.converged and history.stop_reason != "interrupted" and self.max_iter > 1:
            warnings.warn(
                f"training has not converged after max_iter = {self.max_iter} epochs; allow more, or a larger "
                "learning_rate_init",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _train_once(self, x: NDArray, y: NDArray, outputs: int, weights: NDArray | None) -> None:
        """``partial_fit``: one epoch over these examples, from where training is."""
        if hasattr(self, "network_"):
            self._go_on()
        else:
            self._begin(x, outputs, check_random_state(self.random_state))
        watcher = Convergence(self.tol, self.n_iter_no_change, None, bool(self.verbose))
        trainer = self._ready()
        trainer.fit(
            (x, y, weights), epochs=1, batch_size=self._batch(len(x)), shuffle=self.shuffle, callbacks=[watcher]
        )
        self._remember([*getattr(self, "loss_curve_", []), *watcher.losses])
        self.n_iter_ = len(self.loss_curve_)

    def _begin(self, x: NDArray, outputs: int, random: Any) -> None:
        """A new network and a new trainer; what was learnt before is forgotten."""
        self._check_settings()
        self._seed = int(random.randint(2**31 - 1))
        with seeded(self._seed):
            if self.network is not None:
                model = self.network(x.shape[1], outputs)
            else:
                sizes = hidden_sizes(self.hidden_layer_sizes)
                model = multilayer_perceptron(
                    x.shape[1], outputs, sizes, self.activation, self.dropout, self.batch_norm
                )
        self.n_outputs_ = outputs
        self.network_: nn.Module = in_dtype(model, x.dtype)
        self._made_with = self._architecture()
        self._arrays: dict[str, Any] | None = None
        self._trainer = None
        self.loss_curve_: list[float] = []

    def _goes_on(self) -> bool:
        """Whether ``fit`` begins with the network of the last one."""
        return bool(self.warm_start) and hasattr(self, "network_")

    def _go_on(self) -> None:
        """Take over settings that were changed since the last training; the network is made, so those that made it must stay."""
        self._check_settings()
        for name, value in self._architecture().items():
            if value != self._made_with[name]:
                raise ValueError(
                    f"{name} was {self._made_with[name]!r} when the network was made, which this training goes on with, and cannot "
                    f"become {value!r}; set it back, or fit a new network without warm_start"
                )
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and self._trained_with != self._training_settings():
            self._arrays, self._trainer = _copies(trainer), None

    def _architecture(self) -> dict[str, Any]:
        """The settings that the network is made with."""
        if self.network is not None:
            return {"network": self.network}
        sizes = hidden_sizes(self.hidden_layer_sizes)
        others = {name: getattr(self, name) for name in ("activation", "dropout", "batch_norm")}
        return {"network": None, "hidden_layer_sizes": sizes, **others}

    def _training_settings(self) -> tuple[Any, ...]:
        """The settings that the trainer is made with."""
        return self.optimizer, self.learning_rate_init, self.alpha, self.gradient_clip, self.engine

    def _check_settings(self) -> None:
        for name, least in (("max_iter", 1), ("n_iter_no_change", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("tol", "alpha", "learning_rate_init"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not float(value) >= 0:
                raise ValueError(f"{name} must be a number of 0 or more, not {value!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, not {self.validation_fraction!r}")

    def _batch(self, examples: int) -> int:
        if isinstance(self.batch_size, str) and self.batch_size == "auto":
            return min(_LARGEST_AUTOMATIC_BATCH, examples)
        if (
            isinstance(self.batch_size, bool)
            or not isinstance(self.batch_size, numbers.Integral)
            or self.batch_size < 1
        ):
            raise ValueError(f"batch_size must be 'auto' or a whole number of at least 1, not {self.batch_size!r}")
        return min(int(self.batch_size), examples)

    def _ready(self) -> Trainer:
        """The trainer; made again from what was pickled."""
        if getattr(self, "_trainer", None) is None:
            optimizer = make_optimizer(self.optimizer, self.learning_rate_init, self.alpha, self.gradient_clip)
            self._trainer = Trainer(
                self.network_, loss=self._loss(), optimizer=optimizer, seed=self._seed, engine=self.engine
            )
            self._trained_with = self._training_settings()
            if self._arrays is not None:
                # An optimiser of another kind starts with a memory of its own.
                own = self._trainer.state_arrays()
                if not _alike(self._arrays["optimizer"], own["optimizer"]):
                    self._arrays = {**self._arrays, "optimizer": own["optimizer"]}
                self._trainer.load_state_arrays(self._arrays)
        assert self._trainer is not None
        return self._trainer

    def _remember(self, losses: list[float]) -> None:
        trainer = self._ready()
        self.network_ = trainer.model
        self.loss_curve_ = losses
        self.loss_ = losses[-1] if losses else math.nan
        self.best_loss_ = min(losses, default=math.nan)
        self.t_ = trainer.steps

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the compiled programs: weights, and the state of the optimiser."""
        state: dict[str, Any] = super().__getstate__()
        trainer = state.pop("_trainer", None)
        if trainer is not None:
            state["_arrays"] = _copies(trainer)
        return state

    # Prediction.
    def _checked(self, x: Any, y: Any, reset: bool, numeric: bool = False) -> tuple[NDArray, NDArray]:
        """Examples as scikit-learn checks them: float32 stays, everything else becomes float64; sparse matrices become dense."""
        x, y = validate_data(self, x, y, multi_output=True, y_numeric=numeric, reset=reset, **_ACCEPTED)
        return _dense(x), y

    def _weights(self, sample_weight: Any, x: NDArray) -> NDArray | None:
        if sample_weight is None:
            return None
        found: NDArray = _check_sample_weight(sample_weight, x, dtype=x.dtype, ensure_non_negative=True)
        if not np.any(found > 0):
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return found

    def _outputs(self, x: Any) -> NDArray:
        """The network's outputs, shape (n, outputs)."""
        check_is_fitted(self, "network_")
        x = _dense(validate_data(self, x, reset=False, **_ACCEPTED))
        wanted = trees.leaves(self.network_)[0].dtype
        outputs: NDArray = self._ready().predict(x.astype(wanted, copy=False))
        return outputs.astype(x.dtype, copy=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _copies(trainer: Trainer) -> dict[str, dict[str, NDArray]]:
    """What a trainer of the same network goes on from."""
    return {
        name: {path: np.array(array) for path, array in group.items()} for name, group in trainer.state_arrays().items()
    }


def _alike(one: Mapping[str, NDArray], other: Mapping[str, NDArray]) -> bool:
    """Whether these are arrays of the same names, shapes and element types."""

    def described(arrays: Mapping[str, NDArray]) -> dict[str, Any]:
        return {name: (array.shape, array.dtype) for name, array in arrays.items()}

    return described(one) == described(other)


def _dense(x: Any) -> NDArray:
    dense: NDArray = x.toarray() if hasattr(x, "toarray") else x
    return dense
