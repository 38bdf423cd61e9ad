"""The classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import column_or_1d

from chainrule import nn
from chainrule.sklearn.architecture import Network
from chainrule.sklearn.estimator import NDArray, NeuralNetEstimator
from chainrule.train.step import Loss


class NeuralNetClassifier(ClassifierMixin, NeuralNetEstimator):  # type: ignore[misc]
    """A neural network that classifies, trained by backpropagation.

    Two classes, or several labels at once (a 0/1 matrix as y), give sigmoids with binary cross-entropy; more classes a softmax with
    cross-entropy. Parameters that scikit-learn's ``MLPClassifier`` has too mean the same.

    Args:
        hidden_layer_sizes: the widths of the hidden layers; ``()`` is logistic regression.
        activation: relu, tanh, logistic, gelu, silu, leaky_relu or identity.
        dropout: the probability with which an activation is dropped in training, from 0 to below 1.
        batch_norm: whether batches are normalised before each activation.
        network: ``network(inputs, outputs)`` makes the network in place of the four settings above; outputs are logits.
        optimizer: adam, sgd (Nesterov's momentum 0.9), rmsprop, nadam; a description; or an optimiser of ``chainrule.optim``.
        learning_rate_init: the learning rate of an optimiser given by name.
        alpha: the L2 penalty ``½·alpha·Σw²`` on the matrices, added to the mean loss.
        gradient_clip: the largest norm of all gradients together; None does not clip.
        batch_size: examples in a batch; ``"auto"`` is 200, or all if there are fewer.
        max_iter: epochs at most.
        shuffle: whether every epoch visits the examples in a new order.
        random_state: seed of the weights, the order, dropout and the held-out examples.
        tol, n_iter_no_change: training ends when so many epochs in a row improve by no more than ``tol``.
        early_stopping: judge by the accuracy on held-out examples, and keep the weights that were best.
        validation_fraction: how much is held out for that.
        class_weight: weights by class, ``"balanced"`` for ``n / (classes · count)``, or None.
        warm_start: ``fit`` goes on from the weights of the last one, with the settings of now; those of the network must be the same.
        verbose: print the loss of every epoch.
        engine: ``"auto"``, ``"reference"`` or ``"cpu"``.

    Attributes:
        classes_: the labels. ``network_``: the trained :class:`chainrule.nn.Module`. ``loss_curve_``: the mean loss of every epoch.
        n_iter_, loss_, best_loss_, validation_scores_, n_features_in_, feature_names_in_, n_outputs_, t_ (updates).
    """

    classes_: NDArray
    _multilabel: bool

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
        class_weight: Any = None,
        warm_start: bool = False,
        verbose: bool = False,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            dropout=dropout,
            batch_norm=batch_norm,
            network=network,
            optimizer=optimizer,
            learning_rate_init=learning_rate_init,
            alpha=alpha,
            gradient_clip=gradient_clip,
            batch_size=batch_size,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            verbose=verbose,
            engine=engine,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NeuralNetClassifier:
        """Train on X of shape (n, features) and labels y of shape (n,), or a 0/1 matrix of shape (n, labels)."""
        x, y = self._checked(X, y, reset=not self._goes_on())
        y = self._labels(y)
        found = unique_labels(y)
        if self._goes_on():
            if set(found) != set(self.classes_):
                raise ValueError(f"warm_start needs the classes of the last fit, {self.classes_}, but y has {found}")
        else:
            self.classes_ = found
            self._multilabel = y.ndim == 2
        weights = self._all_weights(sample_weight, x, y)
        self._train(x, self._encoded(y, x.dtype), self._width(), weights)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> NeuralNetClassifier:
        """One epoch over these examples. The first call needs ``classes``: all labels that can ever come."""
        first = not hasattr(self, "classes_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        x, y = self._checked(X, y, reset=first)
        y = self._labels(y)
        if first:
            self.classes_ = unique_labels(classes)
            self._multilabel = type_of_target(y).startswith("multilabel")
        elif classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
            )
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(f"y has the labels {unknown}, which are not among the classes {self.classes_}")
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight 'balanced' needs all of y; pass partial_fit the weights by class as a dict")
        self._train_once(x, self._encoded(y, x.dtype), self._width(), self._all_weights(sample_weight, x, y))
        return self

    def predict(self, X: Any) -> NDArray:
        """The most probable label of each row; with several labels at once a 0/1 matrix."""
        outputs = self._outputs(X)
        if self._multilabel:
            return (outputs > 0).astype(int)
        if len(self.classes_) == 1:
            places = np.zeros(len(outputs), int)
        else:
            places = (outputs[:, 0] > 0).astype(int) if self.n_outputs_ == 1 else outputs.argmax(1)
        labels: NDArray = self.classes_[places]
        return labels

    def predict_proba(self, X: Any) -> NDArray:
        """The probability of each class, in the order of ``classes_``; with several labels at once, of each label."""
        outputs = self._outputs(X)
        if len(self.classes_) == 1 and not self._multilabel:
            return np.ones_like(outputs)
        if self._multilabel or self.n_outputs_ == 1:
            yes = 0.5 * (1.0 + np.tanh(0.5 * outputs))
            return yes if self._multilabel else np.hstack([1 - yes, yes])
        powers = np.exp(outputs - outputs.max(1, keepdims=True))
        probabilities: NDArray = powers / powers.sum(1, keepdims=True)
        return probabilities

    def predict_log_proba(self, X: Any) -> NDArray:
        """The logarithm of :meth:`predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _labels(self, y: NDArray) -> NDArray:
        check_classification_targets(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.ndim == 2 and not type_of_target(y).startswith("multilabel"):
            raise ValueError(f"y of shape {y.shape} must be labels of shape (n,), or a matrix of 0 and 1")
        return y

    def _width(self) -> int:
        return len(self.classes_) if self._multilabel or len(self.classes_) > 2 else 1

    def _encoded(self, y: NDArray, dtype: Any) -> NDArray:
        if self._multilabel:
            return y.astype(dtype)
        places = np.searchsorted(self.classes_, y)
        return places if len(self.classes_) > 2 else places.astype(dtype)[:, None]

    def _all_weights(self, sample_weight: Any, x: NDArray, y: NDArray) -> NDArray | None:
        weights = self._weights(sample_weight, x)
        if self.class_weight is None:
            return weights
        if self._multilabel:
            raise ValueError("class_weight needs one label per row; weigh several labels at once with sample_weight")
        # A dict may name classes that these examples lack; what is balanced is balanced among those that they have.
        classes = np.unique(y) if isinstance(self.class_weight, str) else self.classes_
        by_class = compute_class_weight(self.class_weight, classes=classes, y=y)
        own: NDArray = by_class[np.searchsorted(classes, y)].astype(x.dtype)
        return own if weights is None else own * weights

    def _loss(self) -> Loss:
        return nn.losses.cross_entropy if self._width() > 1 and not self._multilabel else nn.losses.binary_cross_entropy

    def _stratify(self, y: NDArray) -> NDArray | None:
        return None if self._multilabel else y

    def _score_of(self, x: NDArray, y: NDArray, weights: NDArray | None) -> float:
        outputs = self._ready().predict(x)
        found = outputs.argmax(1) if y.ndim == 1 else outputs > 0
        return float(accuracy_score(y if y.ndim == 1 else y > 0.5, found, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
