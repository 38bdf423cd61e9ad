"""Losses: scalar functions ``loss(outputs, targets, weights=None)``.

The loss of an example is the mean over its outputs (or as stated), and the result is the mean over examples. With
``weights`` w of shape (B,) it is the weighted mean ``Σ wᵢ lᵢ / Σ wᵢ``, and 0 where all the weights are 0; weights may
also have the shape of the targets, to weigh every position of a sequence. Targets may lack or have a last axis of size
1 that the outputs have or lack; any other difference of shapes is an error, never broadcast. Options are keyword
arguments, which ``functools.partial(huber, delta=2.0)`` sets. All have ``reduction="mean"``; "sum" is the sum ``Σ wᵢ lᵢ``
over everything, and "none" returns the losses ``wᵢ lᵢ`` themselves, as PyTorch does.
"""

from chainrule.nn.losses.classification import binary_cross_entropy as binary_cross_entropy
from chainrule.nn.losses.classification import cross_entropy as cross_entropy
from chainrule.nn.losses.classification import focal as focal
from chainrule.nn.losses.classification import hinge as hinge
from chainrule.nn.losses.classification import kl_divergence as kl_divergence
from chainrule.nn.losses.classification import multilabel_soft_margin as multilabel_soft_margin
from chainrule.nn.losses.classification import nll as nll
from chainrule.nn.losses.classification import perceptron as perceptron
from chainrule.nn.losses.classification import with_class_weights as with_class_weights
from chainrule.nn.losses.examples import Loss as Loss
from chainrule.nn.losses.margins import hinge_embedding as hinge_embedding
from chainrule.nn.losses.margins import margin_ranking as margin_ranking
from chainrule.nn.losses.margins import multilabel_margin as multilabel_margin
from chainrule.nn.losses.regression import absolute_error as absolute_error
from chainrule.nn.losses.regression import gaussian_nll as gaussian_nll
from chainrule.nn.losses.regression import half_squared_error as half_squared_error
from chainrule.nn.losses.regression import huber as huber
from chainrule.nn.losses.regression import poisson_nll as poisson_nll
from chainrule.nn.losses.regression import smooth_l1 as smooth_l1
from chainrule.nn.losses.regression import squared_error as squared_error
from chainrule.nn.losses.sequences import ctc as ctc
from chainrule.nn.losses.similarity import cosine_embedding as cosine_embedding
from chainrule.nn.losses.similarity import triplet_margin as triplet_margin
