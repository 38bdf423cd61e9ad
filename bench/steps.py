"""What a contestant offers: numbers to compare with the others', and a call to be timed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

from bench.workloads import COMPARED, Product, Workload


class NotApplicableError(Exception):
    """A framework that cannot run a workload, or not in this form; the message says why."""


class Contestant(Protocol):
    """Built from the initial weights. ``steps`` is how many steps a call makes."""

    steps: int

    def compared(self) -> list[float]:
        """The first losses from the initial weights (for an epoch also its mean), or numbers that tell a product's result.

        It trains, and is asked for once, before anything is timed.
        """
        ...

    def call(self) -> None:
        """What is timed; at its end the loss has arrived in Python as a number."""
        ...


# Name of a contestant: the module that builds it, and the form it is built in.
CONTESTANTS = {
    "ours": "bench.ours:",
    "torch": "bench.peers.torch_steps:eager",
    "torch.compile": "bench.peers.torch_steps:compile",
    "jax": "bench.peers.jax_steps:",
    "tensorflow": "bench.peers.tensorflow_steps:",
    "tensorflow-xla": "bench.peers.tensorflow_steps:xla",
    "scikit-learn": "bench.peers.sklearn_steps:",
}
PEAK = "bench.peak:"


def importer(source: str) -> Callable[[Workload | Product], Contestant]:
    """Import the module of ``module:form``, with its framework, and return what builds the contestant.

    Raises:
        ImportError: where the framework is not installed.
    """
    module, _, form = source.partition(":")
    build = importlib.import_module(module).build
    return lambda workload: build(workload, form)


class PerCall:
    """One Python call per step; ``step(k)`` takes batch k and returns the loss."""

    steps = 1

    def __init__(self, workload: Workload, step: Callable[[int], float]) -> None:
        self.workload, self.step, self.next = workload, step, 0

    def compared(self) -> list[float]:
        if not self.workload.epoch:
            return [self.step(k) for k in range(COMPARED)]
        return first_and_mean([self.step(k) for k in range(self.workload.batches)])

    def call(self) -> None:
        self.step(self.next)
        self.next = (self.next + 1) % self.workload.batches


class WholeEpoch:
    """One Python call per epoch; ``epoch()`` returns the losses of its steps."""

    def __init__(self, workload: Workload, epoch: Callable[[], Sequence[float]]) -> None:
        self.epoch, self.steps = epoch, workload.batches

    def compared(self) -> list[float]:
        return first_and_mean(self.epoch())

    def call(self) -> None:
        self.epoch()


class OneProduct:
    """A single product; ``compute()`` returns when the result is there, and ``fetch`` makes it an array in our layout."""

    steps = 1

    def __init__(self, product: Product, compute: Callable[[], object], fetch: Callable[[object], object]) -> None:
        self.product, self.compute, self.fetch = product, compute, fetch

    def compared(self) -> list[float]:
        return self.product.digest(self.fetch(self.compute()))  # type: ignore[arg-type]

    def call(self) -> None:
        self.compute()


def first_and_mean(losses: Sequence[float]) -> list[float]:
    """The first losses of an epoch, and its mean."""
    numbers = [float(loss) for loss in losses]
    return [*numbers[:COMPARED], sum(numbers) / len(numbers)]


def gap(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest relative difference; infinite where a loss is not finite."""
    differences = [abs(a - b) / max(abs(b), 1e-30) for a, b in zip(losses, reference, strict=True)]
    return max((d if d == d else float("inf") for d in differences), default=0.0)
