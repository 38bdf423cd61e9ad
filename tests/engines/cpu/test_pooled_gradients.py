"""Gradients of pooled and rectified images: computed where a weight's gradient copies them, added up on the way, from conditions
that are kept instead of images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu import conditions
from chainrule.engines.cpu.engine import ENGINE, CpuEngine
from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.loading import load_runtime
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise


def graph_of(rows, size=(8, 8), channels=(1, 16, 16), window=2, stride=None, padding=1, pooled=True, dtype=np.float64):
    """A training step of two convolutions with biases, each rectified; the first is pooled."""
    rng = np.random.default_rng(rows)
    first, middle, last = channels
    u, w = (rng.normal(size=(3, 3, *pair)).astype(dtype) for pair in ((first, middle), (middle, last)))
    a, b = (rng.normal(size=count).astype(dtype) for count in (middle, last))
    x = rng.normal(size=(rows, *size, first)).astype(dtype)

    def loss(u, a, w, b, x):
        y = ops.relu(ops.convolution(x, u, padding=padding) + a)
        if pooled:
            y = ops.max_pool(y, (window, window), stride)
        return (ops.relu(ops.convolution(y, w, padding=1) + b) ** 2).sum()

    def step(u, a, w, b, x):
        return cr.value_and_grad(loss, argnums=(0, 1, 2, 3))(u, a, w, b, x)

    compiled = cr.compile(step, engine="reference", batch=("x",))
    graph, arrays = compiled.graph_and_arrays(u, a, w, b, x)
    return optimise(graph), arrays


@pytest.fixture
def everything_counts(monkeypatch):
    monkeypatch.setattr(conditions, "SMALLEST", 0)


def check(many_rows, tolerance=1e-10, **how):
    graph, _ = graph_of(2, **how)
    program, runtime = CpuEngine().load(graph), load_runtime()
    for rows in many_rows:
        _, arrays = graph_of(rows, **how)
        expected, found = REFERENCE.load(graph)(arrays), []
        for threads in (1, 2, 3, 4):
            with runtime.using_threads(threads):
                found.append([np.array(result) for result in program(arrays)])
        for results in found[1:]:
            for one, other in zip(found[0], results, strict=True):
                assert one.tobytes() == other.tobytes(), rows
        for one, right in zip(found[0], expected, strict=True):
            np.testing.assert_allclose(one, right, rtol=tolerance, atol=tolerance * (1 + abs(right).max()))


def contractions(graph):
    grouping = lower(graph, frozenset(), 64).groupings[-1]
    return grouping, [nest for nest in grouping.nests if nest.kind == "contract"]


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [((8, 8), 2, None, 1), ((7, 9), 2, None, 1), ((9, 7), 3, 2, 0), ((8, 11), 3, None, 2), ((9, 9), 2, 3, 1)],
)
def test_results_are_those_of_the_reference_for_any_number_of_rows_and_threads(
    size, window, stride, padding, everything_counts
):
    check((1, 3, 17, 70), size=size, window=window, stride=stride, padding=padding)


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    channels=st.tuples(st.integers(1, 3), st.sampled_from([1, 5, 16, 32]), st.sampled_from([4, 16, 19])),
    window=st.integers(2, 3),
    stride=st.sampled_from([None, 1, 2, 3]),
    pooled=st.booleans(),
    rows=st.integers(1, 40),
)
def test_drawn_networks_have_the_gradients_of_the_reference(size, channels, window, stride, pooled, rows):
    before, conditions.SMALLEST = conditions.SMALLEST, 0
    try:
        check((rows,), size=size, channels=channels, window=window, stride=stride, pooled=pooled)
    finally:
        conditions.SMALLEST = before


def test_the_first_weights_gradient_computes_its_operand_and_adds_it_up():
    grouping, products = contractions(graph_of(2)[0])
    (first,) = [nest for nest in products if nest.node.output.shape == (3, 3, 1, 1, 16)]
    assert [node.output.shape for node in first.operand_sums] == [(16,)]
    assert not any(grouping.is_stored(node.inputs[0]) for node in first.operand_sums)
    assert not any(nest.kind == "reduce_sum" for nest in grouping.nests)


def test_weights_gradients_by_winograds_algorithms_add_up_their_operand(monkeypatch):
    """Sixteen channels and more, 3 x 3: their copies compute what is pooled back, where that is chosen."""
    monkeypatch.setattr(Grouping, "_is_cheaper", lambda self, value, readers, stored: True)
    for channels, size in (((16, 32, 16), (10, 12)), ((32, 16, 16), (7, 9))):
        how = {"channels": channels, "size": size, "dtype": np.float32}
        _, products = contractions(graph_of(2, **how)[0])
        (first,) = [nest for nest in products if nest.node.output.shape == (3, 3, channels[0], 1, channels[1])]
        assert [node.output.shape for node in first.operand_sums] == [(channels[1],)]
        check((3, 8, 33), tolerance=2e-5, **how)


def kept(graph):
    """The conditions that are in memory."""
    grouping = lower(graph, frozenset(), 64).groupings[-1]
    return grouping, [value for nest in grouping.nests for value in nest.written if value.dtype == "bool"]


def test_a_condition_is_kept_where_the_image_is_pooled_at_once(everything_counts):
    grouping, found = kept(graph_of(2, size=(16, 16))[0])
    assert [value.shape[1:] for value in found] == [(16, 16, 16)]
    (image,) = {grouping.canonical(value) for value in grouping.makers[found[0]].inputs if grouping.is_stored(value)}
    # Only slabs of it are ever in memory, and what comes late reads the condition.
    assert any(image in section.private for section in grouping.sections)
    assert any(found[0] in nest.reads for nest in grouping.nests)


def test_no_condition_is_kept_beside_an_image_that_is_needed_later(everything_counts):
    """The second weight's gradient needs the rectified image itself."""
    assert not kept(graph_of(2, size=(16, 16), pooled=False)[0])[1]


def test_who_needs_the_image_as_well_says_that_it_reads_the_condition(everything_counts):
    """A nest that comes early, and computes the condition from the image, finds it in memory now."""
    big = np.ones((3, 3, 1, 96), "float32"), np.ones((3, 3, 96, 96), "float32") / 96

    def function(x, u):
        y = ops.tanh(ops.convolution(x, u, padding=1))
        chosen = ops.where(y > 0.5, 1.5, 2.0)
        early = ops.max_pool(y * chosen + y.sum(axis=(0, 1, 2)), (2, 2))
        # Most is in memory here, so that a byte beside the image is no more.
        wide = ops.tanh(ops.convolution(x, big[0] * early.mean(), padding=1))
        return early, chosen * ops.tanh(ops.convolution(wide, big[1], padding=1)).mean()

    rng = np.random.default_rng(0)
    u = rng.normal(size=(3, 3, 1, 16)).astype("float32")
    graph = optimise(cr.trace(function, rng.normal(size=(2, 16, 16, 1)).astype("float32"), u, batch=("x",)))
    grouping, (condition,) = kept(graph)
    assert sum(condition in nest.reads for nest in grouping.nests) == 2
    program = CpuEngine().load(graph)
    for rows in (1, 7, 33):
        arrays = [rng.normal(size=(rows, 16, 16, 1)).astype("float32"), u]
        for one, right in zip(program(arrays), REFERENCE.load(graph)(arrays), strict=True):
            np.testing.assert_allclose(one, right, rtol=2e-5, atol=2e-5 * abs(right).max())


def test_what_a_caller_sees_is_kept():
    """An image that is a result stays one."""

    def loss(u, x):
        y = ops.relu(ops.convolution(x, u, padding=1))
        return (ops.max_pool(y, (2, 2)) ** 2).sum(), y

    rng = np.random.default_rng(0)
    u, x = rng.normal(size=(3, 3, 1, 16)), rng.normal(size=(5, 8, 8, 1))

    def step(u, x):
        return cr.value_and_grad(loss, has_aux=True)(u, x)

    graph, arrays = cr.compile(step, engine="reference", batch=("x",)).graph_and_arrays(u, x)
    graph = optimise(graph)
    for one, right in zip(ENGINE.load(graph)(arrays), REFERENCE.load(graph)(arrays), strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-10, atol=1e-10)


def test_infinities_and_nan_pass_as_in_the_reference(everything_counts):
    graph, _ = graph_of(2)
    program = CpuEngine().load(graph)
    for bad in (np.inf, -np.inf, np.nan):
        _, arrays = graph_of(9)
        arrays = [np.array(array) for array in arrays]
        arrays[-1][4, 3, 3, 0] = bad
        for one, right in zip(program(arrays), REFERENCE.load(graph)(arrays), strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-10, atol=1e-10)
