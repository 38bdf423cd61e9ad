"""How many cores there are to use, and which processor this is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chainrule.engines.cpu import processor
from chainrule.engines.cpu.processor import processor_identity, usable_processors


def test_two_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    assert processor._cores({0, 1, 2, 3}, tmp_path) == 2
    assert processor._cores({0, 2}, tmp_path) == 1
    assert processor._cores({0, 1}, tmp_path) == 2
    assert processor._cores({0, 9}, tmp_path) == 2  # nothing known of 9


def test_the_smallest_quota_around_the_process_counts(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("1:name=old:/ignored\n0::/outer/inner\n")
    inner = tmp_path / "root" / "outer" / "inner"
    inner.mkdir(parents=True)
    assert processor._quota(membership, tmp_path / "root") is None
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert processor._quota(membership, tmp_path / "root") == 1.5
    (inner / "cpu.max").write_text("50000 100000\n")
    assert processor._quota(membership, tmp_path / "root") == 0.5
    assert processor._quota(tmp_path / "missing", tmp_path / "root") is None


@pytest.mark.parametrize(("quota", "threads"), [(None, 3), (0.5, 1), (2.0, 2), (64.0, 3)])
def test_threads_fit_the_cores_and_the_quota(
    quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_cores", lambda *_: 3)
    monkeypatch.setattr(processor, "_quota", lambda *_: quota)
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no affinity")
    assert usable_processors() == threads


def test_the_processor_is_told_by_what_code_depends_on(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    first = "processor\t: 0\nmodel name\t: One\ncpu MHz\t: 2400.1\nflags\t: fpu avx2\n"
    file.write_text(f"{first}\nprocessor\t: 1\nflags\t: another\n")
    assert processor._first_processor(file) == ["model name: One", "flags: fpu avx2"]
    assert processor_identity() == processor_identity()
    assert "MHz" not in processor_identity()
