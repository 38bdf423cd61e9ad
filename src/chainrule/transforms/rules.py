"""Ready rule sets other than the chain rule."""

from __future__ import annotations

import zlib

import numpy as np

from chainrule.core.dtypes import FLOATS
from chainrule.engines.reference.threefry import random_bits
from chainrule.grad import STANDARD, Rule, RuleSet
from chainrule.grad.standard import contract_rule, single
from chainrule.ir.build import Builder
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import is_symbolic, shape_at
from chainrule.trace.seeds import fold_in, key_from_seed


def feedback_alignment(scope: str = "*", *, seed: int = 0, rules: RuleSet = STANDARD) -> RuleSet:
    """Feedback alignment: the error is sent back through fixed random matrices instead of the transposed weights.

    In layers whose module path matches ``scope``, the cotangent of a product's first operand uses a random array B in place of
    its second operand W, with W's shape and entries uniform in ±√(3 / rows of W); the weights' own gradient is unchanged. B depends
    on the seed and the layer's path alone. Where no layer with a product matches, the gradient of a loss raises
    :class:`ConfigError`. Lillicrap, Cownden, Tweed & Akerman, Nature Communications 2016.
    """

    def contract(b: Builder, node: Node, g: Value) -> tuple[Value | None, ...]:
        x, weight = node.inputs
        feedback = (
            weight
            if is_symbolic(weight.shape) or weight.dtype not in FLOATS
            else _random_like(b, weight, node.origin.path, seed)
        )
        return contract_rule(b, node, g, x, feedback)

    rule: Rule = single(contract)
    return rules.extend("feedback alignment", {"contract": rule}, scope)


def _random_like(b: Builder, weight: Value, path: str, seed: int) -> Value:
    shape = shape_at(weight.shape, 1)
    # The top bit keeps these streams apart from those of a seed's ordinary draws.
    key = fold_in(key_from_seed(seed), zlib.crc32(path.encode()) | 0x80000000)
    unit = random_bits(key, np.asarray(0, np.uint32), shape).astype(np.float64) / 2**32
    bound = np.sqrt(3 / max(1, shape[0] if shape else 1))
    return b.constant((2 * unit - 1) * bound, weight.dtype)
