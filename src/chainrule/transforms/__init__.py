"""Transformations of functions: derivatives, compilation, checks of hand-derived gradients."""

from chainrule.transforms.checking import GradientReport as GradientReport
from chainrule.transforms.checking import check_gradients as check_gradients
from chainrule.transforms.checking import compare as compare
from chainrule.transforms.compilation import Compiled as Compiled
from chainrule.transforms.compilation import compile as compile
from chainrule.transforms.compilation import trace as trace
from chainrule.transforms.derivatives import grad as grad
from chainrule.transforms.derivatives import hessian_vector_product as hessian_vector_product
from chainrule.transforms.derivatives import jvp as jvp
from chainrule.transforms.derivatives import value_and_grad as value_and_grad
from chainrule.transforms.derivatives import vjp as vjp
from chainrule.transforms.jacobians import hessian as hessian
from chainrule.transforms.jacobians import jacobian as jacobian
from chainrule.transforms.rules import feedback_alignment as feedback_alignment
from chainrule.transforms.vectorise import vmap as vmap
