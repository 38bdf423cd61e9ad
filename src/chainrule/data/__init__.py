"""Tables from files and data frames, preprocessing that is part of the graph, targets and splits."""

from chainrule.data.columns import KINDS as KINDS
from chainrule.data.columns import Column as Column
from chainrule.data.columns import Kind as Kind
from chainrule.data.export import write_csv as write_csv
from chainrule.data.preprocessing import Preprocessing as Preprocessing
from chainrule.data.splits import Split as Split
from chainrule.data.splits import k_folds as k_folds
from chainrule.data.splits import quantile_strata as quantile_strata
from chainrule.data.splits import split_rows as split_rows
from chainrule.data.tables import Table as Table
from chainrule.data.tables import read_table as read_table
from chainrule.data.targets import Target as Target
from chainrule.data.targets import class_weights as class_weights
from chainrule.data.targets import known_rows as known_rows
from chainrule.data.targets import learn_target as learn_target
