"""The generated code under sanitizers: it reads and writes nothing but its arrays, does nothing that C leaves undefined, and has no
races; and its results are those of the reference engine."""

import random

import numpy as np
import pytest
from tests.engines.cpu import standalone
from tests.engines.cpu.networks import NETWORKS, training_job
from tests.engines.cpu.standalone import FailedRunError, Job, run_jobs
from tests.engines.cpu.test_winograd import all_three, multiplications, operands

from chainrule.core.dtypes import ALL
from chainrule.engines.cpu import (
    conditions,
    tile_regions,
    tile_units,
    winograd_blocks,
    winograd_gradients,
    winograd_results,
)
from chainrule.engines.cpu.toolchain import find_toolchain
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH, shape_at
from chainrule.passes import optimise
from chainrule.testing import cases, random_program
from chainrule.transforms import trace

ADDRESSES = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
RACES = ("-O1", "-fsanitize=thread")
# The primitives whose places are not simply those of the loops.
MOVING = ["argmax", "concatenate", "contract", "fixed_point", "flip", "gather", "pad", "reduce_max", "reduce_sum"]
MOVING += ["scan", "scatter_add", "slice", "transpose"]
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-9}}


def check(jobs, tmp_path, flags, target="native", threads=0):
    toolchain = find_toolchain(target)
    for job, runs in zip(jobs, run_jobs(jobs, toolchain, tmp_path, flags, threads=threads)):
        reference = REFERENCE.load(job.graph)
        for given, found in zip(job.runs, runs, strict=True):
            for result, expected in zip(found, reference([x.copy() for x in given]), strict=True):
                if result.dtype.kind == "f":
                    np.testing.assert_allclose(result, expected, **TOLERANCE[result.dtype.name], err_msg=job.name)
                else:
                    np.testing.assert_array_equal(result, expected, err_msg=job.name)


def job_of(case, batches):
    """A case at several batch sizes, less those that the reference engine refuses."""
    graph, runs = case.graph(), []
    for batch in batches if case.is_symbolic else (5,):
        given = case.operands(batch)
        try:
            REFERENCE.load(graph)(given)
        except Exception:
            continue
        runs.append(given)
    return Job(graph, runs, name=str(case))


def random_job(seed, batches):
    graph = random_program(random.Random(seed).choice, dtype="float64", steps=14)
    rng = np.random.default_rng(seed)
    runs = [[np.asarray(rng.normal(size=shape_at(v.shape, batch))) for v in graph.inputs] for batch in batches]
    return Job(graph, runs, frozenset(range(seed % 2 * len(graph.inputs))), f"program {seed}")


def test_cases_stay_in_their_arrays(tmp_path):
    found = [case for case in cases("float32") if case.primitive in MOVING]
    check([job_of(case, (1, 6)) for case in found[::4]], tmp_path, ADDRESSES)


def test_a_training_step_stays_in_its_arrays(tmp_path):
    check([training_job("perceptron", (1, 13))], tmp_path, ADDRESSES)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", sorted(ALL))
def test_all_cases_stay_in_their_arrays(dtype, tmp_path):
    check([job_of(case, (0, 1, 2, 5, 67)) for case in cases(dtype)], tmp_path, ADDRESSES)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 20))
def test_random_programs_stay_in_their_arrays(first, tmp_path):
    check([random_job(seed, (1, 4)) for seed in range(first, first + 20)], tmp_path, ADDRESSES)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["native", "sse2"])
@pytest.mark.parametrize("network", NETWORKS)
def test_training_steps_stay_in_their_arrays(network, target, tmp_path):
    check([training_job(network, (1, 2, 7, 33, 64))], tmp_path, ADDRESSES, target)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_threads_of_a_training_step_do_not_race(network, tmp_path):
    check([training_job(network, (3, 640))], tmp_path, RACES, threads=4)


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("x_0[i0]", "x_0[i0 + 1]", "heap-buffer-overflow"),
        ("x_0[i0]", "x_0[i0 - 1]", "heap-buffer-overflow"),
        ("[i0] = ", "[(i0 << (62 + B)) % 1] = ", "shift exponent"),
    ],
)
def test_errors_would_be_seen(right, wrong, complaint, tmp_path, monkeypatch):
    def broken(*arguments):
        lowering = lower(*arguments)
        assert right in lowering.source.text
        lowering.source.text = lowering.source.text.replace(right, wrong)
        return lowering

    lower = standalone.lower
    monkeypatch.setattr(standalone, "lower", broken)
    builder = Builder()
    graph = builder.finish("negative", [builder.neg(builder.input(ArrayType((BATCH,), "float32"), "x"))])
    with pytest.raises(FailedRunError, match=complaint):
        check([Job(graph, [[np.ones(4, np.float32)]])], tmp_path, ADDRESSES)


@pytest.mark.parametrize(("flags", "threads"), [(ADDRESSES, 0), (RACES, 3)])
def test_pooled_images_and_their_gradients_stay_in_their_arrays(tmp_path, monkeypatch, flags, threads):
    """Conditions are kept instead of images, slabs of which are pooled; gradients are computed, and added up, where they are copied."""
    monkeypatch.setattr(conditions, "SMALLEST", 0)
    check([training_job("convolutional", (1, 2, 33, 150))], tmp_path, flags, threads=threads)


@pytest.mark.parametrize(("flags", "threads"), [(ADDRESSES, 0), (RACES, 3)])
def test_regions_stay_in_their_arrays(tmp_path, monkeypatch, flags, threads):
    for name, value in (("SUMS", 1 << 12), ("COPIES", 1 << 12), ("FEWEST_ALONG", 20), ("LARGE_WEIGHT", 1 << 14)):
        monkeypatch.setattr(tile_regions, name, value)
    rng, jobs = np.random.default_rng(0), []
    for transposed in (False, True):
        b = Builder()
        x = b.input(ArrayType((BATCH, 133), "float64"), "x")
        w = b.input(ArrayType((150, 133) if transposed else (133, 150), "float64"), "w")
        y = b.tanh(b.matmul(x, b.transpose(w, (1, 0)) if transposed else w))
        graph = b.finish("layer", [y, b.matmul(b.transpose(x, (1, 0)), y)])
        runs = [[rng.normal(size=shape_at(v.shape, batch)) for v in graph.inputs] for batch in (1, 31, 70)]
        jobs.append(Job(graph, runs, name=f"layer, transposed: {transposed}"))
    check(jobs, tmp_path, flags, threads=threads)


SHORT = (
    pytest.param((9, 8), 3, 1, 1, marks=pytest.mark.slow),
    pytest.param((9, 10), 3, 2, ((0, 1), (2, 1)), marks=pytest.mark.slow),
    ((8, 11), 5, 2, 2),
)


@pytest.mark.parametrize(("flags", "threads"), [pytest.param(ADDRESSES, 0, marks=pytest.mark.slow), (RACES, 3)])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), SHORT)
def test_short_convolutions_stay_in_their_arrays(tmp_path, monkeypatch, size, kernel, stride, padding, flags, threads):
    """In phases of a stride, lopsided, in small chunks with slices of channels; and computed from their definition."""
    for home in (tile_units, winograd_results, winograd_gradients):
        monkeypatch.setattr(home, "TILE_GRAIN", 1000)
    monkeypatch.setattr(winograd_blocks, "FEWEST_VECTORS", 1)
    arrays = operands(size, (kernel, kernel), 16, 64, stride, padding, dtype="float64")
    assert any(multiplications(all_three(stride, padding), *arrays))
    graph = optimise(trace(all_three(stride, padding), *arrays, batch=("x", "g")))
    rng = np.random.default_rng(0)
    runs = [[rng.normal(size=shape_at(v.shape, batch)) for v in graph.inputs] for batch in (1, 9)]
    runs.append([x.copy() for x in runs[-1]])
    runs[-1][0][4, 3, 3, 2] = np.nan
    check([Job(graph, runs, name=f"{kernel} taps, a stride of {stride}")], tmp_path, flags, threads=threads)
