"""Scaled dot-product attention against PyTorch, plain and in blocks: values, gradients, masks, memory, second derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
N, H, T, S, D, E = 2, 3, 7, 5, 4, 6
Q, K, V = RNG.normal(size=(N, H, T, D)), RNG.normal(size=(N, H, S, D)), RNG.normal(size=(N, H, S, E))
PAIRS = RNG.random((N, 1, T, S)) > 0.4
PAIRS[0, 0, 2] = False  # a query that may attend to nothing
KEYS = np.array([True, True, False, True, False])
PROBE = RNG.normal(size=(N, H, T, E))
MASKS = {"none": None, "pairs": PAIRS, "keys": KEYS, "numbers": PAIRS.astype(np.int32)}


def expected(mask: NDArray | None, causal: bool) -> list[NDArray]:
    leaves = [torch.tensor(x, requires_grad=True) for x in (Q, K, V)]
    allowed = np.ones((N, 1, T, S), bool) if mask is None else np.broadcast_to(mask != 0, (N, 1, T, S))
    if causal:
        allowed = allowed & np.tril(np.ones((T, S), bool))
    out = torch.nn.functional.scaled_dot_product_attention(*leaves, torch.tensor(allowed))
    (out * torch.tensor(PROBE)).sum().backward()
    return [out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]  # type: ignore[union-attr]


def loss(q: Any, k: Any, v: Any, **settings: Any) -> Any:
    out = cr.scaled_dot_product_attention(q, k, v, **settings)
    return (out * PROBE).sum(), out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [None, 3, 7, 100])
@pytest.mark.parametrize("mask", MASKS)
def test_it_equals_pytorch(mask: str, block: int | None, causal: bool) -> None:
    settings = {"mask": MASKS[mask], "block": block, "causal": causal}
    (_, out), found = cr.value_and_grad(lambda *x: loss(*x, **settings), (0, 1, 2), has_aux=True)(Q, K, V)
    for one, other in zip([out, *found], expected(MASKS[mask], causal), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", [None, 3])
def test_the_cpu_engine_agrees_for_any_batch_size(block: int | None) -> None:
    def step(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return cr.value_and_grad(
            lambda *x: cr.square(cr.scaled_dot_product_attention(*x, mask, block=block)).sum(), (0, 1)
        )(q, k, v)

    programs = [cr.compile(step, engine=engine, batch=("q", "k", "v", "mask")) for engine in ("reference", "cpu")]
    for count in (1, 2):
        found = [program(Q[:count], K[:count], V[:count], PAIRS[:count]) for program in programs]
        for one, other in zip([found[0][0], *found[0][1]], [found[1][0], *found[1][1]], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_mask_of_floats_is_added_and_scale_is_an_argument() -> None:
    bias = RNG.normal(size=(H, T, S))
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(x) for x in (Q, K, V)), torch.tensor(bias)[None], scale=0.3
    )
    np.testing.assert_allclose(cr.scaled_dot_product_attention(Q, K, V, bias, scale=0.3), theirs.numpy(), rtol=1e-10)
    weights = cr.attention_weights(Q, K, bias, scale=0.3)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(weights @ V, theirs.numpy(), rtol=1e-10)


def test_scores_of_any_size_do_not_overflow() -> None:
    for block in (None, 2):
        found = cr.scaled_dot_product_attention(1e4 * Q.astype(np.float32), 1e4 * K.astype(np.float32), V, block=block)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("causal", [False, True])
def test_second_derivatives_through_the_rule_of_blocks(causal: bool) -> None:
    def penalty(block: int | None) -> Any:
        def first(q: Any, k: Any, v: Any) -> Any:
            out = lambda q, k, v: cr.square(cr.scaled_dot_product_attention(q, k, v, PAIRS, causal=causal, block=block))  # noqa: E731
            return sum(cr.square(g).sum() for g in cr.grad(lambda *x: out(*x).sum(), (0, 1, 2))(q, k, v))

        return cr.grad(first, (0, 1, 2))(Q, K, V)

    for one, other in zip(penalty(3), penalty(None), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-11)


def test_memory_in_blocks_is_linear_in_the_length() -> None:
    sizes = {}
    for length in (128, 256, 512):
        x = np.ones((1, 1, length, 8), np.float32)
        for block in (None, 16):
            step = cr.compile(
                lambda x, block=block: cr.grad(
                    lambda x: cr.square(cr.scaled_dot_product_attention(x, x, x, block=block)).sum()
                )(x),
                engine="cpu",
            )
            step(x)
            sizes[length, block] = sum(CPU.load(step.graph).working_bytes(1))
    assert sizes[512, 16] < 2.2 * sizes[256, 16] < 2.2**2 * sizes[128, 16]
    assert sizes[512, None] > 3.5 * sizes[256, None]
    assert sizes[512, 16] < sizes[512, None] / 4


def test_rule_sets_see_attention_in_blocks_as_one_operation() -> None:
    graph = cr.trace(lambda q, k, v: cr.scaled_dot_product_attention(q, k, v, block=4), Q, K, V)
    (call,) = [node for node in graph.nodes if node.primitive.name == "call"]
    assert call.attributes["label"] == "attention"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"queries \(\.\.\., T, d\).*\(2, 3, 7, 4\), \(2, 3, 5, 6\), \(2, 3, 5, 6\)"):
        cr.scaled_dot_product_attention(Q, V, V)
    with pytest.raises(
        ShapeError, match=r"mask of shape \(5, 7\) does not fit attention scores of shape \(2, 3, 7, 5\)"
    ):
        cr.scaled_dot_product_attention(Q, K, V, np.ones((S, T), bool))
    with pytest.raises(ConfigError, match="attention in blocks takes boolean masks"):
        cr.scaled_dot_product_attention(Q, K, V, np.zeros((T, S)), block=2)
    with pytest.raises(ConfigError, match="block is a number of queries of at least 1, not 0"):
        cr.scaled_dot_product_attention(Q, K, V, block=0)
