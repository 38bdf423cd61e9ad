"""Every table keyed by primitive covers the primitive table, and names nothing that is not in it."""

from __future__ import annotations

import inspect

import pytest

from chainrule.core.dtypes import ALL
from chainrule.engines.cpu.nest import ELEMENTWISE
from chainrule.engines.cpu.straight import WRITERS
from chainrule.engines.reference.engine import LOOPS
from chainrule.engines.reference.kernels import KERNELS, UFUNCS, VIEWS
from chainrule.grad.standard import NOT_DIFFERENTIABLE, STANDARD
from chainrule.ir.attributes import _KINDS
from chainrule.ir.build import Builder
from chainrule.ir.primitives import PRIMITIVES
from chainrule.passes.simplify import RULES
from chainrule.testing import ORACLES, cases
from chainrule.testing.cases import uncovered

NAMES = sorted(PRIMITIVES)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_engine_has_exactly_one_kernel(name):
    assert (name in KERNELS) + (name in LOOPS) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_cpu_engine_can_write_it(name):
    """Elementwise ones are expressions in C, wherever they stand; straight-line C has all but loops."""
    assert name in ELEMENTWISE or PRIMITIVES[name].family not in ("map", "compare")
    assert (name in WRITERS) + (name in LOOPS) == 1


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_gradient_rule_or_a_reason_for_having_none(name):
    assert (name in STANDARD.table) + bool(NOT_DIFFERENTIABLE.get(name)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_slow_definition_and_a_builder_method(name):
    assert name in ORACLES
    method = inspect.signature(getattr(Builder, name)).parameters
    assert set(PRIMITIVES[name].attributes) - {"spec"} <= set(method), "the method takes the attributes by name"


@pytest.mark.parametrize("name", NAMES)
def test_its_row_says_what_it_means(name):
    primitive = PRIMITIVES[name]
    assert primitive.name == name
    assert primitive.meaning
    assert set(primitive.attributes) <= set(_KINDS)


def test_no_table_names_anything_else():
    for table in (
        KERNELS,
        LOOPS,
        UFUNCS,
        VIEWS,
        STANDARD.table,
        NOT_DIFFERENTIABLE,
        ORACLES,
        RULES,
        ELEMENTWISE,
        WRITERS,
    ):
        assert set(table) <= set(PRIMITIVES)


def test_no_attribute_is_described_without_being_used():
    assert set(_KINDS) == {attribute for primitive in PRIMITIVES.values() for attribute in primitive.attributes}


def test_every_primitive_has_cases():
    assert not uncovered()


@pytest.mark.parametrize("dtype", sorted(ALL))
def test_cases_are_distinct_and_cover_sizes_1_prime_and_0(dtype):
    found = cases(dtype)
    labels = [str(case) for case in found]
    assert len(set(labels)) == len(labels)
    sizes = {size for case in found for type in case.types for size in type.shape if isinstance(size, int)}
    assert {0, 1, 2, 3, 5, 7} <= sizes
    assert any(case.is_symbolic for case in found)
