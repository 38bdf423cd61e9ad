"""The main job as a library: from a table to a trained, checked network, and its predictions."""

from chainrule.tabular.comparison import RunSummary as RunSummary
from chainrule.tabular.comparison import compare_runs as compare_runs
from chainrule.tabular.evaluation import Evaluation as Evaluation
from chainrule.tabular.plan import Plan as Plan
from chainrule.tabular.prediction import Predictions as Predictions
from chainrule.tabular.prediction import TabularPredictor as TabularPredictor
from chainrule.tabular.prediction import evaluate as evaluate
from chainrule.tabular.prediction import load as load
from chainrule.tabular.prediction import predict as predict
from chainrule.tabular.profiling import RunProfile as RunProfile
from chainrule.tabular.profiling import profile as profile
from chainrule.tabular.run_folder import Run as Run
from chainrule.tabular.run_folder import is_part_of_run as is_part_of_run
from chainrule.tabular.settings import Settings as Settings
from chainrule.tabular.training import Preparation as Preparation
from chainrule.tabular.training import continue_training as continue_training
from chainrule.tabular.training import resume as resume
from chainrule.tabular.training import train as train
