"""Loops with independent rows: which they are, and that slabs give what the whole batch gives, on any number of threads."""

import re

import numpy as np
import pytest
from tests.engines.cpu.agreement import same_bits
from tests.engines.cpu.standalone import Job, run_jobs

import chainrule as cr
from chainrule import nn, ops
from chainrule.core.trees import tree_map
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.inline import inline_calls
from chainrule.engines.cpu.loading import load_runtime
from chainrule.engines.cpu.loop_ahead import looks_ahead
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.cpu.slabs import has_independent_rows, runs_at_once, slabs_of
from chainrule.engines.cpu.toolchain import NoToolchain, find_toolchain
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.sizes import at
from chainrule.passes import optimise
from chainrule.trace.array import as_array

T, C, H = 12, 5, 40
LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def arrays(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, T, C)), rng.normal(size=(rows, 3))


def graph_of(function, *arguments, batch=("x",)):
    return inline_calls(optimise(cr.trace(function, *arguments, batch=batch)))


def scans(graph):
    return [node for node in graph.nodes if node.primitive.name == "scan"]


def gradients_of(kind, **settings):
    """The loss and the gradients of a recurrent layer with a head, in float64, as a graph."""
    cr.seed(4)
    model = nn.Sequential(LAYERS[kind](C, H, return_state=False, return_sequences=False, **settings), nn.Linear(H, 3))
    model = tree_map(lambda leaf: np.asarray(leaf, np.float64), model)

    def function(model, x, y):
        return cr.value_and_grad(lambda m: ((m(x) - y) ** 2).sum())(model)

    return lambda rows: cr.compile(function, batch=("x", "y"), engine="reference").graph_and_arrays(
        model, *arrays(rows)
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_layers_run_in_slabs_forwards_and_backwards(kind):
    graph, _ = gradients_of(kind)(3)
    found = [slabs_of(node) for node in scans(inline_calls(graph))]
    assert len(found) == 2
    assert all("B" in text for text in found)


def test_products_fetch_what_the_next_step_reads_and_writes():
    """Forward a row of x is read, backward what the forward loop has left; each writes what it leaves, also backwards in time."""
    text = ENGINE.load(gradients_of("lstm")(3)[0]).c_source
    loops = re.findall(r"ahead.ranges = slabs > 1 && step < 11 \? (\d+) : 0;\s+ahead.written = (\d+);", text)
    (ranges, read), (later, read_later) = ((int(count), int(first)) for count, first in loops)
    assert read == 1 and later - read_later == 1
    assert (
        ranges - read == read_later + 1
    )  # the backward loop reads all but the states, which a weight's gradient reads
    assert "(t + (step < 11))" in text and "(t - (step < 11))" in text
    tiles = [part for part in text.split("\nstatic void ")[1:] if part.startswith("tile_")]
    looking = [part for part in tiles if "cr_fetch_ahead(after)" in part]
    assert len(looking) >= 2
    # What such a tile multiplies and writes itself is in the first caches.
    assert not any("CR_FETCH(" in part or "CR_FETCH_TO_WRITE(" in part for part in looking)


@pytest.mark.parametrize(("width", "is_fetched"), [(16, True), (1 << 15, False)])
def test_steps_that_the_second_cache_has_no_room_for_are_not_fetched(width, is_fetched):
    def function(w, h, x):
        return ops.scan(lambda h, x: (h @ w, x[:, :16] + h), h, ops.transpose(x, (1, 0, 2)))

    shapes = (16, 16), (5, 16), (5, 20, width)
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    compiled = cr.compile(function, batch=("h", "x"), engine="reference")
    (scan,) = scans(optimise(compiled.graph_and_arrays(*arrays)[0]))
    assert slabs_of(scan) != "1"
    assert looks_ahead(scan) == is_fetched


@pytest.mark.parametrize("kind", LAYERS)
def test_any_number_of_rows_and_threads_gives_what_the_reference_gives(kind):
    traced = gradients_of(kind)
    program = ENGINE.load(traced(2)[0])
    for rows in (1, 2, 7, 8, 31, 32, 33):
        graph, operands = traced(rows)
        for one, other in zip(same_bits(program, operands), REFERENCE.load(graph)(operands), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_slabs_have_eight_rows_or_four_where_there_are_few():
    graph, _ = gradients_of("lstm")(3)
    (text, *_) = [slabs_of(node) for node in scans(inline_calls(graph))]
    limit = re.fullmatch(r"cr_chunks\(.*, \d+, (.*)\)", text)[1].replace("/", "//")
    few, otherwise = (part.strip() for part in limit.removeprefix("B < 64 ?").split(":"))
    for rows, slabs in ((1, 1), (4, 1), (5, 2), (32, 8), (63, 16), (64, 8), (65, 9), (512, 64)):
        assert eval(few if rows < 64 else otherwise, {"B": rows}) == slabs, rows


def over_time(body, x, *carry):
    return cr.scan(body, carry, ops.transpose(as_array(x), (1, 0, 2)))


def kept(h, row):
    return ops.tanh(row @ np.full((C, H), 0.1) + h @ np.full((H, H), 0.01))


def start(x):
    return x[:, 0, :1] * np.zeros(H)


BODIES = {
    "a mean over the batch": lambda h, row: (h - h.mean(axis=0), h),
    "a sum over the batch": lambda h, row: (ops.tanh(h + (row * row).sum()), h),
    "the size of the batch": lambda h, row: (h * ops.extent(row.shape[0]).astype("float64"), h),
    "another order of the rows": lambda h, row: (ops.flip(h, 0), h),
    "rows of others": lambda h, row: (ops.take(h, (row[:, 0] > 0).astype("int64"), 0), h),
    "a number for each row": lambda h, row: (h + ops.arange(row.shape[0], "float64")[:, None], h),
    "products between rows": lambda h, row: (ops.tanh((h @ h.T) @ h), h),
}


def check(function, rows, batch=("x",)):
    """The results of both engines agree, and do not depend on the number of threads."""
    x = np.random.default_rng(rows).normal(size=(rows, T, C))
    graph = graph_of(function, x, batch=batch)
    for one, expected in zip(same_bits(ENGINE.load(graph), [x]), REFERENCE.load(graph)([x]), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-11)
    return graph


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_look_at_other_rows_run_whole(body):
    def function(x):
        def step(carry, row):
            after, out = body(kept(carry[0], row), row)
            return (after,), out

        return over_time(step, x, start(x))

    graph = check(function, 33)
    assert [slabs_of(node) for node in scans(graph)] == ["1"]


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_without_a_carry_run_on_all_threads(rows, reverse):
    """A loop in each step, results without rows, and steps that look at their number."""

    def function(x):
        def step(_, given):
            part, number = given
            last, every = cr.scan(lambda h, row: (ops.tanh(h + row), h * 2), part[:, 0], part.swapaxes(0, 1))
            square = part @ part.swapaxes(-1, -2)
            return None, (square.sum((1, 2)) + number, last, every.swapaxes(0, 1), number * np.full((3, 2), 0.5))

        parts = ops.transpose(as_array(x), (1, 0, 2)).reshape((3, 4, *x.shape[:1], C * 8))
        return cr.scan(step, None, (parts.transpose(0, 2, 1, 3), np.arange(3.0)), reverse=reverse)[1]

    x = np.random.default_rng(rows).normal(size=(rows, 12, C * 8))
    graph = graph_of(function, x)
    (outer,) = scans(graph)
    with pytest.MonkeyPatch.context() as patch:
        # So little work would not pay for tasks of single rows.
        patch.setattr("chainrule.engines.cpu.slabs.GRAIN", 1)
        assert runs_at_once(outer) and slabs_of(outer) == "(B ? B : 1)"
        program = ENGINE.load(graph)
        assert program.working_bytes(rows)[1] == program.working_bytes(1)[1] > 0
    for one, wanted in zip(same_bits(program, [x]), REFERENCE.load(graph)([x]), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 33])
def test_slabs_draw_the_random_bits_of_their_rows(rows):
    key = np.array([3, 4], np.uint32)

    def function(x):
        def step(carry, row):
            h = kept(carry[0], row)
            return (ops.where(cr.random.bernoulli(0.7, h.shape, key=key), h, 0),), cr.random.bits(h.shape[:1], key=key)

        return over_time(step, x, start(x))

    graph = check(function, rows)
    assert ["B" in slabs_of(node) for node in scans(graph)] == [True]


def test_what_all_rows_share_is_computed_by_every_slab():
    """A counter, a number stacked in every step, and an operand without rows."""

    def function(x, table):
        def step(carry, given):
            (h, count, total), (row, number) = carry, given
            h = kept(h, row) + total
            return (h, count + 1, total * 0.5 + number[:1]), (h[:, :3], count, number * 2)

        steps = ops.transpose(as_array(x), (1, 0, 2))
        return cr.scan(step, (start(x), np.array([3]), np.array([0.1])), (steps, table), reverse=True)

    x, table = arrays(29)[0], np.random.default_rng(1).normal(size=(T, 2))
    graph = graph_of(function, x, table)
    (text,) = [slabs_of(node) for node in scans(graph)]
    assert "B" in text
    for found, wanted in zip(same_bits(ENGINE.load(graph), [x, table]), REFERENCE.load(graph)([x, table]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_loops_in_loops_run_in_the_slabs_of_the_outer_one():
    def function(x):
        def step(carry, row):
            (h,) = carry
            parts = ops.stack([row, row * 2, -row])
            (deeper,), seen = cr.scan(lambda c, part: ((kept(c[0], part),), c[0][:, :2]), (h,), parts)
            return (deeper,), seen.sum(axis=0)

        return over_time(step, x, start(x))

    graph = check(function, 33)
    (outer,) = scans(graph)
    assert "B" in slabs_of(outer)
    assert "B" in slabs_of(scans(outer.attributes["body"])[0])


def test_work_that_all_rows_share_is_not_done_again_for_each_slab():
    def function(x, w):
        def step(carry, row):
            h, v = carry
            v = ops.tanh(v @ w)
            return (ops.tanh(h + row @ v[:C]), v), h

        return over_time(step, x, start(x), w)

    graph = graph_of(function, arrays(2)[0], np.eye(H))
    (loop,) = scans(graph)
    assert has_independent_rows(loop.attributes["body"])
    assert slabs_of(loop) == "1"


@pytest.mark.parametrize(("units", "is_cut"), [(128, True), (256, True), (512, False)])
def test_large_weights_are_divided_among_the_threads_instead(units, is_cut):
    layer = nn.RNN(3, units, return_state=False)
    graph = graph_of(lambda x: layer(x), np.zeros((2, T, 3), np.float32))
    assert ("B" in slabs_of(scans(graph)[0])) == is_cut


def test_a_body_with_a_small_loop_is_not_cut():
    graph, _ = gradients_of("rnn")(2)
    text = slabs_of(scans(inline_calls(graph))[0])
    work, grain = re.fullmatch(r"cr_chunks\(\((\d+) \* B\), (\d+), .*\)", text).groups()
    assert 1 <= int(grain) // int(work) < 32


def attention_gradients(rows):
    """Causal attention in blocks with a mask and dropout: steps without a carry, loops in them, and random bits."""

    def function(q, lengths):
        def loss(q):
            mask = np.arange(70) < as_array(lengths)[:, None, None, None]
            key = np.array([1, 2], np.uint32)
            settings = {"causal": True, "block": 16, "dropout": 0.3, "dropout_key": key}
            return cr.square(cr.scaled_dot_product_attention(q, q, q, mask, **settings)).sum()

        return cr.value_and_grad(loss)(q)

    rng = np.random.default_rng(rows)
    operands = rng.normal(size=(rows, 3, 70, 8)), rng.integers(1, 71, rows)
    return cr.compile(function, batch=("q", "lengths"), engine="reference").graph_and_arrays(*operands)


@pytest.mark.parametrize(
    "flags", [("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ("-fsanitize=thread",)]
)
def test_slabs_stay_in_their_arrays_and_do_not_race(flags, tmp_path):
    jobs = [
        Job(traced(2)[0], [[np.asarray(a) for a in traced(rows)[1]] for rows in (1, 13)])
        for traced in (gradients_of("gru"), attention_gradients)
    ]
    threads = 4 if "thread" in flags[0] else 0
    for job, results in zip(
        jobs, run_jobs(jobs, find_toolchain(), tmp_path, ("-O1", *flags), threads=threads), strict=True
    ):
        for operands, found in zip(job.runs, results, strict=True):
            for one, other in zip(found, REFERENCE.load(job.graph)(operands), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_a_profile_counts_a_nest_of_all_slabs_once_a_turn():
    layer = nn.LSTM(C, H, return_state=False)
    step = cr.compile(lambda x: layer(x), batch=("x",), engine="cpu")
    x = arrays(32)[0].astype(np.float32)
    graph, _ = step.graph_and_arrays(x)
    toolchain = find_toolchain()
    assert not isinstance(toolchain, NoToolchain)
    source = lower(graph, frozenset(), toolchain.vector_bytes, profiled=True).source
    assert "cr_share_out" in source.text
    with load_runtime().using_threads(3):
        profile = step.profile(x, repeats=3)
    turns = [row for row in profile.rows if row.calls > 1]
    assert turns
    assert {row.calls for row in turns} == {T}
    assert sum(row.seconds for row in profile.rows) <= profile.seconds * 1.5
    work = {entry.what: entry.flops for entry in source.work}
    assert all(row.flops == T * at(work[row.what], 32) for row in turns)
