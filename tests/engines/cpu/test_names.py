"""Names come from users: in the C they are part of identifiers and comments, and never anything else."""

import re

import numpy as np
import pytest

from chainrule.engines.cpu.engine import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Origin
from chainrule.ir.sizes import BATCH

HOSTILE = [
    '*/ #error "out" /*',
    "*/",
    "**//**/",
    "/*/",
    "ends with a backslash\\",
    "line\\\n#error continued",
    "line\n#error next",
    "return\r#error",
    "??/\n#error trigraph",
    "??/",
    '"; } int main() { "',
    "%s%n",
    "größe \u202e\u2028\x00\x1b[31m",
    "while",
    "B",
    "frame",
    "",
    "a" * 5000 + "*/",
]


def program(name):
    builder = Builder()
    builder.origin = Origin(name, name, 1)
    x, w = builder.input(ArrayType((BATCH, 20), "float32"), name), builder.input(ArrayType((20, 30), "float32"), name)
    product = builder.matmul(x, w)
    with builder.phase("backward"):
        slope = builder.reduce_sum(builder.exp(product), (0,))
    return ENGINE.load(builder.finish(name, [builder.neg(product), slope, builder.transpose(x, (1, 0))]))


def code(source):
    """The C without comments, with one name for all arrays."""
    bare = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    assert "*/" not in bare and "/*" not in bare and "#error" not in bare
    return re.sub(r"\b\w+_(\d+)\b", r"array_\1", bare)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_change_no_code(name):
    found, plain = program(name), program("plain")
    assert found.c_source.isascii() and "\\\n" not in found.c_source
    assert code(found.c_source) == code(plain.c_source)
    operands = [np.ones((3, 20), np.float32), np.ones((20, 30), np.float32)]
    for result, expected in zip(found(operands), plain(operands), strict=True):
        np.testing.assert_array_equal(result, expected)
