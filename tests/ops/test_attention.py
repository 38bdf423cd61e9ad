"""Scaled dot-product attention against PyTorch, plain and in blocks: values, gradients, masks, memory, second derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.engines.cpu.lowering import lower
from chainrule.ir.sizes import at, is_symbolic, product

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


def long_operands(rows: int = 2, length: int = 200, keys: int = 230) -> list[NDArray]:
    rng = np.random.default_rng(rows)
    return [rng.normal(size=(rows, 2, n, D)) for n in (length, keys, keys)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", ["none", "lengths", "heads", "pairs"])
def test_long_sequences_take_blocks_by_themselves(keys: str, causal: bool) -> None:
    q, k, v = long_operands()
    T, S = q.shape[2], k.shape[2]
    mask = {
        "none": None,
        "lengths": np.arange(S) < np.array([3, 170])[:, None, None, None],
        "heads": np.arange(S) < np.array([100, 170])[None, :, None, None],
        "pairs": RNG.random((T, S)) > 0.5,
    }[keys]

    def step(q: Any, k: Any, v: Any, *mask: Any, block: Any = "auto") -> Any:
        return cr.value_and_grad(
            lambda *x: cr.square(cr.scaled_dot_product_attention(*x, *mask, causal=causal, block=block)).sum(),
            (0, 1, 2),
        )(q, k, v)

    given = [] if mask is None else [mask]
    wanted, gradients = step(q, k, v, *given, block=None)
    batch = ("q", "k", "v", "given") if keys == "lengths" else ("q", "k", "v")

    def packed(q: Any, k: Any, v: Any, given: Any) -> Any:
        return step(q, k, v, *given)

    programs = [packed, cr.compile(packed, engine="cpu", batch=batch)]
    if not causal:  # what is compiled for one batch size differs in sizes only, and takes as long
        programs.append(cr.compile(packed, engine="cpu"))
    for program in programs:
        value, found = program(q, k, v, given)
        np.testing.assert_allclose(value, wanted, rtol=1e-10)
        for one, other in zip(found, gradients, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    graph = cr.trace(lambda *x: cr.scaled_dot_product_attention(*x), q, k, v)
    assert sum(node.primitive.name == "call" for node in graph.nodes) == 1
    for few in ((q[:, :, :15], k, v), (q, k[:, :, :15], v[:, :, :15])):
        graph = cr.trace(lambda *x: cr.scaled_dot_product_attention(*x), *few)
        assert all(node.primitive.name != "call" for node in graph.nodes)


@pytest.mark.parametrize("block", [None, 32, "auto"])
@pytest.mark.parametrize("causal", [False, True])
def test_dropped_weights_are_the_same_in_both_passes(block: int | str | None, causal: bool) -> None:
    """Values that are the columns of the identity show the weights that are left; with these the plain formula must agree."""
    q, k, _ = long_operands(3, 200, 200)
    key, rate, size = np.array([1, 2], np.uint32), 0.3, k.shape[2]
    v = np.random.default_rng(5).normal(size=(*k.shape[:3], 6))

    def attend(q: Any, k: Any, v: Any) -> Any:
        return cr.scaled_dot_product_attention(
            q, k, v, causal=causal, dropout=rate, dropout_key=key, block=block, scale=0.4
        )

    left = np.asarray(attend(q, k, np.broadcast_to(np.eye(size), (*k.shape[:2], size, size))))
    weights = np.asarray(cr.attention_weights(q, k, causal=causal, scale=0.4))
    kept = left != 0
    np.testing.assert_allclose(left, np.where(kept, weights / (1 - rate), 0), rtol=1e-9, atol=1e-15)
    allowed = np.broadcast_to(np.tril(np.ones((size, size), bool)) if causal else True, kept.shape)
    assert abs(kept[allowed].mean() - (1 - rate)) < 0.01
    patterns = kept.reshape(-1, size, size)
    assert len({pattern.tobytes() for pattern in patterns}) == len(patterns), "heads and examples draw their own bits"

    leaves = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
    scores = leaves[0] @ leaves[1].mT * 0.4
    theirs = scores.masked_fill(~torch.tensor(allowed.copy()), -torch.inf).softmax(-1)
    out = (theirs * torch.tensor(kept) / (1 - rate)) @ leaves[2]
    out.square().sum().backward()

    def step(q: Any, k: Any, v: Any) -> Any:
        return cr.value_and_grad(lambda *x: cr.square(attend(*x)).sum(), (0, 1, 2))(q, k, v)

    programs = [step, cr.compile(step, engine="cpu", batch=("q", "k", "v"))]
    if block == "auto":
        programs.append(cr.compile(step, engine="cpu"))
    for program in programs:
        value, found = program(q, k, v)
        np.testing.assert_allclose(value, out.square().sum().item(), rtol=1e-10)
        for one, leaf in zip(found, leaves, strict=True):
            np.testing.assert_allclose(one, leaf.grad.numpy(), rtol=1e-9, atol=1e-12)  # type: ignore[union-attr]


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


def step_of_a_layer(length: int, causal: bool, training: bool) -> Any:
    """The graph of a step of self-attention with 3 heads of 4 features, for any batch size."""
    layer = cr.nn.MultiheadAttention(12, 3, causal=causal)
    x = np.zeros((2, length, 12), np.float32)

    def step(layer: Any, x: Any) -> Any:
        if not training:
            return layer(x)
        return cr.value_and_grad(lambda layer, x: cr.square(layer(x)).sum(), (0, 1))(layer, x)

    return cr.compile(step, batch=("x",), engine="cpu").graph_and_arrays(layer, x)[0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [16, 48, 100, 128, 256])
def test_the_weights_of_all_heads_are_never_held(length: int, causal: bool, training: bool) -> None:
    done = lower(step_of_a_layer(length, causal, training), frozenset(), 32)
    for grouping in done.groupings:
        for value in grouping.stored:
            of_an_example = at(product(value.shape), 2) / (2 if is_symbolic(value.shape) else 1)
            assert of_an_example < 3 * length * length, f"{value.type} is as large as the weights of all heads"
            if grouping is done.groupings[-1]:
                assert of_an_example <= 3 * 12 * length, f"{value.type} grows faster than the length"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_the_length_of_the_program_does_not_grow_with_that_of_the_sequence(causal: bool, training: bool) -> None:
    sizes = [
        len(lower(step_of_a_layer(length, causal, training), frozenset(), 32).source.text)
        for length in (64, 128, 256, 512, 1024, 2048, 4096)
    ]
    assert max(sizes) < 1.1 * sizes[0], sizes


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
    with pytest.raises(ConfigError, match='block is a number of queries of at least 1, "auto" or None, not 0'):
        cr.scaled_dot_product_attention(Q, K, V, block=0)
