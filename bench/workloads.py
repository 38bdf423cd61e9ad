"""What is timed: networks with their sizes, data and optimiser, and single products. Everything here is NumPy.

A step is forward, loss, backward and update on one batch. ``flops`` is what a step needs at least: two operations for every
multiplication and addition of its products, forwards and in the gradients that training needs (the input gradient of the first
layer is not needed). Element-wise work is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import weights

NDArray = np.ndarray[Any, Any]

# Losses are compared over this many steps from the initial weights, each on a batch of its own.
COMPARED = 20
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Workload:
    """A network in training. ``examples(rng, count)`` makes inputs and targets.

    ``epoch``: ours runs a whole epoch in one call, and what is timed is its share per step. ``batches`` are in an epoch, and what
    per-call steps cycle through.
    """

    name: str
    network: str
    weights: Callable[[np.random.Generator], weights.Weights]
    examples: Callable[[np.random.Generator, int], tuple[NDArray, NDArray]]
    macs: tuple[
        tuple[float, bool], ...
    ]  # products of one step: multiplications, and whether the input gradient is needed
    batch: int
    loss: str = "cross_entropy"
    optimizer: str = "adam"
    rate: float = 1e-3
    betas: tuple[float, float] = ADAM_BETAS
    epoch: bool = False
    batches: int = COMPARED

    @property
    def flops(self) -> float:
        """Operations of one step: forward, weight gradient, and the input gradient where it is needed."""
        return sum(2 * macs * (3 if inner else 2) for macs, inner in self.macs)

    def initial(self) -> weights.Weights:
        return self.weights(np.random.default_rng(1))

    def data(self) -> tuple[NDArray, NDArray]:
        """Inputs and targets of one epoch, along the first axis."""
        return self.examples(np.random.default_rng(2), self.batches * self.batch)


@dataclass(frozen=True)
class Product:
    """A single product of two arrays: a convolution or a matrix product, or one of its gradients.

    ``left`` and ``right`` are drawn from a normal distribution. For ``forward`` they are the input and the weight, for
    ``input-gradient`` the output's cotangent and the weight, for ``weight-gradient`` the input and the output's cotangent.
    """

    name: str
    role: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    output: tuple[int, ...]
    stride: int = 1

    @property
    def flops(self) -> float:
        return 2.0 * math.prod(self.output) * math.prod(self.weight[:-1])

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return {
            "forward": (self.input, self.weight),
            "input-gradient": (self.output, self.weight),
            "weight-gradient": (self.input, self.output),
        }[self.role]

    def operands(self) -> tuple[NDArray, NDArray]:
        rng = np.random.default_rng(3)
        left, right = (rng.standard_normal(shape, np.float32) for shape in self.shapes)
        return left, right

    def digest(self, result: NDArray) -> list[float]:
        """Twenty positive numbers that depend on the value and the place of every element: what contestants compare.

        ``result`` is in our layout: (examples, height, width, channels), (height, width, in, out), or a matrix.
        """
        flat = np.asarray(result, np.float64).ravel()
        expected = np.random.default_rng(4).standard_normal(flat.size)
        spread = math.sqrt(self.flops / (2 * flat.size))  # a sum of so many products of normal numbers
        squares = (flat / spread - expected) ** 2
        return [float(part.mean()) for part in np.array_split(squares, COMPARED)]


# --- data -------------------------------------------------------------------------------------------------------------


def _rows(features: int, classes: int) -> Callable[[np.random.Generator, int], tuple[NDArray, NDArray]]:
    """Normal rows, and the class that a random linear map of them names."""
    return _signals((features,), classes)


def _signals(shape: tuple[int, ...], classes: int) -> Callable[[np.random.Generator, int], tuple[NDArray, NDArray]]:
    def examples(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
        x = rng.standard_normal((count, *shape), np.float32)
        teacher = rng.standard_normal((math.prod(shape), classes), np.float32)
        return x, (x.reshape(count, -1) @ teacher).argmax(1).astype(np.int64)

    return examples


def _exclusive_or(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    x = rng.integers(0, 2, (count, 2)).astype(np.float32)
    return x, (x[:, :1] != x[:, 1:]).astype(np.float32)


def _tokens_and_class(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    tokens = rng.integers(0, 5000, (count, 128))
    return tokens, tokens.sum(1) % 10


def _tokens_and_next(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    """Every token is the one before plus a small number."""
    text = np.cumsum(rng.integers(0, 4, (count, 129)), axis=1) % 256
    return text[:, :-1].copy(), text[:, 1:].copy()


def _noise_and_images(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    """The generator's input, and images as the discriminator's real examples."""
    images = np.tanh(rng.standard_normal((count, 32, 32, 3), np.float32))
    return rng.standard_normal((count, 100), np.float32), images


# --- how much there is to compute -------------------------------------------------------------------------------------


def _dense(rows: int, *sizes: int) -> tuple[tuple[float, bool], ...]:
    return tuple((rows * a * b, number > 0) for number, (a, b) in enumerate(zip(sizes, sizes[1:])))


def _resnet20(batch: int) -> tuple[tuple[float, bool], ...]:
    macs: list[tuple[float, bool]] = [(batch * 32 * 32 * 9 * 3 * 16, False)]
    before = 16
    for width, size in ((16, 32), (32, 16), (64, 8)):
        for _ in range(3):
            macs += [(batch * size**2 * 9 * before * width, True), (batch * size**2 * 9 * width * width, True)]
            before = width
    return (*macs, (batch * 64 * 10, True))


def _recurrent(gates: int) -> tuple[tuple[float, bool], ...]:
    rows = 32 * 100
    return ((rows * 32 * gates * 128, False), (rows * 128 * gates * 128, True), (32 * 128 * 10, True))


def _transformer(batch: int, length: int, layers: int, inner: int, classes: int, rows: int) -> Any:
    """Attention counts in full, also where a mask hides half of it; gradients of both factors of its products."""
    tokens, d = batch * length, 128
    layer = [(tokens * d * 4 * d, True), (2 * tokens * length * d, True), (2 * tokens * d * inner, True)]
    return (*(layer * layers), (rows * d * classes, True))


def _dcgan(batch: int) -> tuple[tuple[float, bool], ...]:
    generator = [100 * 16 * 256, 16 * 16 * 256 * 128, 64 * 16 * 128 * 64, 256 * 16 * 64 * 3]
    discriminator = [256 * 16 * 3 * 64, 64 * 16 * 64 * 128, 16 * 16 * 128 * 256, 16 * 256]
    made = [(batch * n, number > 0) for number, n in enumerate(generator)]
    judged = [(batch * n, number > 0) for number, n in enumerate(discriminator)]
    # The discriminator learns from real and made images; the third time, forward and input gradients only.
    passed = [(batch * n, False) for n in discriminator]
    return (*made, *judged, *judged, *passed)


# --- the list ---------------------------------------------------------------------------------------------------------

TINY = {"network": "sigmoid", "loss": "squared_error", "optimizer": "sgd", "rate": 0.5, "batch": 1}
_MLP, _BIG, _TABLE = (784, 512, 512, 10), (1024, 2048, 2048, 10), (30, 64, 64, 2)

WORKLOADS: dict[str, Workload] = {
    each.name: each
    for each in (
        Workload(
            "tiny-epoch", weights=weights.dense(2, 2, 1), examples=_exclusive_or, macs=_dense(1, 2, 2, 1), epoch=True,
            batches=10_000, **TINY,
        ),
        Workload("tiny", weights=weights.dense(2, 2, 1), examples=_exclusive_or, macs=_dense(1, 2, 2, 1), **TINY),
        Workload(
            "tabular", "relu", weights.dense(*_TABLE), _rows(30, 2), _dense(32, *_TABLE), 32, epoch=True, batches=100
        ),
        Workload("mlp", "relu", weights.dense(*_MLP), _rows(784, 10), _dense(128, *_MLP), 128),
        Workload("mlp-big", "relu", weights.dense(*_BIG), _rows(1024, 10), _dense(512, *_BIG), 512),
        Workload(
            "lenet", "lenet", weights.lenet, _signals((28, 28, 1), 10),
            ((64 * 784 * 9 * 32, False), (64 * 196 * 9 * 32 * 64, True), (64 * 3136 * 128, True), (64 * 128 * 10, True)), 64,
        ),
        Workload("resnet20", "resnet20", weights.resnet20, _signals((32, 32, 3), 10), _resnet20(64), 64),
        Workload("lstm", "lstm", weights.recurrent(4), _signals((100, 32), 10), _recurrent(4), 32),
        Workload("gru", "gru", weights.recurrent(3), _signals((100, 32), 10), _recurrent(3), 32),
        Workload(
            "transformer", "encoder", weights.encoder, _tokens_and_class, _transformer(32, 128, 2, 512, 10, 32), 32
        ),
        Workload("gpt", "gpt", weights.gpt, _tokens_and_next, _transformer(16, 128, 4, 512, 256, 16 * 128), 16),
        # The rate is small because two networks against each other amplify rounding: at 2e-4 no two frameworks agree to 1e-3.
        Workload(
            "dcgan", "dcgan", weights.dcgan, _noise_and_images, _dcgan(64), 64, loss="adversarial", rate=2e-5, betas=(0.5, 0.999)
        ),
    )
}  # fmt: skip

ROLES = ("forward", "input-gradient", "weight-gradient")


def _products() -> dict[str, Product]:
    shapes = {
        "conv16-16@32": ((64, 32, 32, 16), (3, 3, 16, 16), (64, 32, 32, 16), 1),
        "conv16-32s2@32": ((64, 32, 32, 16), (3, 3, 16, 32), (64, 16, 16, 32), 2),
        "conv64-64@8": ((64, 8, 8, 64), (3, 3, 64, 64), (64, 8, 8, 64), 1),
        "dense4096x128x512": ((4096, 128), (128, 512), (4096, 512), 1),
        "dense2048x2048x2048": ((2048, 2048), (2048, 2048), (2048, 2048), 1),
    }
    made = [Product(f"kernel:{name}:{role}", role, *shape) for name, shape in shapes.items() for role in ROLES]
    return {product.name: product for product in made}


PRODUCTS = _products()
ALL: dict[str, Workload | Product] = {**WORKLOADS, **PRODUCTS}


def chosen(names: list[str]) -> list[Workload | Product]:
    """The workloads of these names, all of them for none; ``kernel`` stands for all products, a product's name for its roles.

    Raises:
        KeyError: for a name that there is not; the argument is one sentence.
    """
    found: dict[str, Workload | Product] = {}
    for name in names or list(ALL):
        here = {each: ALL[each] for each in ALL if each == name or each.startswith(f"{name}:")}
        if not here:
            raise KeyError(
                f"there is no workload {name!r}; there are {', '.join(WORKLOADS)}, kernel, {', '.join(PRODUCTS)}"
            )
        found |= here
    return list(found.values())
