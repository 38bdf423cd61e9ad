"""The adaptive softmax against PyTorch, which chooses rows by their labels; values, gradients, and a network that learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]
FEATURES, CLASSES = 16, 30
CUTOFFS: dict[str, list[int]] = {"one": [10], "two": [7, 20], "three": [1, 2, 29]}


@pytest.fixture(params=["reference", "cpu"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    return str(request.param)


def pair(cutoffs: list[int], div_value: float = 2.0, head_bias: bool = False) -> tuple[Any, Any]:
    """PyTorch's layer in float64 and ours with its weights."""
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, cutoffs, div_value, head_bias).double()
    ours = nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, cutoffs, div_value, head_bias)
    head = ours.head.replace(weight=weight(theirs.head))
    if head_bias:
        with torch.no_grad():
            theirs.head.bias.copy_(torch.linspace(-1, 1, len(theirs.head.bias)))
        head = head.replace(bias=theirs.head.bias.detach().numpy())
    tail = tuple(
        cluster.replace(
            layers=tuple(own.replace(weight=weight(other)) for own, other in zip(cluster.layers, others, strict=True))
        )
        for cluster, others in zip(ours.tail, theirs.tail, strict=True)
    )
    return theirs, ours.replace(head=head, tail=tail)


def weight(linear: Any) -> NDArray:
    return np.ascontiguousarray(linear.weight.detach().numpy().T)


@pytest.mark.parametrize("head_bias", [False, True])
@pytest.mark.parametrize("cutoffs", CUTOFFS.values(), ids=CUTOFFS)
def test_it_equals_pytorch(cutoffs: list[int], head_bias: bool, engine: str) -> None:
    theirs, ours = pair(cutoffs, head_bias=head_bias)
    rng = np.random.default_rng(0)
    x, labels = 2 * rng.normal(size=(40, FEATURES)), rng.permutation(np.arange(40) % CLASSES)
    given = torch.tensor(x, requires_grad=True)
    output, loss = theirs(given, torch.tensor(labels))
    probe = rng.normal(size=40)
    (loss + (output * torch.tensor(probe)).sum()).backward()

    def value(layer: Any, x: Any, labels: Any) -> Any:
        chosen, loss = layer(x, labels)
        return loss + (chosen * probe).sum(), (chosen, loss)

    step = cr.compile(cr.value_and_grad(value, (0, 1), has_aux=True), engine=engine)
    (_, (chosen, found)), (slopes, slope) = step(ours, x, labels)
    np.testing.assert_allclose(chosen, output.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(found, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(slope, given.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slopes.head.weight, theirs.head.weight.grad.numpy().T, rtol=1e-9, atol=1e-12)
    if head_bias:
        np.testing.assert_allclose(slopes.head.bias, theirs.head.bias.grad.numpy(), rtol=1e-9, atol=1e-12)
    for cluster, others in zip(slopes.tail, theirs.tail, strict=True):
        for layer, other in zip(cluster.layers, others, strict=True):
            np.testing.assert_allclose(layer.weight, other.weight.grad.numpy().T, rtol=1e-9, atol=1e-12)
    every = cr.compile(lambda layer, x: layer(x), engine=engine)(ours, x)
    np.testing.assert_allclose(every, theirs.log_prob(torch.tensor(x)).detach().numpy(), rtol=1e-11)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(torch.tensor(x)).numpy())


def test_all_probabilities_sum_to_one_and_hold_those_of_the_labels() -> None:
    layer = nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, [5, 11], key=cr.random.key(0)).astype("float64")
    x = np.random.default_rng(1).normal(size=(2, 3, FEATURES))
    labels = np.array([[0, 4, 5], [10, 11, 29]])
    every = layer(x)
    assert every.shape == (2, 3, CLASSES)
    np.testing.assert_allclose(np.exp(every).sum(-1), 1, rtol=1e-12)
    chosen, loss = layer(x, labels)
    np.testing.assert_allclose(chosen, np.take_along_axis(every, labels[..., None], -1)[..., 0], rtol=1e-12)
    np.testing.assert_allclose(loss, nn.losses.nll(every, labels), rtol=1e-12)
    one, _ = layer(x[0, 0], 4)
    np.testing.assert_allclose(one, every[0, 0, 4], rtol=1e-12)


def test_a_network_with_it_learns() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, FEATURES)).astype("float32")
    y = np.abs(x @ rng.normal(size=FEATURES)).astype("int64")
    assert y.max() < CLASSES
    with cr.seeded(0):
        model = nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.AdaptiveLogSoftmaxWithLoss(32, CLASSES, [4, 12]))
    trainer = cr.Trainer(model, loss=nn.losses.nll, optimizer=optim.Adam(1e-2))
    losses = trainer.fit((x, y), epochs=30, batch_size=50)["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert (trainer.predict(x).argmax(-1) == y).mean() > 0.6


def test_what_makes_no_sense_is_refused() -> None:
    make = nn.AdaptiveLogSoftmaxWithLoss
    for cutoffs in ([], [5, 5], [6, 3], [CLASSES], [3, CLASSES + 1]):
        with pytest.raises(ConfigError, match=r"cutoffs of AdaptiveLogSoftmaxWithLoss rise from 1 to at most 29"):
            make(FEATURES, CLASSES, cutoffs)
    with pytest.raises(ConfigError, match="each of cutoffs to be an integer of at least 1, not 0"):
        make(FEATURES, CLASSES, [0, 3])
    with pytest.raises(ConfigError, match=r"n_classes to be an integer of at least 1, not 3\.5"):
        make(FEATURES, 3.5, [2])  # type: ignore[arg-type]
    for div_value in (0, -1, 100):
        with pytest.raises(ConfigError, match=r"16 features with div_value=.* a cluster of no units"):
            make(FEATURES, CLASSES, [3], div_value)
    layer, x = make(FEATURES, CLASSES, [3, 9]), np.zeros((4, FEATURES), np.float32)
    with pytest.raises(DataError, match="labels of 30 classes are 0 to 29, but row 2 holds 30"):
        layer(x, np.array([0, 1, 30, 4]))
    with pytest.raises(ShapeError, match=r"\(4, 16\) needs labels of shape \(4,\), not \(3,\)"):
        layer(x, np.zeros(3, int))
    with pytest.raises(
        DTypeError, match=r"integer labels from 0 to 29, not float64; convert them with \.astype\(int\)"
    ):
        layer(x, np.zeros(4))
    with pytest.raises(ShapeError, match="last axis of the input should have size 16"):
        layer(x[:, :3], np.zeros(4, int))
    chosen, loss = cr.compile(lambda layer, x, y: layer(x, y))(layer, x, np.array([0, -1, 30, 29]))
    assert np.isnan(chosen).tolist() == [False, True, True, False]
    assert np.isnan(loss)
