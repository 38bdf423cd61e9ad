"""Rewrites of graphs: a named list, the graph verified after each."""

from chainrule.passes.pipeline import PASSES as PASSES
from chainrule.passes.pipeline import identity as identity
from chainrule.passes.pipeline import optimise as optimise
from chainrule.passes.rematerialise import rematerialise as rematerialise
from chainrule.passes.rematerialise import working_memory as working_memory

__all__ = ["PASSES", "identity", "optimise", "rematerialise", "working_memory"]
