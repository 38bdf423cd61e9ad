"""Multi-head attention, Transformer layers and positions against PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.core.trees import leaves, replace_leaves
from chainrule.trace import using_key

NDArray = np.ndarray[Any, Any]
N, T, S, C, HEADS = 3, 5, 4, 6, 2
RNG = np.random.default_rng(0)
X, MEMORY = RNG.normal(size=(N, T, C)), RNG.normal(size=(N, S, C))
LENGTHS = np.array([5, 2, 3])


def theirs(path: str) -> str:
    for part in ("in_weight", "in_bias", "q_weight", "k_weight", "v_weight"):
        path = path.replace(part, part.replace("_", "_proj_"))
    return path


def copied(model: nn.Module, other: torch.nn.Module) -> nn.Module:
    """Our model in float64 with PyTorch's weights, drawn at random first."""
    torch.manual_seed(0)
    held = dict(other.named_parameters())
    with torch.no_grad():
        for leaf in held.values():
            leaf.copy_(torch.randn_like(leaf) * 0.5)
    ours = model.astype("float64")
    assert {theirs(path) for path in ours.named_parameters()} == set(held)
    result: nn.Module = replace_leaves(
        ours, {path: held[theirs(path)].detach().numpy().T for path in ours.named_parameters()}
    )
    return result


def check(
    model: nn.Module, other: torch.nn.Module, inputs: list[NDArray], ours: Mapping[str, Any], their: Mapping[str, Any]
) -> None:
    """Outputs and gradients of inputs and parameters."""
    other = other.double().eval()
    model = copied(model, other)
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    out = other(*leaves, **their)
    out = out[0] if isinstance(out, tuple) else out
    probe = np.random.default_rng(1).normal(size=tuple(out.shape))
    (out * torch.tensor(probe)).sum().backward()

    def loss(model: Any, *inputs: Any) -> Any:
        found = model(*inputs, **ours)
        return (found * probe).sum(), found

    places = tuple(range(len(inputs) + 1))
    (_, found), (gradients, *to_inputs) = cr.value_and_grad(loss, places, has_aux=True)(model, *inputs)
    np.testing.assert_allclose(found, out.detach().numpy(), rtol=1e-8, atol=1e-10)
    for one, leaf in zip(to_inputs, leaves, strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(one, leaf.grad.numpy(), rtol=1e-8, atol=1e-10)
    held = dict(other.named_parameters())
    for path, leaf in gradients.named_parameters().items():
        expected = held[theirs(path)].grad
        assert expected is not None
        np.testing.assert_allclose(leaf, expected.numpy().T, rtol=1e-8, atol=1e-10, err_msg=path)


PADDING = np.arange(T) >= LENGTHS[:, None]
FUTURE = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("block", [None, 2])
def test_self_attention_equals_pytorch(bias: bool, block: int | None) -> None:
    model = nn.MultiheadAttention(C, HEADS, bias=bias, causal=True, block=block)
    other = torch.nn.MultiheadAttention(C, HEADS, bias=bias, batch_first=True)
    masks = {"key_padding_mask": torch.tensor(PADDING), "attn_mask": FUTURE}

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = other

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x, x, x, **masks)[0]
            return out

        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            return self.layer.named_parameters()

    check(model, Whole(), [X], {"lengths": LENGTHS}, {})


def test_weights_of_long_sequences_are_dropped_in_blocks() -> None:
    """The bits depend on the key alone: not on the engine, on threads, or on whether the batch size is a symbol."""
    model = nn.MultiheadAttention(C, HEADS, dropout=0.4, causal=True)
    x, lengths = RNG.normal(size=(3, 200, C)), np.array([200, 7, 100])

    def step(model: Any, x: Any, lengths: Any, key: Any) -> Any:
        def loss(model: Any, x: Any) -> Any:
            with using_key(key):
                return cr.square(model(x, lengths=lengths, training=True)).sum()

        return cr.value_and_grad(loss, (0, 1))(model, x)

    key = np.asarray(cr.random.key(3))
    graph = cr.trace(lambda x: model(x, training=True), x)
    assert "attention" in [node.attributes.get("label") for node in graph.nodes]
    results = []
    for settings in (
        {"engine": "reference"},
        {"engine": "cpu"},
        {"engine": "cpu", "batch": ("x", "lengths")},
    ):
        value, gradients = cr.compile(step, **settings)(model, x, lengths, key)  # type: ignore[arg-type]
        results.append([value, *leaves(gradients)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert results[0][0] != cr.compile(step)(model, x, lengths, key + 1)[0]


def test_attention_to_other_sequences_equals_pytorch() -> None:
    value = RNG.normal(size=(N, S, C))
    other = torch.nn.MultiheadAttention(C, HEADS, batch_first=True)
    check(nn.MultiheadAttention(C, HEADS), other, [X, MEMORY, value], {}, {"need_weights": False})


@pytest.mark.parametrize("bias", [True, False])
def test_keys_and_values_of_other_sizes_equal_pytorch(bias: bool) -> None:
    keys, values = RNG.normal(size=(N, S, 3)), RNG.normal(size=(N, S, 7))
    model = nn.MultiheadAttention(C, HEADS, bias=bias, kdim=3, vdim=7)
    other = torch.nn.MultiheadAttention(C, HEADS, bias=bias, kdim=3, vdim=7, batch_first=True)
    check(model, other, [X, keys, values], {}, {"need_weights": False})
    assert set(nn.MultiheadAttention(C, HEADS, kdim=C).named_parameters()) >= {"in_weight"}
    with pytest.raises(ShapeError, match="last axis of the input should have size 3, but the input has shape"):
        model(X, values, values)
    with pytest.raises(ConfigError, match="MultiheadAttention needs vdim to be an integer of at least 1, not 0"):
        nn.MultiheadAttention(C, HEADS, vdim=0)


@pytest.mark.parametrize("shape", [(T, S), (N, T, S), (N, HEADS, T, S)])
def test_masks_of_pairs_and_the_weights(shape: tuple[int, ...]) -> None:
    other = torch.nn.MultiheadAttention(C, HEADS, batch_first=True).double()
    model = copied(nn.MultiheadAttention(C, HEADS), other)
    allowed = RNG.random(shape) > 0.3
    allowed[..., 0] = True
    whole = allowed[:, None] if len(shape) == 3 else allowed
    full = ~torch.tensor(np.broadcast_to(whole, (N, HEADS, T, S)).reshape(N * HEADS, T, S).copy())
    query, memory = torch.tensor(X), torch.tensor(MEMORY)
    expected, weights = other(query, memory, memory, attn_mask=full, average_attn_weights=False)
    out, found = model(X, MEMORY, attention_mask=allowed, need_weights=True)
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found, weights.detach().numpy(), rtol=1e-9, atol=1e-12)
    keys = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]])
    floats = RNG.normal(size=shape)
    added = np.where(keys[:, None, None, :] == 1, floats[:, None] if len(shape) == 3 else floats, -np.inf)
    added = np.broadcast_to(added, (N, HEADS, T, S)).reshape(N * HEADS, T, S).copy()
    expected, _ = other(query, memory, memory, attn_mask=torch.tensor(added))
    out = model(X, MEMORY, attention_mask=floats, mask=keys)
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layers_equal_pytorch(norm_first: bool, activation: Any) -> None:
    settings: dict[str, Any] = {"norm_first": norm_first, "activation": activation}
    model = nn.TransformerEncoderLayer(C, HEADS, 8, 0.0, **settings)
    other = torch.nn.TransformerEncoderLayer(C, HEADS, 8, 0.0, batch_first=True, **settings)
    check(model, other, [X], {}, {})


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layers_equal_pytorch(norm_first: bool) -> None:
    model = nn.TransformerDecoderLayer(C, HEADS, 8, 0.0, norm_first=norm_first)
    other = torch.nn.TransformerDecoderLayer(C, HEADS, 8, 0.0, batch_first=True, norm_first=norm_first)
    lengths = np.array([4, 1, 2])
    theirs = {"memory_key_padding_mask": torch.tensor(np.arange(S) >= lengths[:, None]), "tgt_mask": FUTURE}
    check(model, other, [X, MEMORY], {"memory_lengths": lengths}, theirs)


def test_layers_without_biases_equal_pytorch() -> None:
    other = torch.nn.TransformerEncoderLayer(C, HEADS, 8, 0.0, batch_first=True, bias=False)
    check(nn.TransformerEncoderLayer(C, HEADS, 8, 0.0, bias=False), other, [X], {}, {})
    other = torch.nn.TransformerDecoderLayer(C, HEADS, 8, 0.0, batch_first=True, bias=False)
    check(nn.TransformerDecoderLayer(C, HEADS, 8, 0.0, bias=False, causal=False), other, [X, MEMORY], {}, {})
    stack = nn.TransformerEncoder(C, HEADS, 1, 8, 0.0, bias=False, norm_first=True)
    assert not any("bias" in path for path in stack.named_parameters())


@pytest.mark.parametrize("norm_first", [False, True])
def test_stacks_equal_pytorch(norm_first: bool) -> None:
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(C, HEADS, 8, 0.0, batch_first=True, norm_first=norm_first),
        2,
        torch.nn.LayerNorm(C) if norm_first else None,
        enable_nested_tensor=False,
    )
    check(nn.TransformerEncoder(C, HEADS, 2, 8, 0.0, norm_first=norm_first), encoder, [X], {}, {})
    decoder = torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(C, HEADS, 8, 0.0, batch_first=True, norm_first=norm_first),
        2,
        torch.nn.LayerNorm(C),
    )
    ours = nn.TransformerDecoder(C, HEADS, 2, 8, 0.0, norm_first=norm_first, final_norm=True)
    check(ours, decoder, [X, MEMORY], {}, {"tgt_mask": FUTURE})


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning:torch")
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_an_encoder_and_a_decoder_equal_pytorchs_transformer(norm_first: bool, bias: bool) -> None:
    sizes, options = (C, HEADS, 2, 1, 8, 0.0), {"norm_first": norm_first, "bias": bias}
    other = torch.nn.Transformer(*sizes, batch_first=True, **options)  # type: ignore[arg-type]
    lengths, target_lengths = np.array([4, 1, 2]), np.array([5, 2, 3])
    pairs, across = RNG.random((S, S)) > 0.3, RNG.random((T, S)) > 0.3
    pairs[:, 0] = across[:, 0] = True
    hidden = torch.tensor(np.arange(S) >= lengths[:, None])
    theirs = {
        "src_key_padding_mask": hidden,
        "memory_key_padding_mask": hidden,
        "tgt_key_padding_mask": torch.tensor(np.arange(T) >= target_lengths[:, None]),
        "src_mask": torch.tensor(~pairs),
        "memory_mask": torch.tensor(~across),
        "tgt_mask": FUTURE,
    }
    ours = {
        "source_lengths": lengths,
        "target_lengths": target_lengths,
        "source_attention_mask": pairs,
        "memory_attention_mask": across,
    }
    check(nn.Transformer(*sizes, **options), other, [MEMORY, X], ours, theirs)  # type: ignore[arg-type]
    other = torch.nn.Transformer(*sizes, batch_first=True, **options)  # type: ignore[arg-type]
    check(nn.Transformer(*sizes, causal=False, **options), other, [MEMORY, X], {}, {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Transformer needs num_decoder_layers to be an integer of at least 1"):
        nn.Transformer(C, HEADS, 1, 0)


def test_any_function_may_be_the_activation() -> None:
    other = torch.nn.TransformerEncoderLayer(C, HEADS, 8, 0.0, torch.nn.functional.silu, batch_first=True)
    check(nn.TransformerEncoderLayer(C, HEADS, 8, 0.0, cr.silu), other, [X], {}, {})


def test_a_training_step_on_the_cpu_engine_with_a_batch_of_any_size() -> None:
    model = nn.TransformerEncoder(C, HEADS, 2, 8, 0.0, causal=True).astype("float64")

    def step(model: Any, x: Any) -> Any:
        return cr.value_and_grad(lambda model: cr.square(model(x, training=True)).sum())(model)

    programs = [cr.compile(step, engine=engine, batch=("x",)) for engine in ("reference", "cpu")]
    for count in (1, 3):
        (one, grads), (other, others) = (program(model, X[:count]) for program in programs)
        np.testing.assert_allclose(one, other, rtol=1e-10)
        for path, leaf in grads.named_parameters().items():
            np.testing.assert_allclose(leaf, others.named_parameters()[path], rtol=1e-7, atol=1e-10, err_msg=path)


def test_dropout_acts_in_training_only() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, 0.5, key=cr.random.key(0))
    x = RNG.normal(size=(N, T, 8)).astype(np.float32)
    np.testing.assert_array_equal(model(x), model(x))
    assert not np.allclose(model(x, training=True), model(x))
    attention = nn.MultiheadAttention(8, 2, 0.5, key=cr.random.key(0))
    assert not np.allclose(attention(x, training=True), attention(x))


def test_a_causal_layer_does_not_see_the_future() -> None:
    model = nn.TransformerEncoder(C, HEADS, 2, 8, 0.0, causal=True, rotary=False).astype("float64")
    changed = X.copy()
    changed[:, 3:] += 1
    np.testing.assert_array_equal(model(X)[:, :3], model(changed)[:, :3])
    assert not np.allclose(model(X)[:, 3:], model(changed)[:, 3:])


def test_learned_positions_are_a_table() -> None:
    layer = nn.LearnedPositions(7, C, key=cr.random.key(1)).astype("float64")
    np.testing.assert_allclose(layer(X), X + layer.weight[:T])
    assert 0.01 < layer.weight.std() < 0.03
    with pytest.raises(ShapeError, match="a sequence of 5 positions is longer than the 4"):
        nn.LearnedPositions(4, C)(X)


@pytest.mark.parametrize("features", [6, 7])
def test_sinusoidal_positions_are_those_of_the_paper(features: int) -> None:
    expected = np.empty((T, features))
    for t in range(T):
        for k in range(features):
            angle = t / 10000 ** ((k - k % 2) / features)
            expected[t, k] = np.cos(angle) if k % 2 else np.sin(angle)
    found = nn.SinusoidalPositions()(np.zeros((N, T, features)))
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-9, atol=1e-12)


def test_rotary_positions_turn_pairs_by_angles() -> None:
    x = RNG.normal(size=(N, HEADS, T, 8))
    pairs = x[..., :4] + 1j * x[..., 4:]
    turned = pairs * np.exp(1j * np.arange(T)[:, None] / 10000 ** (np.arange(4) / 4))
    np.testing.assert_allclose(nn.rotate(x), np.concatenate([turned.real, turned.imag], -1), rtol=1e-10, atol=1e-12)


def test_rotary_attention_depends_on_distances_only() -> None:
    model = nn.MultiheadAttention(8, 2, rotary=True, causal=True).astype("float64")
    x = RNG.normal(size=(1, T, 8))
    later = np.concatenate([np.zeros((1, 3, 8)), x], 1)
    mask = np.array([[0, 0, 0, 1, 1, 1, 1, 1]])
    np.testing.assert_allclose(model(later, mask=mask)[:, 3:], model(x), rtol=1e-9, atol=1e-12)
    assert not np.allclose(model.replace(rotary=False)(x), model(x))


def test_bad_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 do not divide 6"):
        nn.MultiheadAttention(6, 4)
    with pytest.raises(ConfigError, match="turns pairs of features, but each head has 3"):
        nn.MultiheadAttention(6, 2, rotary=True)
    with pytest.raises(
        ConfigError, match="activation of TransformerEncoderLayer is one of relu, gelu, gelu_tanh, not 'tanh'"
    ):
        nn.TransformerEncoderLayer(6, 2, activation="tanh")  # type: ignore[arg-type]
    layer = nn.MultiheadAttention(6, 2)
    with pytest.raises(ShapeError, match=r"sequences of shape \(N, T, C\), not \(5, 6\)"):
        layer(X[0])
    with pytest.raises(ShapeError, match="last axis of the input should have size 6"):
        layer(X, np.zeros((N, S, 4)))
    with pytest.raises(ShapeError, match=r"mask of keys should have shape \(3, 5\) \(N, S\), not \(5,\)"):
        layer(X, mask=np.ones(T))
    with pytest.raises(ShapeError, match=r"attention mask has shape"):
        layer(X, attention_mask=np.ones(T))
