"""Sections: which nests run slab by slab, and that slabs give what the whole batch gives, on any number of threads."""

import re

import numpy as np
import pytest
from tests.engines.cpu.agreement import same_bits
from tests.engines.cpu.exact_programs import exact_program, operands_of
from tests.engines.cpu.networks import NETWORKS, training_job
from tests.engines.cpu.standalone import run_jobs
from tests.engines.cpu.test_fuzz import quick

import chainrule as cr
from chainrule import nn, ops, optim
from chainrule.core.trees import tree_map
from chainrule.engines.cpu import checks, sections
from chainrule.engines.cpu.engine import ENGINE, CpuEngine
from chainrule.engines.cpu.loading import load_runtime
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.cpu.toolchain import find_toolchain
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.grad import STANDARD
from chainrule.passes import optimise
from chainrule.train.step import make_step, trainable

# Slabs of one row wherever rows are independent, also where that does not pay.
EVERYWHERE = sections.Limits(
    operations_per_byte=0, most_rows=1 << 20, fewest_slabs=1, grain=1, most_bytes=1 << 40, contracts=False
)


def grouping_of(graph, donated=frozenset()):
    return lower(graph, donated, 32).groupings[-1]


def step_of(model, shape, classes=4, dtype=np.float64, seed=3):
    """A training step as a graph, and its operands for any number of rows."""
    cr.seed(seed)
    optimizer = optim.Adam(1e-2, eps=1e-3)
    model = tree_map(lambda leaf: np.asarray(leaf, dtype), model)
    state = {"model": model, "optimizer": optimizer.init(trainable(model)), "step": np.asarray(3, np.int64)}
    step = cr.compile(
        make_step(nn.losses.cross_entropy, optimizer, {}, STANDARD), engine="reference", batch=("x", "y", "weights")
    )

    def traced(rows):
        rng = np.random.default_rng(rows)
        x = rng.normal(size=(rows, *shape)).astype(dtype)
        y, weights = rng.integers(0, classes, rows), rng.random(rows).astype(dtype)
        return step.graph_and_arrays(state, np.array([1, 2], np.uint32), x, y, weights)

    return traced


def convolutional():
    """Batch norm, whose sums part sections, dropout, a shortcut and pooling."""
    block = nn.Sequential(
        *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
    )
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Residual(block), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 36, 4)
    ), (12, 12, 3)


def attentive():
    return nn.Sequential(
        nn.Linear(5, 32), nn.TransformerEncoder(32, 4, 2, 64, dropout=0.1), nn.Flatten(), nn.Linear(32 * 9, 4)
    ), (9, 5)


MODELS = {"convolutional": convolutional, "attentive": attentive}


@pytest.mark.parametrize("kind", MODELS)
def test_any_number_of_rows_and_threads_gives_what_the_reference_gives(kind):
    traced = step_of(*MODELS[kind]())
    graph, _ = traced(2)
    found = grouping_of(graph).sections
    assert sum(len(section.nests) for section in found) > len(found) > 0
    assert any(section.totals for section in found)
    assert kind == "convolutional" or any(section.private for section in found)
    program = ENGINE.load(graph)
    for rows in (1, 7, 8, 33):
        operands = [np.asarray(a) for a in traced(rows)[1]]
        for one, other in zip(same_bits(program, operands), REFERENCE.load(graph)(operands), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_random_bits_of_a_slab_are_those_of_its_rows():
    """Dropout between two products, and bits of another rank that the slabs of one row see at odd places."""

    def function(x, w):
        h = ops.relu(x @ w)
        kept = cr.random.bernoulli(0.5, h.shape, key=np.array([5, 6], np.uint32))
        odd = cr.random.uniform((h.shape[0], 3), key=np.array([7, 8], np.uint32), dtype="float64")
        return ops.where(kept, h, 0.0) @ w, odd

    x, w = np.random.default_rng(0).normal(size=(40, 64, 32)), np.random.default_rng(1).normal(size=(32, 32))
    compiled = [cr.compile(function, batch=("x",), engine=engine) for engine in ("cpu", "reference")]
    graph, _ = compiled[0].graph_and_arrays(x, w)
    (section,) = grouping_of(graph).sections
    assert len(section.nests) > 1
    for one, other in zip(compiled[0](x, w), compiled[1](x, w), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        assert np.array_equal(np.asarray(one) == 0, np.asarray(other) == 0)


# --- which nests ---------------------------------------------------------------------------------------------------


def sections_of(function, x, *others):
    graph = optimise(cr.trace(function, x, *others, batch=("x",)))
    return grouping_of(graph).sections


ROWS = np.zeros((2, 64, 32), np.float32)
WEIGHT = np.eye(32, dtype=np.float32)


def test_products_with_small_weights_are_a_section():
    (section,) = sections_of(lambda x, w: ops.softmax(ops.tanh(x @ w) @ w), ROWS, WEIGHT)
    assert [nest.kind for nest in section.nests] == ["contract", "contract", "rows"]
    assert section.rows == 1


def test_a_product_with_large_weights_has_all_rows_at_once():
    """A row does half an operation for each byte of the weight; one of 32 places does 16."""
    weight, places = np.zeros((512, 512), np.float32), np.zeros((2, 32, 512), np.float32)
    assert sections_of(lambda x, w: ops.tanh(x @ w) @ w, places[:, 0], weight) == []
    (section,) = sections_of(lambda x, w: ops.tanh(x @ w) @ w, places, weight)
    assert section.rows == 2


def test_what_looks_at_other_rows_parts_sections():
    def function(x, w):
        h = ops.tanh(x @ w) @ w
        return ops.tanh((h - h.mean(axis=0)) @ w) @ w

    first, second = sections_of(function, ROWS, WEIGHT)
    assert len(first.totals) == 1
    assert not second.totals


def test_weight_gradients_wait_for_the_section_that_they_need():
    def function(x, w):
        return cr.grad(lambda w: (ops.tanh(ops.tanh(x @ w) @ w) @ w).sum())(w)

    graph = optimise(cr.trace(function, ROWS, WEIGHT, batch=("x",)))
    grouping = grouping_of(graph)
    (section,) = grouping.sections
    outside = [nest for nest in grouping.nests if nest not in section.nests and nest.kind == "contract"]
    assert outside
    assert grouping.nests.index(section.nests[-1]) < grouping.nests.index(outside[0])


def test_maps_alone_are_no_section():
    assert sections_of(lambda x: ops.softmax(ops.softmax(ops.exp(x)), 1), ROWS) == []


def test_the_number_of_slabs_follows_from_sizes():
    graph = optimise(cr.trace(lambda x, w: ops.tanh(x @ w) @ w, ROWS, WEIGHT, batch=("x",)))
    text = lower(graph, frozenset(), 32).source.text
    work, grain = re.search(r"slabs = cr_chunks\(\((\d+) \* B\), (\d+), B\)", text).groups()
    assert int(work) >= 2 * 2 * 64 * 32 * 32
    assert int(grain) == sections.LIMITS.grain


def test_shares_of_an_item_are_for_threads_that_wait():
    """A convolution copies an item for every share of its results; a slab, where one thread runs all of them, has one."""
    weight = np.zeros((3, 3, 36, 36), np.float32)

    def function(x, w):
        return ops.convolution(ops.tanh(ops.convolution(x, w, padding=1)), w, padding=1)

    graph = optimise(cr.trace(function, np.zeros((2, 8, 8, 36), np.float32), weight, batch=("x",)))
    text = lower(graph, frozenset(), 32).source.text
    shares = re.findall(r"const long ranges = (.*), shares = (.*);", text)
    assert shares
    assert all(found.startswith("(in_slab ? 1 : ") for pair in shares for found in pair)
    assert text.count("const _Bool in_slab = slabs > 1;") == 1


def test_the_arena_holds_no_rows_that_only_a_section_needs():
    graph = optimise(cr.trace(lambda x, w: ops.tanh(ops.tanh(x @ w) @ w) @ w, ROWS, WEIGHT, batch=("x",)))
    lowering = lower(graph, frozenset(), 32)
    assert lowering.memories[-1].arena == []
    assert len(lowering.memories[-1].within[0]) == 2


# --- checks --------------------------------------------------------------------------------------------------------


def broken(change):
    graph = optimise(cr.trace(lambda x, w: (ops.tanh(x @ w) @ w, (x @ w).sum(axis=(0, 1))), ROWS, WEIGHT, batch=("x",)))
    grouping = grouping_of(graph)
    checks.check_sections(grouping)
    change(grouping, grouping.sections[0])
    with pytest.raises(AssertionError) as error:
        checks.check_sections(grouping)
    return str(error.value)


def test_a_private_value_that_others_need_is_found():
    message = broken(lambda grouping, section: section.private.update(section.nests[-1].written))
    assert "private to a section" in message or "not there yet" in message


def test_a_sum_that_is_not_noted_is_found():
    assert "no sum over slabs" in broken(lambda grouping, section: section.totals.clear())


def test_nests_apart_are_found():
    assert "follow each other" in broken(lambda grouping, section: section.nests.reverse())


# --- everywhere ----------------------------------------------------------------------------------------------------


@pytest.fixture
def everywhere(monkeypatch):
    monkeypatch.setattr("chainrule.engines.cpu.sections.LIMITS", EVERYWHERE)


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(10, 200, 10))])
def test_random_programs_in_slabs_of_one_row(first, everywhere):
    found = 0
    for seed in range(first, first + 10):
        graph, donated = exact_program(seed)
        found += len(grouping_of(graph, donated).sections)
        program, reference = CpuEngine(quick()).load(graph, donated), REFERENCE.load(graph)
        for batch in (3, 1, 17):
            operands = operands_of(graph, batch, seed)
            expected = reference([x.copy() for x in operands])
            for threads in (1, 3):
                with load_runtime().using_threads(threads):
                    results = program([x.copy() for x in operands])
                for result, right in zip(results, expected, strict=True):
                    np.testing.assert_array_equal(result, right, err_msg=f"seed {seed}, batch {batch}")
    assert found or first


@pytest.mark.parametrize(
    "flags", [("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ("-fsanitize=thread",)]
)
def test_sections_stay_in_their_arrays_and_do_not_race(flags, everywhere, tmp_path):
    jobs = [training_job(name, (1, 5), donated=False) for name in NETWORKS]
    threads = 4 if "thread" in flags[0] else 0
    for job, runs in zip(jobs, run_jobs(jobs, find_toolchain(), tmp_path, ("-O1", *flags), threads=threads)):
        for operands, found in zip(job.runs, runs, strict=True):
            for one, other in zip(found, REFERENCE.load(job.graph)(operands), strict=True):
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5, err_msg=job.name)


def test_a_profile_counts_a_nest_of_all_slabs_once():
    def function(x, w):
        return ops.softmax(ops.tanh(x @ w) @ w)

    x = np.random.default_rng(0).normal(size=(32, 64, 32)).astype(np.float32)
    step = cr.compile(function, batch=("x",), engine="cpu")
    with load_runtime().using_threads(3):
        profile = step.profile(x, WEIGHT, repeats=3)
    assert [row.calls for row in profile.rows] == [1, 1, 1]
    assert all(row.seconds > 0 for row in profile.rows)
