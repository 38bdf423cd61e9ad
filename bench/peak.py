"""The machine's peak in float32, as the cpu engine measures it for its profiles, in a process of its own."""

from __future__ import annotations

from bench.steps import NotApplicableError
from bench.workloads import Product, Workload
from chainrule.engines.cpu.peak import measured_peak
from chainrule.engines.cpu.toolchain import NoToolchain, find_toolchain


class Peak:
    """Its only number is the peak in GFLOP/s; it is not timed."""

    steps = 0

    def compared(self) -> list[float]:
        found = find_toolchain()
        if isinstance(found, NoToolchain):
            raise NotApplicableError(found.reason)
        return [1e-9 * measured_peak(found).flops["float32"]]

    def call(self) -> None:
        raise NotImplementedError


def build(workload: Workload | Product, form: str) -> Peak:
    return Peak()
