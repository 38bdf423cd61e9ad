"""Backpropagation as a transformation of graphs, with the rules passed in as a value."""

from chainrule.grad.backprop import Backward as Backward
from chainrule.grad.backprop import backprop as backprop
from chainrule.grad.backprop import backprop_graph as backprop_graph
from chainrule.grad.rulesets import Rule as Rule
from chainrule.grad.rulesets import RuleSet as RuleSet
from chainrule.grad.standard import STANDARD as STANDARD

__all__ = ["STANDARD", "Backward", "Rule", "RuleSet", "backprop", "backprop_graph"]
