"""PyTorch, eager and compiled.

The functional interface, PyTorch's own Adam with ``fused=True``, and for images the faster of its two memory layouts.
Compiled: forward and loss, from which the compiled backward pass follows; the fused update stays as it is, one kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from bench.peers.torch_networks import (
    IMAGES,
    NETWORKS,
    Parameters,
    discriminator,
    generator,
    lay_out,
    running_statistics,
)
from bench.steps import Contestant, OneProduct, PerCall
from bench.workloads import Product, Workload

_LAYOUTS = (torch.contiguous_format, torch.channels_last)
_TRIALS = 5

Step = Callable[[int], float]


def build(workload: Workload | Product, form: str) -> Contestant:
    if isinstance(workload, Product):
        return _product(workload, compiled=form == "compile")
    layouts = _LAYOUTS if workload.network in IMAGES else _LAYOUTS[:1]
    makers: list[Callable[[], Step]] = [lambda layout=layout: _step(workload, layout, form) for layout in layouts]
    return PerCall(workload, _fastest(makers))


def _fastest(makers: list[Callable[[], Step]]) -> Step:
    """The step of the maker whose steps are fastest, from its initial weights."""
    if len(makers) == 1:
        return makers[0]()
    times = []
    for make in makers:
        step = make()
        step(0)
        began = time.perf_counter()
        for k in range(_TRIALS):
            step(k)
        times.append(time.perf_counter() - began)
    return makers[times.index(min(times))]()


def _step(workload: Workload, layout: torch.memory_format, form: str) -> Step:
    parameters, state = _parameters(workload, layout), running_statistics(workload.initial())
    batches = _batches(workload, layout)
    if workload.loss == "adversarial":
        return _adversarial(workload, parameters, state, batches, compiled=form == "compile")
    loss = _loss(workload, state)
    if form == "compile":
        loss = torch.compile(loss, dynamic=False)
    if workload.optimizer == "sgd":
        return _sgd(workload, parameters, loss, batches)
    optimizer = torch.optim.Adam(parameters.values(), workload.rate, workload.betas, fused=True)

    def step(number: int) -> float:
        value = loss(parameters, *batches[number])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def _sgd(workload: Workload, parameters: Parameters, loss: Any, batches: list[Any]) -> Step:
    """Plain gradient descent written by hand, which has less overhead than the optimiser class."""
    leaves = list(parameters.values())

    def step(number: int) -> float:
        value = loss(parameters, *batches[number])
        gradients = torch.autograd.grad(value, leaves)
        with torch.no_grad():
            torch._foreach_add_(leaves, gradients, alpha=-workload.rate)
        return value.item()

    return step


def _loss(workload: Workload, state: Parameters) -> Any:
    forward = NETWORKS[workload.network]

    def squared_error(p: Parameters, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(forward(p, state, x), y)

    def cross_entropy(p: Parameters, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = forward(p, state, x)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))

    return {"squared_error": squared_error, "cross_entropy": cross_entropy}[workload.loss]


def _adversarial(
    workload: Workload, parameters: Parameters, state: Parameters, batches: list[Any], compiled: bool
) -> Step:
    """One update of the discriminator, then one of the generator against the new discriminator; the sum of their losses."""
    makers, judges = ([p for name, p in parameters.items() if name.startswith(letter)] for letter in "gd")
    first, second = (torch.optim.Adam(group, workload.rate, workload.betas, fused=True) for group in (judges, makers))

    def towards(p: Parameters, images: torch.Tensor, goal: float) -> torch.Tensor:
        logits = discriminator(p, state, images)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, goal))

    def judge(p: Parameters, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return towards(p, real, 1.0) + towards(p, made, 0.0)

    def make(p: Parameters, z: torch.Tensor) -> torch.Tensor:
        return generator(p, state, z)

    def deceive(p: Parameters, made: torch.Tensor) -> torch.Tensor:
        return towards(p, made, 1.0)

    if compiled:
        judge, make, deceive = (torch.compile(f, dynamic=False) for f in (judge, make, deceive))

    def step(number: int) -> float:
        z, real = batches[number]
        made = make(parameters, z)
        judged = judge(parameters, made.detach(), real)
        for p, g in zip(judges, torch.autograd.grad(judged, judges)):
            p.grad = g
        first.step()
        deceived = deceive(parameters, made)
        for p, g in zip(makers, torch.autograd.grad(deceived, makers)):
            p.grad = g
        second.step()
        return (judged.detach() + deceived.detach()).item()

    return step


def _parameters(workload: Workload, layout: torch.memory_format) -> Parameters:
    found = {name: torch.from_numpy(lay_out(name, weight).copy()) for name, weight in workload.initial().items()}
    found = {name: p.to(memory_format=layout) if p.ndim == 4 else p for name, p in found.items()}
    return {name: p.requires_grad_() for name, p in found.items()}


def _batches(workload: Workload, layout: torch.memory_format) -> list[tuple[torch.Tensor, torch.Tensor]]:
    def prepared(batch: torch.Tensor) -> torch.Tensor:
        return batch.permute(0, 3, 1, 2).contiguous(memory_format=layout) if batch.ndim == 4 else batch

    x, y = (torch.from_numpy(array).split(workload.batch) for array in workload.data())
    return [(prepared(a), prepared(b)) for a, b in zip(x, y)]


# --- single products --------------------------------------------------------------------------------------------------


def _product(product: Product, compiled: bool) -> Contestant:
    left, right = (torch.from_numpy(array) for array in product.operands())
    if left.ndim == 2:
        matrices = {
            "forward": lambda a, b: a @ b,
            "input-gradient": lambda g, w: g @ w.T,
            "weight-gradient": lambda x, g: x.T @ g,
        }[product.role]
        function = torch.compile(matrices, dynamic=False) if compiled else matrices
        return OneProduct(product, lambda: function(left, right), lambda result: result.numpy())
    return _convolution(product, left, right, compiled)


def _convolution(product: Product, left: torch.Tensor, right: torch.Tensor, compiled: bool) -> Contestant:
    """In the faster of the two memory layouts."""
    images, weight = (0, 3, 1, 2), (3, 2, 0, 1)
    axes = {"forward": (images, weight), "input-gradient": (images, weight), "weight-gradient": (images, images)}
    result_axes = (2, 3, 1, 0) if product.role == "weight-gradient" else (0, 2, 3, 1)
    function = _convolution_role(product)
    if compiled:
        function = torch.compile(function, dynamic=False)
    candidates = []
    for layout in _LAYOUTS:
        a, b = (
            array.permute(order).contiguous(memory_format=layout)
            for array, order in zip((left, right), axes[product.role])
        )
        function(a, b)
        began = time.perf_counter()
        for _ in range(_TRIALS):
            function(a, b)
        candidates.append((time.perf_counter() - began, a, b))
    _, a, b = min(candidates, key=lambda candidate: candidate[0])
    return OneProduct(product, lambda: function(a, b), lambda result: result.permute(result_axes).numpy())


def _convolution_role(product: Product) -> Any:
    """The product itself, or the call that PyTorch's own backward pass makes for one gradient."""
    stride, pads, none = [product.stride] * 2, [1, 1], [0, 0]
    if product.role == "forward":
        return lambda x, w: F.conv2d(x, w, stride=stride, padding=pads)
    if product.role == "input-gradient":
        n, h, w, c = product.input

        def input_gradient(g: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            x = torch.empty(1).expand(n, c, h, w)
            return torch.ops.aten.convolution_backward(
                g, x, weight, None, stride, pads, [1, 1], False, none, 1, [True, False, False]
            )[0]

        return input_gradient
    kh, kw, inner, outer = product.weight

    def weight_gradient(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        weight = torch.empty(1).expand(outer, inner, kh, kw)
        return torch.ops.aten.convolution_backward(
            g, x, weight, None, stride, pads, [1, 1], False, none, 1, [False, True, False]
        )[1]

    return weight_gradient
