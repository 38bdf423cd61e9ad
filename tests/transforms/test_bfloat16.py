"""Bfloat16 in users' functions: values against PyTorch's bfloat16, gradients against the same function in float32, on every engine."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import insight, nn, ops, optim
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.runs import load_model, write_model
from chainrule.transforms.engines import ENGINES as ALL_ENGINES

BF16 = np.dtype(ml_dtypes.bfloat16)
ENGINES = [name for name, engine in ALL_ENGINES.items() if engine.problem() is None]
ROUNDING = 2.0**-8  # half a unit in the last place, of 8 bits


def drawn(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def narrow(x):
    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16)


def numbers(x):
    return x.to(torch.float32).numpy() if isinstance(x, torch.Tensor) else np.asarray(x).astype(np.float32)


MAPS = {
    "add": (lambda x, y: x + y, lambda x, y: x + y),
    "sub": (lambda x, y: x - y, lambda x, y: x - y),
    "mul": (lambda x, y: x * y, lambda x, y: x * y),
    "div": (lambda x, y: x / y, lambda x, y: x / y),
    "neg": (lambda x, y: -x, lambda x, y: -x),
    "maximum": (ops.maximum, torch.maximum),
    "where": (lambda x, y: ops.where(x < y, x, y), lambda x, y: torch.where(x < y, x, y)),
    "relu": (lambda x, y: ops.relu(x), lambda x, y: torch.relu(x)),
    "exp": (lambda x, y: ops.exp(x), lambda x, y: torch.exp(x)),
    "tanh": (lambda x, y: ops.tanh(x), lambda x, y: torch.tanh(x)),
    "sigmoid": (lambda x, y: ops.sigmoid(x), lambda x, y: torch.sigmoid(x)),
    "max": (lambda x, y: x.max(axis=1), lambda x, y: x.amax(1)),
    "take": (lambda x, y: x[:, 1:3].T, lambda x, y: x[:, 1:3].T),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_maps_are_rounded_once_as_in_pytorch(engine):
    x, y = drawn(64, 33), drawn(64, 33, seed=1)

    def every(x, y):
        x, y = x.astype("bfloat16"), y.astype("bfloat16")
        return {name: ours(x, y) for name, (ours, _) in MAPS.items()}

    found = cr.compile(every, engine=engine)(x, y)
    for name, (_, theirs) in MAPS.items():
        assert found[name].dtype == BF16, name
        expected = numbers(theirs(narrow(x), narrow(y)))
        # Functions of the two libraries differ by a unit of float32, which rarely decides how bfloat16 is rounded.
        exact = name not in ("exp", "tanh", "sigmoid")
        np.testing.assert_allclose(numbers(found[name]), expected, rtol=0 if exact else 2 * ROUNDING, err_msg=name)


@pytest.mark.parametrize("engine", ENGINES)
def test_sums_and_products_are_float32_sums_of_bfloat16(engine):
    x, w = drawn(40, 300), drawn(300, 20, seed=1)

    def products(x, w):
        x, w = x.astype("bfloat16"), w.astype("bfloat16")
        return x @ w, x.sum(axis=0), x.mean(), ops.softmax(x), w.T @ x.T

    found = cr.compile(products, engine=engine)(x, w)
    assert {result.dtype.name for result in found} == {"float32"}
    a, b = (numbers(narrow(array)).astype(np.float64) for array in (x, w))
    expected = a @ b, a.sum(0), a.mean(), torch.softmax(torch.from_numpy(a), -1).numpy(), (a @ b).T
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        # The differences and powers within softmax are maps of bfloat16.
        tolerance = 4 * ROUNDING if number == 3 else 2e-5
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_small_terms_do_not_vanish(engine):
    """Added up in bfloat16, ones would stop at 256: forwards, in the gradient of what is used often, and through a loop."""
    ones = np.ones(2000, np.float32)

    def repeated(w, x):
        w = w.astype("bfloat16")
        return sum((w for _ in range(40)), 0) + (w * x.astype("bfloat16")).sum()

    def stepped(w, x):
        w = w.astype("bfloat16")
        return cr.scan(lambda c, step: (c + w * step, None), np.float32(0), x)[0]

    weight = np.float32(1)
    total, slope = cr.compile(cr.value_and_grad(repeated), engine=engine)(weight, ones)
    assert (total, slope) == (2040, 2040)
    total, slope = cr.compile(cr.value_and_grad(stepped), engine=engine)(weight, ones)
    assert (total, slope) == (2000, 2000)


def mlp(params, x, y, cast):
    hidden = ops.tanh(cast(x) @ cast(params["w1"]) + params["b1"])
    return ((cast(hidden) @ cast(params["w2"]) - y) ** 2).mean()


def parameters():
    return {"w1": drawn(12, 32, scale=0.3), "b1": drawn(32, seed=1), "w2": drawn(32, 3, seed=2, scale=0.2)}


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_master_weights(engine):
    """Those of PyTorch, whose product of bfloat16 rounds its result too, and those of float32, as near as 8 bits tell."""
    params, x, y = parameters(), drawn(50, 12, seed=3), drawn(50, 3, seed=4)
    loss = lambda p, x, y: mlp(p, x, y, lambda a: a.astype("bfloat16"))  # noqa: E731
    value, grads = cr.compile(cr.value_and_grad(loss), engine=engine)(params, x, y)
    assert value.dtype == np.float32
    assert all(g.dtype == np.float32 for g in grads.values())
    wide, wide_grads = cr.value_and_grad(lambda p, x, y: mlp(p, x, y, lambda a: a))(params, x, y)

    theirs = {name: torch.from_numpy(p.copy()).requires_grad_() for name, p in params.items()}
    cast = lambda a: a.to(torch.bfloat16)  # noqa: E731
    hidden = torch.tanh((cast(torch.from_numpy(x)) @ cast(theirs["w1"])).float() + theirs["b1"])
    torch_loss = (((cast(hidden) @ cast(theirs["w2"])).float() - torch.from_numpy(y)) ** 2).mean()
    torch_loss.backward()
    np.testing.assert_allclose(value, wide, rtol=2 * ROUNDING)
    np.testing.assert_allclose(value, torch_loss.item(), rtol=2 * ROUNDING)
    for name, g in grads.items():
        for expected in (wide_grads[name], theirs[name].grad.numpy()):
            np.testing.assert_allclose(g, expected, rtol=4 * ROUNDING, atol=4 * ROUNDING * np.abs(expected).max())
        assert not np.array_equal(g, wide_grads[name])


class Mixed(nn.Linear):
    """A layer whose product takes bfloat16 operands; its weight is the float32 that the optimiser changes."""

    def forward(self, x):
        return x.astype("bfloat16") @ self.weight.astype("bfloat16") + self.bias


def data():
    x = drawn(256, 8, seed=5)
    return x, (x[:, :4].sum(1) > x[:, 4:].sum(1)).astype(np.int64)


def trained(kind, engine):
    cr.seed(0)
    model = nn.Sequential(kind(8, 32), nn.ReLU(), kind(32, 2))
    trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.Adam(1e-2), seed=0, engine=engine)
    history = trainer.fit(data(), epochs=5, batch_size=32)
    return trainer, np.array([record["loss"] for record in history.records])


@pytest.mark.parametrize("engine", ENGINES)
def test_training_with_master_weights_follows_float32(engine):
    trainer, losses = trained(Mixed, engine)
    _, expected = trained(nn.Linear, "reference")
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert losses[-1] < losses[0] / 3
    assert not np.array_equal(losses, expected)
    assert all(array.dtype == np.float32 for array in trainer.model_arrays().values())


def test_a_model_can_be_held_in_bfloat16():
    """For prediction: half the bytes. What it computes is float32 from the first product on."""
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    half = model.astype("bfloat16")
    assert all(array.dtype == BF16 for array in half.named_parameters().values())
    assert "bf16[8, 32]" in repr(half)
    x, _ = data()
    found = cr.compile(lambda m, x: m(x))(half, x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model(x), atol=4 * ROUNDING)


def test_a_model_in_bfloat16_is_written_and_loaded(tmp_path):
    half = nn.Sequential(Mixed(8, 16), nn.Tanh(), Mixed(16, 2)).astype("bfloat16")
    x, _ = data()
    write_model(tmp_path, lambda model, inputs: {"logits": model(inputs["x"])}, half, {"x": x[:2]})
    predictor = load_model(tmp_path)
    assert {value.dtype for value in predictor.graph.inputs} == {"bfloat16", "float32"}
    np.testing.assert_array_equal(predictor({"x": x})["logits"], cr.compile(lambda m, x: m(x))(half, x))


def test_what_is_bfloat16_inside_can_be_looked_at():
    def loss(w, x):
        return ops.tanh(x.astype("bfloat16") @ w.astype("bfloat16")).sum()

    w, x = drawn(3, 2), drawn(4, 3, seed=1)
    graph = cr.trace(loss, w, x)
    seen = insight.observe(graph, [w, x])
    assert [array.shape for value, array in seen.items() if value.dtype == "bfloat16"] == [(4, 3), (3, 2)]
    x[0, 0] = 3.4e38  # nearer to 2 ** 128 than to the largest bfloat16
    overflow = insight.first_nonfinite(cr.trace(lambda x: x.astype("bfloat16"), x), [x])
    assert overflow is not None
    assert overflow.node.primitive.name == "cast"


def test_bfloat16_is_not_trained_in():
    with pytest.raises(
        DTypeError, match=r"'weight' has element type bfloat16; what is trained must be float32 or float64, as"
    ):
        optim.SGD(0.1).init({"weight": np.zeros(3, BF16)})


def test_loops_to_convergence_need_more_bits():
    with pytest.raises((DTypeError, ShapeError), match="floating-point states of 32 or 64 bits are needed, not bf16"):
        cr.fixed_point(lambda z: z, np.zeros(3, BF16))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_goes_in_and_out_may_be_bfloat16(engine):
    x = drawn(5, 3).astype(BF16)
    double = cr.compile(lambda x: x * 2, engine=engine)
    for _ in range(4):  # the third call on goes another way
        found = double(x)
        assert found.dtype == BF16
        np.testing.assert_array_equal(numbers(found), 2 * numbers(x))
    np.testing.assert_array_equal(double(x.astype(np.float32)).dtype, np.float32)
    assert ops.exp(x).dtype == BF16
    assert ops.exp(x[0, 0]).dtype == BF16


def test_promotion_is_to_the_wider_float_and_numbers_adopt():
    x = np.ones(3, BF16)
    assert ops.maximum(x, np.ones(3, np.float32)).dtype == np.float32
    assert ops.maximum(x, np.ones(3, np.int64)).dtype == BF16
    assert ops.maximum(x, 0.5).dtype == BF16
    assert ops.where(x > 0, x, 0.1).dtype == BF16


def test_derivatives_of_derivatives_and_of_single_examples():
    def f(x):
        return (x.astype("bfloat16") ** 3).sum()

    x = np.array([1.0, 2.0, -3.0], np.float32)
    np.testing.assert_allclose(cr.grad(f)(x), 3 * x**2, rtol=2 * ROUNDING)
    np.testing.assert_allclose(np.diagonal(cr.hessian(f)(x)), 6 * x, rtol=4 * ROUNDING)
    w = drawn(3)
    alone = cr.vmap(cr.grad(lambda w, x: (w.astype("bfloat16") @ x.astype("bfloat16")) ** 2), in_axes=(None, 0))
    rows = drawn(4, 3, seed=1)
    expected = np.stack([2 * (w @ row) * row for row in rows])
    np.testing.assert_allclose(alone(w, rows), expected, rtol=0.05, atol=0.05 * np.abs(expected).max())


def test_feedback_alignment_takes_bfloat16_products():
    params, x, y = parameters(), drawn(50, 12, seed=3), drawn(50, 3, seed=4)
    rules = cr.feedback_alignment()
    wide = cr.value_and_grad(lambda p: mlp(p, x, y, lambda a: a), rules=rules)(params)[1]
    half = cr.value_and_grad(lambda p: mlp(p, x, y, lambda a: a.astype("bfloat16")), rules=rules)(params)[1]
    for name, expected in wide.items():
        np.testing.assert_allclose(half[name], expected, rtol=0.05, atol=8 * ROUNDING * np.abs(expected).max())
