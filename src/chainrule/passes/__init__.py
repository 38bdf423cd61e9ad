"""Rewrites of graphs: a named list, the graph verified after each."""

from chainrule.passes.pipeline import PASSES as PASSES
from chainrule.passes.pipeline import optimise as optimise

__all__ = ["PASSES", "optimise"]
