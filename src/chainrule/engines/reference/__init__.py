"""The reference engine: an interpreter on NumPy that defines the meaning of every primitive."""

from chainrule.engines.reference.engine import ENGINE as ENGINE
from chainrule.engines.reference.engine import Observer as Observer
from chainrule.engines.reference.engine import ReferenceProgram as ReferenceProgram
from chainrule.engines.reference.engine import evaluate_node as evaluate_node

__all__ = ["ENGINE", "Observer", "ReferenceProgram", "evaluate_node"]
