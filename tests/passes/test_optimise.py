"""All passes together keep every bit of every result; pruning and merging, and what they must leave alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.core.errors import GraphError
from chainrule.engines.reference import ENGINE
from chainrule.grad import STANDARD, backprop_graph
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Value
from chainrule.ir.verify import verify
from chainrule.passes import PASSES, optimise, pipeline
from chainrule.passes.merge import attribute_key, merge_equal
from chainrule.passes.prune import prune
from chainrule.testing import random_program

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1e-310, 1e300]
ROW = ArrayType((3,), "float64")


def operands_for(graph, seed, special):
    rng = np.random.default_rng(seed)
    drawn = []
    for value in graph.inputs:
        x = np.asarray(rng.normal(size=[d if isinstance(d, int) else 5 for d in value.shape]))
        if special:
            x = np.where(rng.random(x.shape) < 0.2, rng.choice(SPECIAL, x.shape), x)
        with np.errstate(all="ignore"):
            drawn.append(x.astype(value.dtype))
    return drawn


def check_bits(graph, seed=0, special=False):
    operands = operands_for(graph, seed, special)
    expected = ENGINE.load(graph)(operands)
    for name, rewrite in [*PASSES, ("all", optimise)]:
        found = ENGINE.load(verify(rewrite(graph)))(operands)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype, name
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
            if ours.dtype.kind == "f":
                numbers = ~np.isnan(theirs)
                np.testing.assert_array_equal(np.signbit(ours[numbers]), np.signbit(theirs[numbers]), err_msg=name)


@settings(max_examples=150)
@given(st.data(), st.booleans())
def test_passes_keep_every_bit(data, special):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    graph = random_program(lambda options: data.draw(st.sampled_from(list(options))), dtype=dtype)
    check_bits(graph, special=special)


@settings(max_examples=30)
@given(st.data())
def test_passes_keep_every_bit_of_gradients(data):
    graph = random_program(lambda options: data.draw(st.sampled_from(list(options))), smooth=True, steps=6)
    check_bits(backprop_graph(graph, STANDARD))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 8000, 2000))
def test_passes_keep_every_bit_of_thousands_of_programs(start):
    for seed in range(start, start + 2000):
        choose = random.Random(seed).choice
        check_bits(random_program(choose, dtype=choose(["float32", "float64"]), steps=18), seed, special=bool(seed % 2))


@given(st.data())
def test_optimising_twice_changes_nothing_more(data):
    graph = optimise(random_program(lambda options: data.draw(st.sampled_from(list(options)))))
    assert len(optimise(graph).nodes) <= len(graph.nodes)


def test_an_observer_sees_the_graph_after_every_pass():
    b = Builder()
    x = b.input(ROW)
    b.exp(x)
    seen = []
    optimise(b.finish("g", [b.neg(b.neg(x))]), lambda name, graph: seen.append((name, len(graph.nodes))))
    assert seen == [
        ("prune", 2),
        ("simplify", 1),
        ("merge_equal", 1),
        ("move_out_of_loops", 1),
        ("simplify_again", 1),
        ("prune_again", 0),
    ]


# --- prune ----------------------------------------------------------------------------------------------------------------


def names(graph):
    return [node.primitive.name for node in graph.nodes]


def test_passes_keep_what_they_do_not_change():
    b = Builder()
    x = b.input(ROW, "x")
    kept = b.tanh(x)
    b.exp(x)
    graph = b.finish("example", [b.mul(b.add(kept, b.full_like(x, -0.0)), x)])
    optimised = optimise(graph)
    assert optimised.inputs == graph.inputs
    assert optimised.nodes[0] is graph.nodes[0]
    assert [node.primitive.name for node in optimised.nodes] == ["tanh", "mul"]
    for name, rewrite in PASSES:
        assert rewrite(optimised) is optimised, name


def wrongly_typed(graph):
    """A node in place of another whose result it does not compute."""
    node = replace(graph.nodes[-1], outputs=(Value(ArrayType((4,), "float64")),))
    return replace(graph, nodes=(*graph.nodes[:-1], node), outputs=node.outputs)


def with_another_result(graph):
    b = Builder()
    (x,) = (b.input(value.type, value.name) for value in graph.inputs)
    return b.finish(graph.name, [b.reduce_sum(x, (0,))])


def without_what_it_reads(graph):
    return replace(graph, nodes=graph.nodes[1:])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (wrongly_typed, "its results are typed"),
        (with_another_result, "the pass mistaken changed the types"),
        (without_what_it_reads, "used before it is defined"),
    ],
)
def test_mistakes_of_a_pass_are_found(mistake, message, monkeypatch):
    b = Builder()
    x = b.input(ROW, "x")
    graph = b.finish("example", [b.mul(b.tanh(x), x)])
    monkeypatch.setattr(pipeline, "PASSES", (*PASSES, ("mistaken", mistake)))
    with pytest.raises(GraphError, match=message):
        optimise(graph)


def test_what_no_output_needs_is_dropped():
    b = Builder()
    x = b.input(ROW)
    y = b.exp(x)
    b.sin(y)
    b.cos(x)
    pruned = prune(b.finish("g", [y]))
    assert names(pruned) == ["exp"]
    assert pruned.inputs == (x,), "inputs are the callers' business"


def scan_of_three():
    """Carries a, b, c: a needs b, c nothing else; stacked a and a·b; constants k (read by a) and m (by nothing)."""
    inner = Builder()
    k, m, a, b_, c, x, unused = (inner.input(ROW) for _ in range(7))
    following = inner.add(inner.mul(a, k), b_)
    body = inner.finish("body", [following, b_, inner.mul(c, x), following, inner.mul(a, b_)])
    b = Builder()
    operands = [b.input(ROW) for _ in range(5)]
    steps = [b.input(ArrayType((2, 3), "float64")) for _ in range(2)]
    results = b.scan(body, [*operands, *steps], length=2, consts=2, carries=3, reverse=False)
    del m, unused
    return b, results


@pytest.mark.parametrize(
    ("kept", "carries", "consts", "steps", "stacked"),
    [
        ((0,), 2, 1, 0, 0),
        ((1,), 1, 0, 0, 0),
        ((2,), 1, 0, 1, 0),
        ((3,), 2, 1, 0, 1),
        ((4,), 2, 1, 0, 1),
        ((0, 2, 4), 3, 1, 1, 1),
    ],
)
def test_scans_keep_only_what_their_kept_results_need(kept, carries, consts, steps, stacked):
    b, results = scan_of_three()
    graph = b.finish("g", [results[k] for k in kept])
    pruned = verify(prune(graph))
    (node,) = pruned.nodes
    assert (node.attributes["carries"], node.attributes["consts"]) == (carries, consts)
    assert len(node.inputs) == consts + carries + steps
    assert len(node.outputs) == carries + stacked
    operands = operands_for(graph, 0, special=False)
    for ours, theirs in zip(ENGINE.load(pruned)(operands), ENGINE.load(graph)(operands), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_bodies_are_pruned_too():
    inner = Builder()
    x = inner.input(ROW)
    y = inner.exp(x)
    inner.sin(x)
    body = inner.finish("body", [y])
    b = Builder()
    z = b.input(ROW)
    (node,) = prune(b.finish("g", b.call(body, [z], label="op", backward=None))).nodes
    assert names(node.attributes["body"]) == ["exp"]


# --- merge ----------------------------------------------------------------------------------------------------------------


def test_equal_nodes_become_one():
    b = Builder()
    x = b.input(ROW)
    first, second = b.exp(x), b.exp(x)
    third = b.add(first, b.full_like(x, 2))
    fourth = b.add(second, b.full_like(x, 2))
    graph = b.finish("g", [third, fourth, first])
    merged = verify(merge_equal(graph))
    assert names(merged) == ["exp", "constant", "broadcast", "add"]
    assert merged.outputs[0] is merged.outputs[1]
    found = ENGINE.load(merged)([np.arange(3.0)])
    assert not np.may_share_memory(found[0], found[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array(0.0), np.array(-0.0)),
        (np.array(0), np.array(0.0)),
        (np.zeros(2), np.zeros((2, 1))),
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ((1, 2), (2, 1)),
        ("1", 1),
        (None, 0),
    ],
    ids=str,
)
def test_attributes_that_only_compare_equal_are_different(one, other):
    assert attribute_key(one) != attribute_key(other)
    assert attribute_key(one) == attribute_key(one)


def test_nan_attributes_are_equal_to_themselves():
    assert attribute_key(float("nan")) == attribute_key(float("nan"))
    assert attribute_key(np.array(np.nan)) == attribute_key(np.array(np.nan))


def test_loops_are_left_apart_but_merged_inside():
    inner = Builder()
    x = inner.input(ROW)
    body = inner.finish("body", [inner.add(inner.exp(x), inner.exp(x))])
    b = Builder()
    y = b.input(ROW)
    calls = [b.call(body, [y], label="op", backward=None)[0] for _ in range(2)]
    merged = merge_equal(b.finish("g", calls))
    assert names(merged) == ["call", "call"]
    assert [names(node.attributes["body"]) for node in merged.nodes] == [["exp", "add"]] * 2


def test_draws_from_different_streams_stay_different():
    b = Builder()
    key = b.input(ArrayType((2,), "uint32"))
    draws = [b.random_bits(key, b.constant(n, "uint32"), (3,)) for n in (1, 2, 1)]
    merged = merge_equal(b.finish("g", draws))
    first, second, third = ENGINE.load(merged)([np.array([1, 2], np.uint32)])
    assert names(merged).count("random_bits") == 2
    assert (first != second).any()
    np.testing.assert_array_equal(first, third)
