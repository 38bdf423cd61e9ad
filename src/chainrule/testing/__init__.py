"""For proving primitives, rules and engines: cases, slow definitions, gradient checks and random programs."""

from chainrule.testing.case import Case as Case
from chainrule.testing.case import at_batch as at_batch
from chainrule.testing.cases import cases as cases
from chainrule.testing.gradients import gradient_error as gradient_error
from chainrule.testing.gradients import numerical_cotangents as numerical_cotangents
from chainrule.testing.gradients import random_cotangents as random_cotangents
from chainrule.testing.oracles import ORACLES as ORACLES
from chainrule.testing.oracles import interpret as interpret
from chainrule.testing.programs import random_program as random_program

__all__ = [
    "ORACLES",
    "Case",
    "at_batch",
    "cases",
    "gradient_error",
    "interpret",
    "numerical_cotangents",
    "random_cotangents",
    "random_program",
]
