"""Random networks of layers, with sizes that reach the thresholds between ways of doing a thing, and their training steps as graphs.

A layer is drawn with settings of its own and tried; one that refuses its input or makes it too large is drawn anew.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import chainrule as cr
from chainrule import nn, ops, optim
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.core.trees import leaves
from chainrule.grad import STANDARD
from chainrule.ir.graph import Graph
from chainrule.trace import using_key
from chainrule.train.step import make_step, trainable
from chainrule.transforms import trace

CHANNELS = (1, 3, 5, 15, 16, 17, 32, 48, 64, 96)
IMAGES = (1, 2, 4, 5, 7, 8, 9, 12, 14, 16, 17, 24, 28, 33)
BATCHES = (1, 2, 7, 8, 9, 33, 64)
LARGEST = 9_000  # elements between two layers, of one example
MOST_WORK = 3_000_000  # multiplications of a layer, of one example
MOST_AT_ONCE = 150_000  # elements between two layers, of a batch
VOCABULARY = 23

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A model, the shape of an example (of tokens where ``tokens``), what it is trained with, and batch sizes in turn.

    One of bfloat16 computes with that; its weights are float32.
    """

    seed: int
    dtype: str
    model: nn.Module
    shape: Shape
    tokens: bool
    loss: Callable[..., Any]
    targets: Callable[[np.random.Generator, int], np.ndarray]
    optimizer: optim.Optimizer
    batches: tuple[int, ...]

    def __str__(self) -> str:
        kinds = [type(module).__name__ for module in self.model.named_modules().values()]
        return f"network {self.seed} ({self.dtype}) of {self.shape}: {', '.join(kinds[1:])}"


@dataclass(frozen=True)
class Step:
    """A training step as a graph, whose first ``carried`` inputs become its first outputs."""

    graph: Graph
    state: list[np.ndarray]
    carried: int


class _Masked(nn.Module):
    """A layer on sequences whose lengths are told from their first channel."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return self.layer(x, lengths=1 + (x[:, 1:, 0] > 0).astype("int32").sum(axis=1))


class _Decoding(nn.Module):
    """A decoder that attends to a projection of its own input."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        self.layer, self.memory = layer, nn.Linear(features, features)

    def forward(self, x: Any) -> Any:
        return self.layer(x, self.memory(x)[:, ::-1])


class _Joined(nn.Module):
    """Branches side by side: their channels one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        self.branches = branches

    def forward(self, x: Any) -> Any:
        return ops.concatenate([branch(x) for branch in self.branches], axis=-1)


class _Bfloat16(nn.Module):
    """A model that computes with its weights and input rounded."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model.astype("bfloat16")(x.astype("bfloat16") if x.dtype.kind == "f" else x)


def random_network(seed: int, dtype: str | None = None) -> Network:
    return _Writer(random.Random(seed)).network(seed, dtype)


def training_step(network: Network) -> Step:
    """The whole step, after the passes: forward, loss, backward, update and what is reported."""
    state = {
        "model": network.model,
        "optimizer": network.optimizer.init(trainable(network.model)),
        "step": np.asarray(0, np.int64),
    }
    step = make_step(network.loss, network.optimizer, {}, STANDARD)
    compiled = cr.compile(step, engine="reference", batch=("x", "y", "weights"))
    x, y, weights = examples(network, 2)
    graph, arrays = compiled.graph_and_arrays(state, KEY, x, y, weights)
    carried = len(leaves(state))
    return Step(replace(graph, name=f"network {network.seed}"), [np.array(a) for a in arrays[:carried]], carried)


KEY = np.array([3, 4], np.uint32)


def examples(network: Network, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples, targets and weights, of which some are 0."""
    rng = np.random.default_rng([network.seed, count, seed])
    kind = np.float64 if network.dtype == "float64" else np.float32
    if network.tokens:
        x = rng.integers(0, VOCABULARY, (count, *network.shape))
    else:
        x = rng.normal(size=(count, *network.shape)).astype(kind)
    y = network.targets(rng, count)
    weights = (rng.integers(0, 4, count) / 2).astype(kind)
    weights[:1] = 1
    return x, y if y.dtype.kind == "i" else y.astype(kind), weights


class _Writer:
    def __init__(self, source: random.Random) -> None:
        self.source, self.pick = source, source.choice
        self.shape: Shape = ()
        self.layers: list[nn.Module] = []
        self.largest = 1

    def network(self, seed: int, dtype: str | None) -> Network:
        with cr.seeded(seed):
            drawn = self.pick(("float32", "float32", "float32", "float64", "bfloat16"))
            dtype = drawn if dtype is None else dtype
            tokens = self.begin()
            shape = (self.shape[0],) if tokens else self.shape
            for _ in range(self.source.randint(1, 5)):
                self.grow()
            loss, targets = self.goal()
            model: nn.Module = nn.Sequential(*self.layers)
        rng = np.random.default_rng(seed)
        # What starts from 0 or 1 would hide that it is not read.
        moved = {
            path: (a + 0.1 * rng.normal(size=a.shape)).astype(a.dtype) for path, a in model.named_parameters().items()
        }
        model = model.replace_parameters(moved)
        if dtype == "bfloat16":  # what layers record stays as it is, so that those which do are not rounded
            model, dtype = (model, "float32") if model.state_leaves() else (_Bfloat16(model), dtype)
        else:
            model = model.astype(dtype)
        fitting = [batch for batch in BATCHES if batch * self.largest <= MOST_AT_ONCE]
        batches = tuple(self.source.sample(fitting, min(3, len(fitting))))
        return Network(seed, dtype, model, shape, tokens, loss, targets, self.optimizer(model), batches)

    def begin(self) -> bool:
        """Draw the shape of an example; whether it is made of tokens."""
        rank = self.pick((1, 2, 2, 3, 3, 3, 3, 3, 4))
        while True:
            sides = tuple(self.pick(IMAGES) for _ in range(rank - 1))
            if rank < 4 and len(sides) > 1 and self.source.random() < 0.6:
                sides = sides[:1] * len(sides)
            self.shape = (*sides, self.pick(CHANNELS))
            if math.prod(self.shape) <= LARGEST // 2:
                break
        if rank == 2 and self.source.random() < 0.4:
            length, features = self.shape
            padding, norm = self.pick((None, None, 0)), self.pick((None, None, None, 2.0))
            self.layers.append(nn.Embedding(VOCABULARY, features, padding, norm))
            if self.source.random() < 0.3:
                self.layers.append(nn.LearnedPositions(length, features))
            return True
        return False

    # --- layers ---

    def grow(self) -> None:
        for _ in range(40):
            before = self.source.getstate()
            made = self.tried(self.pick(self.kinds()))
            if made is not None:
                layer, self.shape = made
                self.layers.append(layer)
                self.largest = max(self.largest, math.prod(self.shape))
                return
            assert self.source.getstate() != before

    def tried(self, make: Callable[[], nn.Module]) -> tuple[nn.Module, Shape] | None:
        """A layer and the shape of its output; None where it refuses, or is too large."""
        try:
            layer = make()
            x = np.zeros((2, *self.shape), np.float32)
            graph = trace(_trained, layer, x, KEY, batch=("x",))
        except (ConfigError, ShapeError):
            return None
        shape = tuple(int(size) for size in graph.outputs[0].shape[1:])
        weights = sum(leaf.size for leaf in leaves(layer))
        positions = math.prod(shape[:-1]) if len(shape) > 1 else 1
        if not 0 < math.prod(shape) <= LARGEST or weights * positions > MOST_WORK or weights > 200_000:
            return None
        return layer, shape

    def kinds(self) -> Sequence[Callable[[], nn.Module]]:
        everywhere = (self.activation, self.activation, self.norm, self.dropout, self.residual, self.joined)
        if len(self.shape) == 1:
            return (*everywhere, self.linear, self.linear, self.linear)
        spatial = (
            *(self.convolution,) * 6,
            *(self.transposed,) * 2,
            *(self.pooling,) * 3,
            self.reshaped,
            self.upsample,
        )
        if len(self.shape) == 2:
            along = (*(self.recurrent,) * 4, *(self.attention,) * 4, self.linear)
            return (*everywhere, *spatial, *along)
        return (*everywhere, *spatial, *((self.fewer_axes,) if self.layers else ()))

    def chance(self, probability: float) -> bool:
        return self.source.random() < probability

    def per_axis(self, values: Sequence[int]) -> Any:
        """One number, or one for each spatial axis."""
        if self.chance(0.7):
            return self.pick(values)
        return tuple(self.pick(values) for _ in self.shape[:-1])

    def ranked(self, name: str) -> Any:
        """The layer for this number of spatial axes."""
        return getattr(nn, f"{name}{len(self.shape) - 1}d")

    def divisor(self, size: int) -> int:
        return self.pick([d for d in range(1, size + 1) if size % d == 0])

    def grouped(self) -> tuple[int, int]:
        """Channels of an output, and groups."""
        inner = self.shape[-1]
        groups = self.pick((1, 1, 1, inner, self.divisor(inner), 2, max(1, inner // 16)))
        fitting = [c for c in CHANNELS if c % groups == 0]
        return self.pick([*fitting, groups, 2 * groups]), groups

    def convolution(self) -> nn.Module:
        outer, groups = self.grouped()
        if self.chance(0.4):
            size = self.pick((3, 3, 3, 5))
            return self.ranked("Conv")(
                self.shape[-1], outer, size, padding=size // 2, groups=groups, bias=self.chance(0.7)
            )
        kernel = self.per_axis((1, 2, 3, 3, 3, 3, 4, 5, 7))
        padding = self.pick((0, 1, 1, "same", self.per_axis((0, 1, 2)), self.lopsided()))
        stride, dilation = self.per_axis((1, 1, 1, 1, 2, 3)), self.per_axis((1, 1, 1, 1, 2, 3))
        mode = self.pick(("zeros", "zeros", "zeros", "reflect", "replicate", "circular"))
        kind = self.ranked("Conv")
        return kind(self.shape[-1], outer, kernel, stride, padding, dilation, groups, self.chance(0.7), mode)

    def lopsided(self) -> tuple[tuple[int, int], ...]:
        return tuple((self.pick((0, 1, 2)), self.pick((0, 1, 2))) for _ in self.shape[:-1])

    def transposed(self) -> nn.Module:
        outer, groups = self.grouped()
        kernel, stride = self.per_axis((1, 2, 3, 3, 4, 4, 5)), self.per_axis((1, 2, 2, 3))
        padding, more = self.per_axis((0, 1, 1, 2)), self.pick((0, 0, 1))
        dilation, kind = self.per_axis((1, 1, 1, 2)), self.ranked("ConvTranspose")
        return kind(self.shape[-1], outer, kernel, stride, padding, more, groups, self.chance(0.7), dilation)

    def pooling(self) -> nn.Module:
        window, stride = self.per_axis((1, 2, 2, 3, 3, 5)), self.pick((None, 1, 2, self.per_axis((1, 2, 3))))
        padding, up = self.per_axis((0, 0, 1)), self.chance(0.4)
        match self.source.randrange(8):
            case 0 | 1 | 2:
                return self.ranked("MaxPool")(window, stride, padding, self.per_axis((1, 1, 2)), ceil_mode=up)
            case 3 | 4:
                divisor = self.pick((None, None, 3))
                return self.ranked("AvgPool")(window, stride, padding, up, self.chance(0.5), divisor)
            case 5:
                return self.ranked("AdaptiveAvgPool")(self.per_axis((1, 2, 3, 5)))
            case 6:
                return self.ranked("AdaptiveMaxPool")(self.per_axis((1, 2, 3, 5)))
            case _:
                # Of values that may be 0 or negative the root has no gradient.
                return nn.Sequential(nn.Softplus(), self.ranked("LPPool")(self.pick((2.0, 3.0)), window, stride, up))

    def upsample(self) -> nn.Module:
        mode = self.pick(("nearest", "linear", "cubic"))
        corners = mode != "nearest" and self.chance(0.5)
        size = self.pick((None, None, self.per_axis((1, 2, 5, 9))))
        return nn.Upsample(self.pick((2, 2, 3, 1.5)), mode, corners, size=size)

    def reshaped(self) -> nn.Module:
        match self.source.randrange(6):
            case 0:
                return nn.ChannelShuffle(self.divisor(self.shape[-1]))
            case 1:
                return nn.PixelShuffle(self.pick((1, 2, 4)))
            case 2:
                return nn.PixelUnshuffle(self.pick((2, 3)))
            case 3:
                return nn.LocalResponseNorm(self.pick((1, 3, 5, 8)), 0.5)
            case 4:
                return nn.FractionalMaxPool2d(self.pick((2, 3)), output_ratio=self.pick((0.5, 0.7)))
            case _:
                return nn.Pad(self.lopsided(), self.pick(("constant", "reflect", "replicate", "circular")), 0.5)

    def fewer_axes(self) -> nn.Module:
        last = self.pick((-1, -2))
        return self.pick((nn.Flatten(1, last), nn.Flatten(1, -2), nn.GlobalAveragePooling()))

    def norm(self) -> nn.Module:
        features, affine, bias = self.shape[-1], self.chance(0.8), self.chance(0.8)
        # A norm over one feature makes a constant of everything.
        match self.source.randrange(6 if features > 1 else 3):
            case 0 | 1:
                return nn.BatchNorm(features, self.pick((0.1, 0.5, None)), 1e-3, affine, self.chance(0.9), bias)
            case 2:
                return nn.GroupNorm(self.divisor(features), features, 1e-3, affine, bias)
            case 3:
                return nn.LayerNorm(self.pick((features, self.shape)), 1e-3, affine, bias)
            case 4:
                return nn.RMSNorm(self.pick((features, self.shape)), 1e-3, affine)
            case _:
                statistics = self.chance(0.5)
                return nn.InstanceNorm(features, 1e-3, affine, track_running_stats=statistics, bias=bias)

    def activation(self) -> nn.Module:
        plain = (nn.ReLU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.SELU, nn.ELU, nn.Mish, nn.Softsign, nn.Hardswish)
        others = (nn.LeakyReLU, nn.Softplus, nn.Hardtanh, nn.Softmax, nn.LogSigmoid, nn.GLU, nn.RReLU, nn.ReLU6)
        made = (partial(nn.GELU, "tanh"), nn.GELU, partial(nn.PReLU, self.shape[-1]), nn.PReLU, nn.Softshrink)
        make: Any = self.pick((*plain, *others, *made))
        return make()

    def dropout(self) -> nn.Module:
        kinds = (nn.Dropout, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
        return self.pick(kinds)(self.pick((0.1, 0.3, 0.5)))

    def residual(self) -> nn.Module:
        """Some layers and a way past them, with a convolution where the shape changes."""
        inside = self.branch(self.source.randint(1, 3))
        made = self.tried(lambda: nn.Residual(inside))
        if made is not None:
            return made[0]
        ends = self.shape[-1], self.branch_shape[-1]
        return nn.Residual(inside, nn.Linear(*ends) if len(self.shape) == 1 else self.ranked("Conv")(*ends, 1))

    def joined(self) -> nn.Module:
        return _Joined(self.branch(self.source.randint(1, 2)), self.branch(1))

    def branch(self, count: int) -> nn.Module:
        """Layers one after another on what there is, which stays."""
        writer = _Writer(self.source)
        writer.shape = self.shape
        for _ in range(count):
            writer.grow()
        self.branch_shape = writer.shape
        return nn.Sequential(*writer.layers)

    def linear(self) -> nn.Module:
        return nn.Linear(self.shape[-1], self.pick((*CHANNELS, 100, 130)), self.chance(0.8))

    def recurrent(self) -> nn.Module:
        kind = self.pick((nn.RNN, nn.LSTM, nn.GRU))
        settings: dict[str, Any] = {"bidirectional": self.chance(0.3), "dropout": self.pick((0.0, 0.0, 0.2))}
        settings |= {"bias": self.chance(0.8), "return_state": False, "return_sequences": self.chance(0.6)}
        if self.chance(0.2):
            settings["truncate"] = self.pick((1, 2, 4))
        if self.chance(0.1):
            settings["stateful"] = max(BATCHES)
        if kind is nn.RNN:
            settings["nonlinearity"] = self.pick(("tanh", "relu"))
        if kind is nn.LSTM and self.chance(0.3):
            settings["proj_size"] = self.pick((1, 5, 16))
        layer = kind(self.shape[-1], self.pick((1, 5, 16, 17, 32, 48)), self.pick((1, 1, 2)), **settings)
        return _Masked(layer) if self.chance(0.2) else layer

    def attention(self) -> nn.Module:
        features = self.shape[-1]
        heads = self.divisor(features)
        settings: dict[str, Any] = {"causal": self.chance(0.4), "rotary": self.chance(0.2)}
        settings |= {"block": self.pick(("auto", "auto", None, 4)), "bias": self.chance(0.8)}
        dropout = self.pick((0.0, 0.0, 0.2))
        if features == 1 or self.chance(0.3):  # the other layers have norms over the features
            layer: nn.Module = nn.MultiheadAttention(features, heads, dropout, **settings)
            return _Masked(layer) if self.chance(0.4) else layer
        kinds = (nn.TransformerEncoderLayer, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
        kind = self.pick(kinds)
        settings |= {"activation": self.pick(("relu", "gelu", "gelu_tanh")), "norm_first": self.chance(0.5)}
        layer = kind(features, heads, self.pick((16, 33, 64)), dropout, eps=1e-3, **settings)
        if kind is nn.TransformerDecoderLayer:
            return _Decoding(layer, features)
        return _Masked(layer) if self.chance(0.3) else layer

    # --- losses and optimisers ---

    def goal(self) -> tuple[Callable[..., Any], Callable[[np.random.Generator, int], np.ndarray]]:
        """A loss, and what makes its targets; often after layers that bring the outputs to a few."""
        while len(self.shape) > 1 and self.chance(0.7):
            self.layers.append(nn.Flatten(1, self.pick((-1, -2))) if self.chance(0.6) else nn.GlobalAveragePooling())
            self.shape = self.after(self.layers[-1])
        if self.chance(0.9) and math.prod(self.shape) * 17 < 200_000:
            self.layers.append(nn.Linear(self.shape[-1], self.pick((1, 2, 4, 10, 17))))
            self.shape = (*self.shape[:-1], int(self.layers[-1].weight.shape[-1]))
        self.largest = max(self.largest, math.prod(self.shape))
        shape, losses = self.shape, nn.losses

        def numbers(rng: np.random.Generator, count: int) -> np.ndarray:
            return rng.normal(size=(count, *shape))

        def bits(rng: np.random.Generator, count: int) -> np.ndarray:
            return rng.integers(0, 2, (count, *shape)).astype(np.float32)

        def classes(rng: np.random.Generator, count: int) -> np.ndarray:
            return rng.integers(0, shape[-1], (count, *shape[:-1]))

        def amounts(rng: np.random.Generator, count: int) -> np.ndarray:
            return rng.integers(0, 5, (count, *shape)).astype(np.float32)

        smoothing = partial(losses.cross_entropy, label_smoothing=0.1)
        ours: list[tuple[Callable[..., Any], Callable[..., np.ndarray]]] = [
            *((losses.squared_error, numbers), (losses.half_squared_error, numbers), (losses.absolute_error, numbers)),
            *((losses.huber, numbers), (partial(losses.smooth_l1, beta=0.5), numbers)),
            *((losses.binary_cross_entropy, bits), (losses.focal, bits), (losses.poisson_nll, amounts)),
        ]
        if shape[-1] > 1:
            ours += [(losses.cross_entropy, classes)] * 6 + [(smoothing, classes), (losses.hinge, classes)]
            ours += [(partial(losses.hinge, p=2), bits), (losses.multilabel_soft_margin, bits)]
        return self.pick(ours)

    def after(self, layer: nn.Module) -> Shape:
        found = trace(_trained, layer, np.zeros((2, *self.shape), np.float32), KEY, batch=("x",)).outputs[0].shape
        return tuple(int(size) for size in found[1:])

    def optimizer(self, model: nn.Module) -> optim.Optimizer:
        """With a large eps, where there is one: a gradient of nothing but rounding errors should make no full steps."""
        matrices = all(array.ndim == 2 for array in model.named_parameters().values())
        rate: Any = self.pick((0.01, 0.01, optim.cosine(0.02, 10), optim.warmup(3, 0.02)))
        plain = self.pick(
            (
                *(partial(optim.SGD, rate), partial(optim.SGD, rate, 0.9), partial(optim.SGD, rate, 0.9, True, 0.01)),
                *(partial(optim.Adam, rate, eps=1e-3), partial(optim.Adam, rate, eps=1e-3, amsgrad=True)),
                *(partial(optim.AdamW, rate, eps=1e-3), partial(optim.RMSProp, rate, eps=1e-3, centered=True)),
                *(partial(optim.Adagrad, rate, eps=1e-3), partial(optim.Adadelta, rate, eps=1e-3)),
                *(partial(optim.Adamax, rate, eps=1e-3), partial(optim.NAdam, rate, eps=1e-3)),
                *(partial(optim.RAdam, rate, eps=1e-3), partial(optim.LAMB, rate, eps=1e-3)),
                *(partial(optim.Adafactor, rate), partial(optim.ASGD, rate)),
                *(partial(optim.Lion, rate), optim.Rprop),
                *([partial(optim.Muon, rate)] * 6 if matrices else ()),
            )
        )()
        match self.source.randrange(6):
            case 0:
                return optim.chain(optim.clip_by_global_norm(self.pick((0.1, 10.0))), plain)
            case 1:
                return optim.chain(optim.clip_by_value(self.pick((0.01, 1.0))), plain)
            case 2:
                return self.pick((optim.accumulate(plain, 2), optim.average(plain, 0.9)))
            case _:
                return plain


def _trained(layer: nn.Module, x: Any, key: Any) -> Any:
    with using_key(key), nn.collect_state():
        return layer(x, training=True)
