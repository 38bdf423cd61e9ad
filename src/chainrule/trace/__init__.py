"""From Python functions to graphs: symbolic arrays, eager evaluation, scopes, random keys and recorded state."""

from chainrule.trace.array import Array as Array
from chainrule.trace.array import ArrayLike as ArrayLike
from chainrule.trace.array import as_array as as_array
from chainrule.trace.array import operation as operation
from chainrule.trace.context import Eager as Eager
from chainrule.trace.context import Trace as Trace
from chainrule.trace.context import current as current
from chainrule.trace.keys import next_key as next_key
from chainrule.trace.keys import using_key as using_key
from chainrule.trace.scope import is_training as is_training
from chainrule.trace.scope import phase as phase
from chainrule.trace.scope import scope as scope
from chainrule.trace.seeds import seed as seed
from chainrule.trace.seeds import seeded as seeded
from chainrule.trace.state import collect_state as collect_state
from chainrule.trace.state import read_state as read_state
from chainrule.trace.state import record_state as record_state

__all__ = [
    "Array",
    "ArrayLike",
    "Eager",
    "Trace",
    "as_array",
    "collect_state",
    "current",
    "is_training",
    "next_key",
    "operation",
    "phase",
    "read_state",
    "record_state",
    "scope",
    "seed",
    "seeded",
    "using_key",
]
