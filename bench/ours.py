"""Our side, through the public interface, on the cpu engine.

Per-call rows are a compiled step with donated state, as the documentation writes one; rows in which an epoch is one call are the
same step's :meth:`repeat`, which is what :meth:`Trainer.fit` calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

import chainrule as cr
from bench.steps import Contestant, NotApplicableError, OneProduct, PerCall, WholeEpoch
from bench.workloads import Product, Workload
from chainrule import nn, optim
from chainrule.nn import models

ENGINE = "cpu"

LOSSES = {"squared_error": nn.losses.squared_error, "cross_entropy": nn.losses.cross_entropy}


def build(workload: Workload | Product, form: str) -> Contestant:
    if isinstance(workload, Product):
        return _product(workload)
    return WholeEpoch(workload, _epoch(workload)) if workload.epoch else PerCall(workload, _step(workload))


# --- networks ---------------------------------------------------------------------------------------------------------


def _dense(activation: type[nn.Module], last: bool) -> Callable[[Any], nn.Module]:
    """Layers with an activation between them, and after the last where asked for."""

    def make(shapes: list[tuple[int, ...]]) -> nn.Module:
        layers: list[nn.Module] = []
        for inner, outer in (shape for shape in shapes if len(shape) == 2):
            layers += [nn.Linear(inner, outer), activation()]
        return nn.Sequential(*(layers if last else layers[:-1]))

    return make


def _lenet(shapes: Any) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def _recurrent(layer: type[nn.Module]) -> Callable[[Any], nn.Module]:
    return lambda shapes: nn.Sequential(layer(32, 128, return_sequences=False, return_state=False), nn.Linear(128, 10))


class _OfTokens(nn.Module):
    """Embeddings, layers with the norm first, a last norm, and a linear layer at every position or on their mean."""

    def __init__(self, vocabulary: int, layers: int, outputs: int, activation: Any, causal: bool) -> None:
        self.tokens = nn.Embedding(vocabulary, 128)
        self.positions = nn.LearnedPositions(128, 128)
        self.blocks = nn.TransformerEncoder(
            128, 4, layers, 512, dropout=0.0, activation=activation, norm_first=True, causal=causal
        )
        self.fc = nn.Linear(128, outputs)
        self.causal = causal

    def forward(self, tokens: Any) -> Any:
        hidden = self.blocks(self.positions(self.tokens(tokens)))
        return self.fc(hidden if self.causal else hidden.mean(1))


# Where our layers keep what the list of initial weights calls otherwise.
_RENAMED = (
    (r"^block(\d+)\.", r"blocks.layers.\1."),
    (r"^norm\.", "blocks.norm."),
    (r"\.qkv\.", ".self_attn.in_"),
    (r"\.out\.", ".self_attn.out_proj."),
    (r"\.up\.", ".linear1."),
    (r"\.down\.", ".linear2."),
)


NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "sigmoid": _dense(nn.Sigmoid, last=True),
    "relu": _dense(nn.ReLU, last=False),
    "lenet": _lenet,
    "resnet20": lambda shapes: models.resnet20(),
    "lstm": _recurrent(nn.LSTM),
    "gru": _recurrent(nn.GRU),
    "encoder": lambda shapes: _OfTokens(5000, 2, 10, "relu", causal=False),
    "gpt": lambda shapes: _OfTokens(256, 4, 256, "gelu", causal=True),
}


def model_of(workload: Workload) -> nn.Module:
    """The network with the initial weights in it; raises :class:`NotApplicableError` where there is no such layer."""
    if workload.network not in NETWORKS:
        raise NotApplicableError(f"Chainrule has no layers for {workload.network} yet")
    if workload.network in ("encoder", "gpt"):
        named = {_renamed(name): array for name, array in workload.initial().items()}
        model = NETWORKS[workload.network](())
        return _with_weights(model, [named.pop(path) for path in model.named_parameters()])
    initial = list(workload.initial().values())
    return _with_weights(NETWORKS[workload.network]([w.shape for w in initial]), initial)


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def _with_weights(model: nn.Module, arrays: list[Any]) -> nn.Module:
    """The model with these parameters, which come in the order in which it holds them."""
    return model.replace_parameters(dict(zip(model.named_parameters(), arrays, strict=True)))


def optimizer_of(workload: Workload) -> optim.Optimizer:
    return optim.Adam(workload.rate, workload.betas) if workload.optimizer == "adam" else optim.SGD(workload.rate)


# --- a step per call --------------------------------------------------------------------------------------------------


def _step(workload: Workload) -> Callable[[int], float]:
    train_step, state = _training(workload)
    # A state of a few numbers is sooner made anew than watched for being used again.
    donate = () if workload.network == "sigmoid" else ("state",)
    compiled = cr.compile(train_step, donate=donate, batch=("x", "y"), engine=ENGINE)
    x, y = workload.data()
    size = workload.batch
    batches = [(x[k : k + size], y[k : k + size]) for k in range(0, len(x), size)]

    def step(number: int) -> float:
        nonlocal state
        state, value = compiled(state, *batches[number])
        return float(value)

    return step


def _training(workload: Workload) -> tuple[Callable[..., Any], Any]:
    """A step ``(state, x, y) -> (state, loss)``, and the first state."""
    if workload.network == "sigmoid":
        return _plain(workload)
    return (_adversarial if workload.loss == "adversarial" else _supervised)(workload)


def _plain(workload: Workload) -> tuple[Callable[..., Any], Any]:
    """Sigmoid layers as functions of a dict of arrays and gradient descent written out, as in the peers."""
    rate, initial = workload.rate, dict(workload.initial())
    layers = len(initial) // 2

    def objective(weights: Any, x: Any, y: Any) -> Any:
        for k in range(layers):
            x = cr.sigmoid(x @ weights[f"{k}.weight"] + weights[f"{k}.bias"])
        return cr.square(x - y).mean()

    def train_step(state: Any, x: Any, y: Any) -> Any:
        value, slopes = cr.value_and_grad(objective)(state, x, y)
        return {name: w - rate * slopes[name] for name, w in state.items()}, value

    return train_step, initial


def _supervised(workload: Workload) -> tuple[Callable[..., Any], Any]:
    """A step ``(state, x, y) -> (state, loss)``, and the first state."""
    loss, optimizer, model = LOSSES[workload.loss], optimizer_of(workload), model_of(workload)

    def objective(model: nn.Module, x: Any, y: Any) -> Any:
        return loss(model(x, training=True), y)

    def train_step(state: Any, x: Any, y: Any) -> Any:
        (value, model), gradients = cr.value_and_grad(objective, state=True)(state["model"], x, y)
        model, memory = _updated(optimizer, model, gradients, state["optimizer"])
        return {"model": model, "optimizer": memory}, value

    return train_step, {"model": model, "optimizer": optimizer.init(model.named_parameters())}


def _updated(optimizer: optim.Optimizer, model: nn.Module, gradients: nn.Module, memory: Any) -> tuple[nn.Module, Any]:
    parameters = model.named_parameters()
    updates, memory = optimizer.update(gradients.named_parameters(), memory, parameters)
    return model.replace_parameters(optim.apply_updates(parameters, updates)), memory


def _adversarial(workload: Workload) -> tuple[Callable[..., Any], Any]:
    """One update of the discriminator, then one of the generator against the new discriminator; the sum of their losses."""
    initial = workload.initial()
    generator, discriminator = (
        _with_weights(model, [w for name, w in initial.items() if name.startswith(letter)])
        for letter, model in (("g", models.DCGANGenerator(32)), ("d", models.DCGANDiscriminator(32)))
    )
    optimizer = optimizer_of(workload)

    def towards(discriminator: nn.Module, images: Any, goal: float) -> Any:
        logits = discriminator(images, training=True)
        return nn.losses.binary_cross_entropy(logits, 0 * logits + goal)

    def judge(discriminator: nn.Module, made: Any, real: Any) -> Any:
        return towards(discriminator, real, 1.0) + towards(discriminator, made, 0.0)

    def deceive(pair: Any, z: Any) -> Any:
        return towards(pair["discriminator"], pair["generator"](z, training=True), 1.0)

    def train_step(state: Any, x: Any, y: Any) -> Any:
        generator, discriminator = state["generator"], state["discriminator"]
        with nn.collect_state():  # the same images are made again below, once for both in the compiled step
            made = generator(x, training=True)
        (judged, discriminator), slopes = cr.value_and_grad(judge, state=True)(discriminator, made, y)
        discriminator, judging = _updated(optimizer, discriminator, slopes, state["judging"])
        pair = {"generator": generator, "discriminator": discriminator}
        (deceived, pair), slopes = cr.value_and_grad(deceive, state=True)(pair, x)
        generator, making = _updated(optimizer, pair["generator"], slopes["generator"], state["making"])
        return {
            "generator": generator,
            "discriminator": pair["discriminator"],
            "making": making,
            "judging": judging,
        }, judged + deceived

    return train_step, {
        "generator": generator,
        "discriminator": discriminator,
        "making": optimizer.init(generator.named_parameters()),
        "judging": optimizer.init(discriminator.named_parameters()),
    }


# --- an epoch per call ------------------------------------------------------------------------------------------------


def _epoch(workload: Workload) -> Callable[[], Any]:
    """All steps of an epoch in one call of the compiled step; returns their losses."""
    train_step, state = _training(workload)
    compiled = cr.compile(train_step, donate=("state",), batch=("x", "y"), engine=ENGINE)
    x, y = workload.data()
    size, steps = workload.batch, workload.batches

    def epoch() -> Any:
        nonlocal state
        state, losses = compiled.repeat((state, x, y), carry="state", steps=steps, batch=size)
        return losses

    return epoch


# --- single products --------------------------------------------------------------------------------------------------


def _product(product: Product) -> Contestant:
    forward, left, right = _forward(product), *product.operands()
    function = {
        "forward": forward,
        "input-gradient": lambda g, w: _pulled(forward, np.zeros(product.input, np.float32), w, g, 0),
        "weight-gradient": lambda x, g: _pulled(forward, x, np.zeros(product.weight, np.float32), g, 1),
    }[product.role]
    compiled = cr.compile(function, engine=ENGINE)
    return OneProduct(product, lambda: compiled(left, right), np.asarray)


def _forward(product: Product) -> Callable[[Any, Any], Any]:
    if len(product.weight) == 2:
        return cr.matmul
    return lambda x, w: cr.convolution(x, w, stride=product.stride, padding=1)


def _pulled(forward: Callable[[Any, Any], Any], x: Any, w: Any, cotangent: Any, which: int) -> Any:
    """The gradient of a product by one factor alone; the value of that factor does not matter."""
    return cr.vjp(forward, x, w, cotangents=cotangent)[1][which]
