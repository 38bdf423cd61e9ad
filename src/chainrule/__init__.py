"""Chainrule trains neural networks with backpropagation that you can see, change, and run at the speed of the machine."""

from chainrule import nn as nn
from chainrule import ops as ops
from chainrule import optim as optim
from chainrule.grad import STANDARD as STANDARD
from chainrule.grad import RuleSet as RuleSet
from chainrule.ir.graph import Graph as Graph
from chainrule.ir.text import parse_graph as parse_graph
from chainrule.ir.text import print_graph as print_graph
from chainrule.ops import *  # noqa: F403
from chainrule.tabular import load as load
from chainrule.trace import Array as Array
from chainrule.trace import seed as seed
from chainrule.trace import seeded as seeded
from chainrule.train import AlternatingTrainer as AlternatingTrainer
from chainrule.train import Callback as Callback
from chainrule.train import EarlyStopping as EarlyStopping
from chainrule.train import ModeCollapse as ModeCollapse
from chainrule.train import PlateauScheduler as PlateauScheduler
from chainrule.train import SampleSheets as SampleSheets
from chainrule.train import Trainer as Trainer
from chainrule.train import Turn as Turn
from chainrule.train import adversarial_turns as adversarial_turns
from chainrule.transforms import Compiled as Compiled
from chainrule.transforms import check_gradients as check_gradients
from chainrule.transforms import compare as compare
from chainrule.transforms import compile as compile
from chainrule.transforms import feedback_alignment as feedback_alignment
from chainrule.transforms import grad as grad
from chainrule.transforms import hessian as hessian
from chainrule.transforms import hessian_vector_product as hessian_vector_product
from chainrule.transforms import jacobian as jacobian
from chainrule.transforms import jvp as jvp
from chainrule.transforms import trace as trace
from chainrule.transforms import value_and_grad as value_and_grad
from chainrule.transforms import vjp as vjp
from chainrule.transforms import vmap as vmap

__version__ = "0.1.0.dev0"
