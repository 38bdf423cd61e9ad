"""Graphs for many elements at once: every value gets one more axis, the first."""

from chainrule.batching.rules import RULES as RULES
from chainrule.batching.rules import batched as batched
