"""scikit-learn's multilayer perceptron, which has ReLU networks with Adam: one call of ``partial_fit`` is a step, or an epoch.

With two classes it has one output instead of two, so its losses are those of another network there.
"""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier

from bench.steps import Contestant, NotApplicableError, PerCall, first_and_mean
from bench.workloads import COMPARED, Product, Workload


def build(workload: Workload | Product, form: str) -> Contestant:
    if isinstance(workload, Product) or workload.network != "relu":
        raise NotApplicableError("scikit-learn has only fully connected networks with losses of its own")
    return _Epochs(workload) if workload.epoch else PerCall(workload, _step(workload))


def _network(workload: Workload) -> MLPClassifier:
    """With the initial weights in it; a network with no step made has none, so it makes one, which is undone."""
    initial = list(workload.initial().values())
    network = MLPClassifier(
        [bias.size for bias in initial[1:-1:2]],
        batch_size=workload.batch,
        learning_rate_init=workload.rate,
        alpha=0.0,
        shuffle=False,
    )
    x, y = workload.data()
    network.partial_fit(x[: workload.batch], y[: workload.batch], classes=np.unique(y))
    if network.coefs_[-1].shape == initial[-2].shape:
        for part, moment1, moment2, weight in zip(
            network.coefs_ + network.intercepts_,
            network._optimizer.ms,
            network._optimizer.vs,
            initial[::2] + initial[1::2],
            strict=True,
        ):
            part[...], moment1[...], moment2[...] = weight, 0, 0
        network._optimizer.t = 0
    return network


def _step(workload: Workload):  # type: ignore[no-untyped-def]
    network = _network(workload)
    x, y = workload.data()

    def step(number: int) -> float:
        rows = slice(number * workload.batch, (number + 1) * workload.batch)
        network.partial_fit(x[rows], y[rows])
        return float(network.loss_)

    return step


class _Epochs:
    def __init__(self, workload: Workload) -> None:
        self.workload, self.steps = workload, workload.batches
        self.network, self.data = _network(workload), workload.data()

    def compared(self) -> list[float]:
        step = _step(self.workload)
        losses = [step(k) for k in range(self.workload.batches)]
        assert len(losses) >= COMPARED
        return first_and_mean(losses)

    def call(self) -> None:
        self.network.partial_fit(*self.data)
