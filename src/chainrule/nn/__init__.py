"""What networks are built from: modules, layers, initialisers and losses."""

from chainrule.core.trees import State as State
from chainrule.nn import initialisers as initialisers
from chainrule.nn import losses as losses
from chainrule.nn.activations import GELU as GELU
from chainrule.nn.activations import LeakyReLU as LeakyReLU
from chainrule.nn.activations import ReLU as ReLU
from chainrule.nn.activations import Sigmoid as Sigmoid
from chainrule.nn.activations import SiLU as SiLU
from chainrule.nn.activations import Softmax as Softmax
from chainrule.nn.activations import Tanh as Tanh
from chainrule.nn.containers import Apply as Apply
from chainrule.nn.containers import Sequential as Sequential
from chainrule.nn.dropout import Dropout as Dropout
from chainrule.nn.linear import Linear as Linear
from chainrule.nn.module import Module as Module
from chainrule.nn.normalisation import BatchNorm as BatchNorm
from chainrule.nn.normalisation import LayerNorm as LayerNorm
from chainrule.nn.perceptron import PerceptronResult as PerceptronResult
from chainrule.nn.perceptron import perceptron_fit as perceptron_fit
from chainrule.nn.summary import Summary as Summary
from chainrule.trace.scope import is_training as is_training
from chainrule.trace.state import collect_state as collect_state
from chainrule.trace.state import read_state as read_state
from chainrule.trace.state import record_state as record_state
