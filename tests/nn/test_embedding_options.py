"""Embeddings with limited rows and gradients by frequency, and bags of them, against PyTorch: options crossed, both engines."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(7, 3))
BAGS = RNG.integers(0, 7, size=(4, 5))
FLAT, OFFSETS = RNG.integers(0, 7, size=11), np.array([0, 3, 3, 4, 9, 11])


@pytest.fixture(params=["reference", "cpu"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    return str(request.param)


def with_table(layer: Any) -> Any:
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(TABLE))
    return layer


LIMITS: list[tuple[float | None, float]] = [(None, 2.0), (1.0, 2.0), (1.5, 1.0), (1.2, 3.0), (0.8, float("inf"))]


@pytest.mark.parametrize(
    ("limit", "frequency", "padding", "engine"),
    [(*case, "reference") for case in itertools.product(LIMITS, (False, True), (None, 2))]
    + [(LIMITS[0], True, None, "cpu"), (LIMITS[1], False, None, "cpu"), (LIMITS[2], True, 2, "cpu")],
)
def test_an_embedding_equals_pytorch(
    limit: tuple[float | None, float], frequency: bool, padding: int | None, engine: str
) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    most, power = limit
    options: dict[str, Any] = {"max_norm": most, "norm_type": power, "scale_grad_by_freq": frequency}
    theirs = with_table(torch.nn.Embedding(7, 3, padding, **options))
    out = theirs(torch.tensor(BAGS))
    probe = RNG.normal(size=out.shape)
    (out * torch.tensor(probe)).sum().backward()
    layer = nn.Embedding(7, 3, padding, **options).replace(weight=TABLE)

    def loss(layer: Any, x: Any, probe: Any) -> Any:
        found = layer(x)
        return (found * probe).sum(), found

    step = cr.compile(
        lambda layer, x, probe: cr.value_and_grad(loss, has_aux=True)(layer, x, probe),
        engine=engine,
        batch=("x", "probe"),
    )
    (_, found), gradient = step(layer, BAGS, probe)
    np.testing.assert_allclose(found, out.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(gradient.weight, theirs.weight.grad.numpy(), rtol=1e-9, atol=1e-14)


def test_the_table_keeps_its_numbers_and_short_rows_come_out_bit_for_bit() -> None:
    layer = nn.Embedding(7, 3, max_norm=1.0).replace(weight=TABLE)
    found = layer(np.arange(7))
    np.testing.assert_array_equal(layer.weight, TABLE)
    short = np.linalg.norm(TABLE, axis=1) < 1
    assert short.any()
    assert not short.all()
    np.testing.assert_array_equal(found[short], TABLE[short])
    assert np.linalg.norm(found, axis=1).max() <= 1


CASES: list[tuple[str, dict[str, Any]]] = [
    (mode, {"max_norm": most, "norm_type": 1.5, "padding_idx": padding})
    for mode in ("mean", "sum", "max")
    for most in (None, 1.5)
    for padding in (None, 2)
]


@pytest.mark.parametrize("form", ["one size", "offsets", "last offset"])
@pytest.mark.parametrize(("mode", "options"), CASES)
def test_bags_equal_pytorch(mode: str, options: dict[str, Any], form: str) -> None:
    check_bags(mode, options, form, False, "reference")


@pytest.mark.parametrize("form", ["one size", "offsets"])
@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_bags_on_the_cpu_engine_equal_pytorch(mode: Any, form: str) -> None:
    if CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    check_bags(mode, {"max_norm": 1.5, "padding_idx": 2}, form, False, "cpu")


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("form", ["one size", "offsets", "last offset"])
def test_weights_of_samples_equal_pytorch(form: str, padding: int | None, engine: str) -> None:
    check_bags("sum", {"padding_idx": padding}, form, True, engine)


def check_bags(mode: Any, options: dict[str, Any], form: str, weighted: bool, engine: str) -> None:
    options = {**options, "mode": mode, "include_last_offset": form == "last offset"}
    x = BAGS if form == "one size" else FLAT
    offsets = {"one size": None, "offsets": OFFSETS, "last offset": np.append(OFFSETS, 11)}[form]
    theirs = with_table(torch.nn.EmbeddingBag(7, 3, **options))
    shares = RNG.normal(size=x.shape) if weighted else None
    leaf = None if shares is None else torch.tensor(shares, requires_grad=True)
    given = torch.tensor(x), None if offsets is None else torch.tensor(offsets)
    out = theirs(*given, per_sample_weights=leaf)
    probe = RNG.normal(size=out.shape)
    (out * torch.tensor(probe)).sum().backward()
    layer = nn.EmbeddingBag(7, 3, **options).replace(weight=TABLE)

    def loss(layer: Any, shares: Any, x: Any, offsets: Any) -> Any:
        found = layer(x, offsets, shares)
        return (found * probe).sum(), found

    places = (0, 1) if weighted else (0,)
    step = cr.compile(cr.value_and_grad(loss, places, has_aux=True), engine=engine)
    (_, found), (gradient, *to_shares) = step(layer, shares, x, offsets)
    np.testing.assert_allclose(found, out.detach().numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(gradient.weight, theirs.weight.grad.numpy(), rtol=1e-9, atol=1e-14)
    if leaf is not None:
        assert leaf.grad is not None
        np.testing.assert_allclose(to_shares[0], leaf.grad.numpy(), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_gradients_of_bags_by_frequency_are_those_of_a_bag_of_pytorchs_embedding(
    mode: Any, padding: int | None
) -> None:
    """PyTorch's EmbeddingBag divides by the counts of other rows (2.13, processor); its Embedding does not."""
    theirs = with_table(torch.nn.Embedding(7, 3, padding, scale_grad_by_freq=True))
    ends = [*OFFSETS[1:], len(FLAT)]
    bags = [torch.tensor(FLAT[a:b]) for a, b in zip(OFFSETS, ends, strict=True)]
    each = theirs(torch.cat(bags)).split([len(bag) for bag in bags])
    kept = [rows[bag != (-1 if padding is None else padding)] for rows, bag in zip(each, bags, strict=True)]
    out = torch.stack([rows.sum(0) / (max(len(rows), 1) if mode == "mean" else 1) for rows in kept])
    out.square().sum().backward()
    layer = nn.EmbeddingBag(7, 3, mode=mode, padding_idx=padding, scale_grad_by_freq=True).replace(weight=TABLE)
    value, gradient = cr.value_and_grad(lambda layer: cr.square(layer(FLAT, OFFSETS)).sum())(layer)
    np.testing.assert_allclose(value, out.square().sum().item(), rtol=1e-12)
    np.testing.assert_allclose(gradient.weight, theirs.weight.grad.numpy(), rtol=1e-9, atol=1e-14)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.sampled_from(["mean", "sum", "max"]))
def test_bags_of_any_sizes_equal_pytorch(sizes: list[int], mode: Any) -> None:
    count = sum(sizes)
    x = np.random.default_rng(count).integers(0, 7, size=count)
    offsets = np.cumsum([0, *sizes[:-1]])
    theirs = with_table(torch.nn.EmbeddingBag(7, 3, mode=mode, padding_idx=1))
    layer = nn.EmbeddingBag(7, 3, mode=mode, padding_idx=1).replace(weight=np.round(TABLE))
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(np.round(TABLE)))  # many are equal
    out = theirs(torch.tensor(x), torch.tensor(offsets))
    out.square().sum().backward()
    value, gradient = cr.value_and_grad(lambda layer: cr.square(layer(x, offsets)).sum())(layer)
    np.testing.assert_allclose(value, out.square().sum().item(), rtol=1e-12)
    np.testing.assert_allclose(gradient.weight, theirs.weight.grad.numpy(), rtol=1e-9, atol=1e-14)


def test_a_batch_of_bags_of_any_number() -> None:
    for mode in ("mean", "sum", "max"):
        layer = nn.EmbeddingBag(7, 3, mode=mode, padding_idx=0).replace(weight=TABLE)
        step = cr.compile(lambda m, x: m(x), batch=("x",))
        for count in (4, 1):
            np.testing.assert_allclose(step(layer, BAGS[:count]), layer(BAGS[:count]), rtol=1e-15)
    layer = nn.EmbeddingBag(7, 3, mode="sum").replace(weight=TABLE)
    step = cr.compile(lambda m, x, o: m(x, o), batch=("o",))
    for offsets in (OFFSETS, OFFSETS[:2]):
        np.testing.assert_allclose(step(layer, FLAT, offsets), layer(FLAT, offsets), rtol=1e-15)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Embedding needs max_norm and norm_type above 0, not 0 and 2\.0"):
        nn.Embedding(7, 3, max_norm=0)
    with pytest.raises(ConfigError, match="the mode of EmbeddingBag is 'mean', 'sum' or 'max', not 'min'"):
        nn.EmbeddingBag(7, 3, mode="min")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scale_grad_by_freq of EmbeddingBag is for sums and means"):
        nn.EmbeddingBag(7, 3, mode="max", scale_grad_by_freq=True)
    layer = nn.EmbeddingBag(7, 3)
    with pytest.raises(
        ShapeError, match=r"EmbeddingBag takes integers of shape \(batch, size\), or \(n,\) together with"
    ):
        layer(FLAT)
    with pytest.raises(ShapeError, match=r"EmbeddingBag takes integers of shape \(n,\) beside offsets, not \(4, 5\)"):
        layer(BAGS, OFFSETS)
    with pytest.raises(ConfigError, match="per_sample_weights of EmbeddingBag are for mode='sum', not 'mean'"):
        layer(BAGS, None, np.ones(BAGS.shape))
    with pytest.raises(
        ShapeError, match=r"a weight for each of the integers of shape \(4, 5\), not weights of shape \(4,\)"
    ):
        nn.EmbeddingBag(7, 3, mode="sum")(BAGS, None, np.ones(4))
    for wrong in ([1, 2], [0, 4, 2], [0, 12]):
        with pytest.raises(DataError, match="begin at 0 and do not fall or pass the end, 11"):
            layer(FLAT, np.array(wrong))
    with pytest.raises(DataError, match=r"EmbeddingBag needs integers from 0 to 6, but position \(0, 1\) holds 9"):
        layer(np.array([[0, 9]]))
    with pytest.raises(DTypeError, match="EmbeddingBag needs integers from 0 to 6, not float64"):
        layer(np.zeros((1, 2)))
