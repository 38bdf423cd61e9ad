"""Keys that every query may attend to (``add_bias_kv``, ``add_zero_attn``), crossed with the other options, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.trees import replace_leaves
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]
N, T, S, C, HEADS = 3, 5, 4, 6, 2
RNG = np.random.default_rng(0)
X, KEYS, VALUES = RNG.normal(size=(N, T, C)), RNG.normal(size=(N, S, C)), RNG.normal(size=(N, S, C))
LENGTHS = np.array([4, 1, 3])
ADDED = [(True, False), (False, True), (True, True)]


def copied(model: nn.Module, other: torch.nn.MultiheadAttention) -> nn.Module:
    """Our model with PyTorch's weights, drawn at random."""
    torch.manual_seed(0)
    held = {path.replace("_proj_", "_"): leaf for path, leaf in other.named_parameters()}
    with torch.no_grad():
        for leaf in held.values():
            leaf.copy_(torch.randn_like(leaf) * 0.5)
    drawn = {path: leaf.detach().numpy().squeeze().T for path, leaf in held.items()}
    result: nn.Module = replace_leaves(model.astype("float64"), drawn)
    return result


@pytest.mark.parametrize("mask", ["none", "lengths", "pairs", "floats", "lengths and floats"])
@pytest.mark.parametrize(
    ("bias", "zero", "sizes", "engine"),
    [(*added, sizes, "reference") for added in ADDED for sizes in ({}, {"kdim": 3, "vdim": 7})]
    + [(True, True, {}, "cpu")],
)
def test_it_equals_pytorch(bias: bool, zero: bool, sizes: dict[str, int], mask: str, engine: str) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    options: dict[str, Any] = {"add_bias_kv": bias, "add_zero_attn": zero, **sizes}
    other = torch.nn.MultiheadAttention(C, HEADS, batch_first=True, **options).double()
    model = copied(nn.MultiheadAttention(C, HEADS, **options), other)
    inputs = [X, KEYS[..., : sizes.get("kdim")], np.concatenate([VALUES, VALUES], -1)[..., : sizes.get("vdim", C)]]
    ours: dict[str, Any] = {"lengths": LENGTHS} if "lengths" in mask else {}
    theirs: dict[str, Any] = {}
    if "lengths" in mask:
        theirs["key_padding_mask"] = torch.tensor(np.arange(S) >= LENGTHS[:, None])
    if "pairs" in mask:
        pairs = RNG.random((N, HEADS, T, S)) > 0.5
        ours["attention_mask"] = pairs
        theirs["attn_mask"] = torch.tensor(~pairs.reshape(N * HEADS, T, S))
    if "floats" in mask:
        ours["attention_mask"] = floats = RNG.normal(size=(T, S))
        theirs["attn_mask"] = torch.tensor(floats)
        if "lengths" in mask:
            theirs["key_padding_mask"] = torch.zeros(N, S, dtype=torch.float64).masked_fill(
                theirs["key_padding_mask"], -torch.inf
            )
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    out, weights = other(*leaves, average_attn_weights=False, **theirs)
    probe, probe_weights = RNG.normal(size=out.shape), RNG.normal(size=weights.shape)
    ((out * torch.tensor(probe)).sum() + (weights * torch.tensor(probe_weights)).sum()).backward()

    def loss(model: Any, *inputs: Any) -> Any:
        found, shares = model(*inputs, need_weights=True, **ours)
        return (found * probe).sum() + (shares * probe_weights).sum(), (found, shares)

    step = cr.compile(cr.value_and_grad(loss, (0, 1, 2, 3), has_aux=True), engine=engine)
    (_, (found, shares)), (gradients, *to_inputs) = step(model, *inputs)
    np.testing.assert_allclose(found, out.detach().numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(shares, weights.detach().numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(model(*inputs, **ours), found, rtol=1e-9, atol=1e-11)
    for one, leaf in zip(to_inputs, leaves, strict=True):
        np.testing.assert_allclose(one, leaf.grad.numpy(), rtol=1e-8, atol=1e-11)
    held = {path.replace("_proj_", "_"): leaf for path, leaf in other.named_parameters()}
    assert set(held) == set(gradients.named_parameters())
    for path, leaf in gradients.named_parameters().items():
        np.testing.assert_allclose(leaf, held[path].grad.numpy().squeeze().T, rtol=1e-8, atol=1e-11, err_msg=path)


@pytest.mark.parametrize(("block", "floats"), [(None, False), (None, True), (2, False)])
@pytest.mark.parametrize(("bias", "zero"), ADDED)
def test_causal_self_attention_sees_them_from_the_first_position_on(
    bias: bool, zero: bool, floats: bool, block: int | None
) -> None:
    options: dict[str, Any] = {"add_bias_kv": bias, "add_zero_attn": zero}
    other = torch.nn.MultiheadAttention(C, HEADS, batch_first=True, **options).double()
    model = copied(nn.MultiheadAttention(C, HEADS, causal=True, block=block, **options), other)
    mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
    ours = RNG.normal(size=(T, T)) if floats else None
    theirs = mask if ours is None else torch.tensor(ours).masked_fill(mask, -torch.inf)
    x = torch.tensor(X, requires_grad=True)
    out = other(x, x, x, attn_mask=theirs, need_weights=False)[0]
    out.square().sum().backward()
    gradients = cr.grad(lambda x: cr.square(model(x, attention_mask=ours)).sum())(X)
    np.testing.assert_allclose(model(X, attention_mask=ours), out.detach().numpy(), rtol=1e-9, atol=1e-11)
    assert x.grad is not None
    np.testing.assert_allclose(gradients, x.grad.numpy(), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("rotary", [False, True])
def test_a_cache_continues_with_them(rotary: bool) -> None:
    model = nn.MultiheadAttention(C * 2, HEADS, causal=True, rotary=rotary, add_bias_kv=True, add_zero_attn=True)
    model, x = model.astype("float64"), RNG.normal(size=(N, T, C * 2))
    expected = model(x)
    begun = nn.DecodingCache(T)
    outputs, past = [model(x[:, :3], cache=begun)], begun.past
    for place in (3, 4):
        cache = nn.DecodingCache(T, place, past)
        outputs.append(model(x[:, place : place + 1], cache=cache))
        past = cache.past
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, rtol=1e-10, atol=1e-12)


def test_the_options_reach_the_layers_of_a_transformer_and_follow_the_key() -> None:
    layer = nn.TransformerEncoderLayer(C, HEADS, 8, add_bias_kv=True, key=cr.random.key(3))
    assert layer.self_attn.bias_k.shape == (C,)
    same = nn.TransformerEncoderLayer(C, HEADS, 8, add_bias_kv=True, key=cr.random.key(3))
    np.testing.assert_array_equal(layer.self_attn.bias_v, same.self_attn.bias_v)
    large = nn.MultiheadAttention(900, 1, add_bias_kv=True, key=cr.random.key(0))
    assert large.bias_k.std() == pytest.approx(1 / 30, rel=0.1)
    assert not np.allclose(large.bias_k, large.bias_v)
    fully_masked = nn.MultiheadAttention(C, HEADS, add_zero_attn=True)(X, mask=np.zeros((N, T)))
    assert np.isfinite(fully_masked).all()
