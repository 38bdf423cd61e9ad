"""What the processor is, as far as compiled code depends on it, and how many of it this process may use."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Collection
from functools import cache
from pathlib import Path

_TELLING_X86 = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"}
_TELLING_ARM = {"Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part"}
_TELLING = _TELLING_X86 | _TELLING_ARM | {"isa", "uarch"}


@cache
def processor_identity() -> str:
    """Text that differs between processors that may not run each other's code."""
    parts = [platform.system(), platform.machine(), platform.libc_ver()[0]]
    try:
        parts += _first_processor(Path("/proc/cpuinfo"))
    except OSError:
        parts.append(_brand())
    return "\n".join(parts)


def _first_processor(file: Path) -> list[str]:
    lines: list[str] = []
    with file.open(encoding="utf-8", errors="replace") as text:
        for line in text:
            name, colon, value = line.partition(":")
            if not colon and lines:
                break
            if name.strip() in _TELLING:
                lines.append(f"{name.strip()}: {value.strip()}")
    return lines


def _brand() -> str:
    if platform.system() != "Darwin":
        return platform.processor()
    asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return platform.processor()


def usable_processors() -> int:
    """Cores that this process may run on, by its affinity and by the quota of its control group.

    Two hardware threads of one core count once: they share the arithmetic units, which generated code keeps busy.
    """
    if hasattr(os, "sched_getaffinity"):
        count = _cores(os.sched_getaffinity(0), Path("/sys/devices/system/cpu"))
    else:
        count = os.cpu_count() or 1
    quota = _quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, count if quota is None else min(count, round(quota)))


def _cores(allowed: Collection[int], root: Path) -> int:
    try:
        return len({(root / f"cpu{number}/topology/thread_siblings_list").read_text() for number in allowed})
    except OSError:
        return len(allowed)


def _quota(membership: Path, root: Path) -> float | None:
    """The smallest quota, in processors, of the control groups (version 2) around this process; None without one."""
    try:
        own = next(line[3:].strip() for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    quotas = []
    folder = root / own.lstrip("/")
    while folder == root or root in folder.parents:
        try:
            limit, period = (folder / "cpu.max").read_text().split()
            if limit != "max":
                quotas.append(int(limit) / int(period))
        except (OSError, ValueError):
            pass
        folder = folder.parent
    return min(quotas, default=None)
