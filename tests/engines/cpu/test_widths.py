"""Code for processors with narrower vectors, AVX2 and plain SSE2: the cases of all primitives, many in one executable."""

import pytest
from tests.engines.cpu.networks import NETWORKS, training_job
from tests.engines.cpu.test_contractions import can_run_avx2
from tests.engines.cpu.test_sanitizers import check, job_of

from chainrule.core.dtypes import ALL
from chainrule.testing import cases

AVX2 = pytest.param("avx2", marks=pytest.mark.skipif(not can_run_avx2(), reason="this processor has no AVX2"))


@pytest.mark.parametrize("target", [AVX2, "sse2"])
def test_some_cases_of_every_primitive(target, tmp_path):
    chosen = {}
    for case in cases("float32"):
        chosen.setdefault(case.primitive, []).append(case)
    jobs = [job_of(case, (1, 5)) for found in chosen.values() for case in found[:: max(1, len(found) // 2)]]
    check(jobs, tmp_path, ("-O1",), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", [AVX2, "sse2"])
@pytest.mark.parametrize("dtype", sorted(ALL))
def test_all_cases(dtype, target, tmp_path):
    check([job_of(case, (0, 1, 2, 5, 67)) for case in cases(dtype)], tmp_path, (), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", [AVX2, "sse2"])
def test_training_steps(target, tmp_path):
    check([training_job(network, (1, 7, 64)) for network in NETWORKS], tmp_path, (), target)
