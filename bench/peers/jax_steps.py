"""JAX: the whole step under ``jit`` with donated state; ``lax.scan`` over the epoch where ours runs an epoch in one call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.peers.jax_networks import NETWORKS, convolution, discriminator, generator, running_statistics
from bench.steps import Contestant, OneProduct, PerCall, WholeEpoch
from bench.workloads import ADAM_EPSILON, Product, Workload

Tree = Any


def build(workload: Workload | Product, form: str) -> Contestant:
    if isinstance(workload, Product):
        return _product(workload)
    initial = workload.initial()
    p = {name: jnp.asarray(weight) for name, weight in initial.items()}
    state = {"p": p, "running": running_statistics(initial), "adam": _adam_state(p, workload)}
    x, y = workload.data()
    update = _adversarial(workload) if workload.loss == "adversarial" else _update(workload)
    return _whole_epoch(workload, update, state, x, y) if workload.epoch else _per_call(workload, update, state, x, y)


def _per_call(workload: Workload, update: Any, state: Tree, x: Any, y: Any) -> Contestant:
    compiled = jax.jit(update, donate_argnums=0)
    cuts = range(workload.batch, len(x), workload.batch)
    batches = [(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(np.split(x, cuts), np.split(y, cuts))]

    def step(number: int) -> float:
        nonlocal state
        state, loss = compiled(state, batches[number])
        return float(loss)

    return PerCall(workload, step)


def _whole_epoch(workload: Workload, update: Any, state: Tree, x: Any, y: Any) -> Contestant:
    batches = tuple(jnp.asarray(a.reshape(workload.batches, workload.batch, *a.shape[1:])) for a in (x, y))
    compiled = jax.jit(lambda state, batches: lax.scan(update, state, batches), donate_argnums=0)

    def epoch() -> Any:
        nonlocal state
        state, losses = compiled(state, batches)
        return np.asarray(losses)

    return WholeEpoch(workload, epoch)


# --- steps ------------------------------------------------------------------------------------------------------------


def _update(workload: Workload) -> Any:
    forward = NETWORKS[workload.network]

    def objective(p: Tree, running: Tree, x: Any, y: Any) -> Any:
        outputs, running = forward(p, running, x)
        if workload.loss == "squared_error":
            return ((outputs - y) ** 2).mean(), running
        chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), y[..., None], -1)
        return -chosen.mean(), running

    def update(state: Tree, batch: Any) -> Any:
        p = state["p"]
        (loss, running), slopes = jax.value_and_grad(objective, has_aux=True)(p, state["running"], *batch)
        if workload.optimizer == "sgd":
            p = {name: p[name] - workload.rate * g for name, g in slopes.items()}
            return {**state, "p": p, "running": running}, loss
        p, adam = _adam(workload, p, slopes, state["adam"])
        return {"p": p, "running": running, "adam": adam}, loss

    return update


def _adversarial(workload: Workload) -> Any:
    """One update of the discriminator, then one of the generator against the new discriminator; the sum of their losses."""

    def towards(p: Tree, running: Tree, images: Any, goal: float) -> Any:
        logits, running = discriminator(p, running, images)
        return (jax.nn.softplus(logits) - goal * logits).mean(), running

    def judge(judges: Tree, running: Tree, made: Any, real: Any) -> Any:
        first, running = towards(judges, running, real, 1.0)
        second, running = towards(judges, running, made, 0.0)
        return first + second, running

    def update(state: Tree, batch: Any) -> Any:
        z, real = batch
        makers, judges = ({k: w for k, w in state["p"].items() if k.startswith(letter)} for letter in "gd")
        made, pull, running = jax.vjp(lambda p: generator(p, state["running"], z), makers, has_aux=True)
        (judged, running), slopes = jax.value_and_grad(judge, has_aux=True)(judges, running, made, real)
        judges, judges_adam = _adam(workload, judges, slopes, state["adam"])
        (deceived, running), slope = jax.value_and_grad(
            lambda images: towards(judges, running, images, 1.0), has_aux=True
        )(made)
        makers, makers_adam = _adam(workload, makers, pull(slope)[0], state["adam"])
        adam = {
            "t": makers_adam["t"],
            "m": judges_adam["m"] | makers_adam["m"],
            "v": judges_adam["v"] | makers_adam["v"],
        }
        return {"p": makers | judges, "running": running, "adam": adam}, judged + deceived

    return update


def _adam_state(p: Tree, workload: Workload) -> Tree:
    if workload.optimizer == "sgd":
        return {}
    zeros = {name: jnp.zeros_like(w) for name, w in p.items()}
    return {"t": jnp.float32(0), "m": zeros, "v": jax.tree.map(jnp.copy, zeros)}


def _adam(workload: Workload, p: Tree, slopes: Tree, state: Tree) -> tuple[Tree, Tree]:
    """The parameters named in ``p`` after an update, and their part of the optimiser's state."""
    b1, b2 = workload.betas
    t = state["t"] + 1
    m = {k: b1 * state["m"][k] + (1 - b1) * g for k, g in slopes.items()}
    v = {k: b2 * state["v"][k] + (1 - b2) * g * g for k, g in slopes.items()}
    root = jnp.sqrt(1 - b2**t)
    rate, small = workload.rate * root / (1 - b1**t), ADAM_EPSILON * root
    return {k: w - rate * m[k] / (jnp.sqrt(v[k]) + small) for k, w in p.items()}, {"t": t, "m": m, "v": v}


# --- single products --------------------------------------------------------------------------------------------------


def _product(product: Product) -> Contestant:
    if len(product.weight) == 2:
        forward = jnp.matmul
    else:

        def forward(x: Any, w: Any) -> Any:
            return convolution(x, w, product.stride)

    def like(shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def role(a: Any, b: Any) -> Any:
        if product.role == "forward":
            return forward(a, b)
        if product.role == "input-gradient":
            return jax.linear_transpose(lambda x: forward(x, b), like(product.input))(a)[0]
        return jax.linear_transpose(lambda w: forward(a, w), like(product.weight))(b)[0]

    compiled = jax.jit(role)
    left, right = map(jnp.asarray, product.operands())
    return OneProduct(product, lambda: compiled(left, right).block_until_ready(), np.asarray)
