"""Trained models as files: the graph's text, the weights, and nothing that runs."""

from chainrule.runs.model_files import Predictor as Predictor
from chainrule.runs.model_files import load_model as load_model
from chainrule.runs.model_files import write_model as write_model
