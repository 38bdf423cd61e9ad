"""Every loss that PyTorch has, with its options crossed and in every reduction: values and gradients, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.nn import losses

NDArray = np.ndarray[Any, Any]
F = torch.nn.functional
RNG = np.random.default_rng(0)
Y, Z, V = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
BITS, LABELS = RNG.integers(0, 2, size=(6, 4)), np.array([0, 3, 1, 1, 0, 2])
SIGNS = 2.0 * BITS - 1
P = RNG.dirichlet(np.ones(4), size=6)
SHARES = RNG.uniform(0.01, 0.99, size=(6, 4))
BY_CLASS = np.array([0.5, 2.0, 1.0, 0.3])
SETS = np.array([[3, 0, -1, 1], [-1, 2, 2, 2], [2, -1, -1, -1], [0, 1, 2, 3], [1, 1, -1, 0], [0, 3, -1, -1]])
ENGINES = ["reference", *(["cpu"] if CPU.problem() is None else [])]


def agree(ours: Callable[..., Any], theirs: Callable[..., torch.Tensor], *arrays: NDArray) -> None:
    """Both sides as functions of the arrays and a reduction: values, and gradients of all arrays."""
    for reduction in ("mean", "sum", "none"):
        leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
        expected = theirs(*leaves, reduction=reduction)
        probe = RNG.normal(size=tuple(expected.shape))
        (expected * torch.tensor(probe)).sum().backward()

        def probed(*arrays: Any, reduction: Any = reduction, probe: Any = probe) -> Any:
            found = ours(*arrays, reduction=reduction)
            return (found * probe).sum(), found

        for engine in ENGINES if reduction == "mean" else ENGINES[:1]:
            graded = cr.value_and_grad(probed, tuple(range(len(arrays))), has_aux=True)
            (_, found), slopes = cr.compile(graded, engine=engine)(*arrays)
            np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-9)
            for slope, leaf in zip(slopes, leaves, strict=True):
                assert leaf.grad is not None
                np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=1e-8, atol=1e-12)


def of(loss: Any, targets: Any, **options: Any) -> Callable[..., Any]:
    """A loss of one array of outputs."""
    return lambda y, reduction: loss(y, targets, reduction=reduction, **options)


def of_several(loss: Any, targets: Any, **options: Any) -> Callable[..., Any]:
    """A loss of a tuple of outputs."""
    return lambda *arrays, reduction: loss(arrays, targets, reduction=reduction, **options)


def theirs(loss: Any, *targets: Any, **options: Any) -> Callable[..., torch.Tensor]:
    return lambda *arrays, reduction: loss(*arrays, *map(torch.tensor, targets), reduction=reduction, **options)


def test_soft_margins_are_cross_entropies_of_signs() -> None:
    agree(of(losses.binary_cross_entropy, BITS), theirs(F.soft_margin_loss, SIGNS), Y)


@pytest.mark.parametrize("weighted", [False, True])
def test_multilabel_soft_margin(weighted: bool) -> None:
    weight = BY_CLASS if weighted else None
    ours = of(losses.multilabel_soft_margin, BITS, class_weights=weight)
    agree(
        ours,
        theirs(F.multilabel_soft_margin_loss, BITS * 1.0, weight=None if weight is None else torch.tensor(weight)),
        Y,
    )


def test_binary_cross_entropy_of_probabilities() -> None:
    def ours(p: Any, t: Any, reduction: Any) -> Any:
        return losses.binary_cross_entropy(p, t, from_logits=False, reduction=reduction)

    agree(ours, F.binary_cross_entropy, SHARES, P)
    edges, goal = np.array([0.0, 1.0, 0.0, 1.0, 1e-60]), np.array([0.0, 0, 1, 1, 1])
    agree(of(losses.binary_cross_entropy, goal, from_logits=False), theirs(F.binary_cross_entropy, goal), edges)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, -100, 1])
def test_nll(weighted: bool, ignored: int | None) -> None:
    labels = np.where(np.arange(6) == 4, ignored, LABELS) if ignored == -100 else LABELS
    logs = np.log(P)
    given: dict[str, Any] = {} if ignored is None else {"ignore_index": ignored}
    weight = BY_CLASS if weighted else None
    other = theirs(F.nll_loss, labels, weight=None if weight is None else torch.tensor(weight), **given)
    agree(of(losses.nll, labels, class_weights=weight, **given), other, logs)
    steps = logs.reshape(2, 3, 4)
    inner = theirs(F.nll_loss, labels.reshape(2, 3), weight=None if weight is None else torch.tensor(weight), **given)
    agree(
        of(losses.nll, labels.reshape(2, 3), class_weights=weight, **given),
        lambda y, reduction: inner(y.transpose(1, 2), reduction=reduction),
        steps,
    )


@pytest.mark.parametrize("log_target", [False, True])
def test_divergence_of_logarithms(log_target: bool) -> None:
    """PyTorch's "batchmean" and "sum" are ours; its "none" has a number for each class, of which ours is the sum."""
    goal = np.log(P) if log_target else P

    def other(y: torch.Tensor, reduction: str) -> torch.Tensor:
        each = F.kl_div(y, torch.tensor(goal), reduction="none", log_target=log_target)
        if reduction == "none":
            return each.sum(-1)
        return F.kl_div(
            y, torch.tensor(goal), reduction={"mean": "batchmean"}.get(reduction, reduction), log_target=log_target
        )

    agree(of(losses.kl_divergence, goal, log_input=True, log_target=log_target), other, Y)
    agree(
        of(losses.kl_divergence, goal, log_target=log_target),
        lambda y, reduction: other(torch.log_softmax(y, -1), reduction),
        Y,
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("margin", "p"), [(1.0, 1), (1.0, 2), (0.4, 1), (0.4, 2)])
def test_multi_margin(margin: float, p: Any, weighted: bool) -> None:
    weight = BY_CLASS if weighted else None
    other = theirs(
        F.multi_margin_loss, LABELS, margin=margin, p=p, weight=None if weight is None else torch.tensor(weight)
    )
    agree(of(losses.hinge, LABELS, margin=margin, p=p, class_weights=weight), other, Y)


def test_squared_hinge_of_two_classes() -> None:
    def other(y: torch.Tensor, reduction: str) -> torch.Tensor:
        each = (1 - torch.tensor(SIGNS) * y).clamp(min=0).square()
        return {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]

    agree(of(losses.hinge, BITS, p=2), other, Y)


def test_multilabel_margin() -> None:
    agree(of(losses.multilabel_margin, SETS), theirs(F.multilabel_margin_loss, SETS), Y)
    few = SETS[:, :2]
    padded = np.concatenate([few, np.full((6, 2), -1)], 1)
    agree(of(losses.multilabel_margin, few), theirs(F.multilabel_margin_loss, padded), Y)
    step = cr.compile(lambda y, t: losses.multilabel_margin(y, t), batch=("y", "t"))
    np.testing.assert_allclose(step(Y[:2], SETS[:2]), losses.multilabel_margin(Y[:2], SETS[:2]), rtol=1e-12)
    assert np.isnan(step(Y, np.where(SETS == 3, 4, SETS)))


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_hinge_embedding(margin: float) -> None:
    agree(
        of(losses.hinge_embedding, BITS, margin=margin), theirs(F.hinge_embedding_loss, SIGNS, margin=margin), np.abs(Y)
    )


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_margin_ranking(margin: float) -> None:
    other = theirs(F.margin_ranking_loss, SIGNS, margin=margin)
    agree(of_several(losses.margin_ranking, BITS, margin=margin), other, Y, Z)
    equal = np.zeros((6, 4))
    if not margin:
        agree(of_several(losses.margin_ranking, BITS), other, equal, equal)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("p", "eps", "margin"), [(2.0, 1e-6, 1.0), (1.0, 1e-3, 0.5), (3.0, 1e-6, 2.0), (1.5, 0.1, 0.1)]
)
def test_triplet_margin(p: float, eps: float, margin: float, swap: bool) -> None:
    options: dict[str, Any] = {"margin": margin, "p": p, "eps": eps, "swap": swap}
    agree(of_several(losses.triplet_margin, None, **options), theirs(F.triplet_margin_loss, **options), Y, Z, V)


@pytest.mark.parametrize("swap", [False, True])
def test_triplet_margin_with_a_distance(swap: bool) -> None:
    def ours(u: Any, v: Any) -> Any:
        return 1 - cr.cosine_similarity(u, v)

    def other(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return 1 - F.cosine_similarity(u, v, dim=-1)

    agree(
        of_several(losses.triplet_margin, None, margin=0.4, swap=swap, distance=ours),
        theirs(F.triplet_margin_with_distance_loss, distance_function=other, margin=0.4, swap=swap),
        Y,
        Z,
        V,
    )
    default = theirs(F.triplet_margin_with_distance_loss, swap=swap)
    agree(of_several(losses.triplet_margin, None, swap=swap), default, Y, Z, V)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (6, 1), (6,), ()])
def test_gaussian_nll_with_fewer_variances(shape: tuple[int, ...], full: bool) -> None:
    variance = RNG.uniform(0.05, 2, size=shape)

    def other(y: torch.Tensor, v: torch.Tensor, reduction: str) -> torch.Tensor:
        wide = v[:, None] if v.ndim == 1 else v
        return F.gaussian_nll_loss(y, torch.tensor(Z), wide.expand(6, 4), full=full, eps=0.1, reduction=reduction)

    # An expanded variance is limited after it was expanded, which changes nothing.
    agree(of_several(losses.gaussian_nll, Z, full=full, eps=0.1), other, Y, variance)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("log_input", [False, True])
def test_poisson_nll(full: bool, log_input: bool) -> None:
    counts = RNG.integers(0, 6, size=(6, 4)).astype(float)
    options: dict[str, Any] = {"full": full, "log_input": log_input, "eps": 1e-3}
    agree(of(losses.poisson_nll, counts, **options), theirs(F.poisson_nll_loss, counts, **options), np.abs(Y))


@pytest.mark.parametrize("size", [0.3, 1.0, 2.5])
def test_huber_and_smooth_l1(size: float) -> None:
    agree(of(losses.smooth_l1, Z, beta=0), theirs(F.smooth_l1_loss, Z, beta=0.0), Y)
    agree(of(losses.huber, Z, delta=size), theirs(F.huber_loss, Z, delta=size), Y)
    agree(of(losses.smooth_l1, Z, beta=size), theirs(F.smooth_l1_loss, Z, beta=size), Y)


@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.5])
def test_cosine_embedding(margin: float) -> None:
    signs = np.array([1.0, -1, -1, 1, -1, 1])
    other = theirs(F.cosine_embedding_loss, signs, margin=margin)
    agree(of_several(losses.cosine_embedding, (signs > 0) * 1, margin=margin), other, Y, Z)


@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_over_labels(blank: int, infinite: bool) -> None:
    """PyTorch's "mean" is that of the losses divided by their numbers of labels; "sum" and "none" are ours."""
    logits = RNG.normal(size=(3, 7, 4))
    labels = np.array([[1, 3, 1], [3, -1, -1], [-1, -1, -1]])
    counts, lengths = np.array([3, 1, 0]), np.array([7, 1 if infinite else 4, 2])
    labels[1, 0], labels[1, 1] = 3, 3 if infinite else -1  # does not fit into one step
    counts[1] += infinite

    def other(y: torch.Tensor, reduction: str) -> torch.Tensor:
        logs = torch.log_softmax(y, -1).transpose(0, 1)
        goal = torch.tensor(np.where(labels < 0, 0, labels))
        return F.ctc_loss(logs, goal, torch.tensor(lengths), torch.tensor(counts), blank, reduction, infinite)

    def ours(y: Any, reduction: Any) -> Any:
        return losses.ctc(
            y,
            (labels, lengths),
            blank=blank,
            zero_infinity=infinite,
            per_label=reduction == "mean",
            reduction=reduction,
        )

    agree(ours, other, logits)


def test_what_makes_no_sense_is_refused() -> None:
    cases: list[tuple[Any, Any, str]] = [
        (partial(losses.hinge, Y, LABELS, p=3), ConfigError, "the power p of hinge is 1 or 2, not 3"),
        (partial(losses.hinge, Y, BITS, class_weights=BY_CLASS), ConfigError, "class_weights of hinge are for labels"),
        (
            partial(losses.hinge, Y, LABELS, class_weights=[1.0]),
            ShapeError,
            r"class_weights of shape \(1,\) do not fit",
        ),
        (partial(losses.nll, Y, P), ShapeError, r"nll of logarithms .* needs labels of shape \(6,\), not \(6, 4\)"),
        (partial(losses.nll, Y, LABELS + 1), DataError, "labels of 4 classes are 0 to 3, but row 1 holds 4"),
        (
            partial(losses.binary_cross_entropy, Y, BITS, from_logits=False),
            DataError,
            "needs probabilities from 0 to 1",
        ),
        (
            partial(losses.binary_cross_entropy, P, BITS, from_logits=False, pos_weight=2.0),
            ConfigError,
            "pos_weight of binary_cross_entropy is for logits",
        ),
        (partial(losses.hinge_embedding, Y, SIGNS), DataError, r"hinge_embedding needs targets 0 and 1, but position"),
        (
            partial(losses.margin_ranking, (Y, Z), SIGNS),
            DataError,
            r"margin_ranking needs targets 0 and 1, but position",
        ),
        (
            partial(losses.margin_ranking, (Y, Z[:2]), BITS),
            ShapeError,
            r"two arrays of one shape, not \(6, 4\) and \(2, 4\)",
        ),
        (partial(losses.margin_ranking, Y, BITS), ShapeError, "needs a pair of arrays as outputs, not ndarray"),
        (
            partial(losses.multilabel_margin, Y, LABELS),
            ShapeError,
            r"a row of labels for each row .* not targets of shape \(6,\)",
        ),
        (partial(losses.multilabel_margin, Y, SETS + 1), DataError, r"0 to 3, but position \(0, 0\) holds 4"),
        (partial(losses.multilabel_margin, Y, SETS * 1.0), DTypeError, "needs integer labels, not float64"),
        (partial(losses.gaussian_nll, (Y, P[:, :2]), Z), ShapeError, r"of one shape, not \(6, 4\) and \(6, 2\)"),
        (partial(losses.triplet_margin, (Y, Z, V), p=0), ConfigError, "the power of a norm is more than 0"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
