"""Training: the Trainer, callbacks, history and checkpoints."""

from chainrule.train.callbacks import BatchEvent as BatchEvent
from chainrule.train.callbacks import Callback as Callback
from chainrule.train.callbacks import EarlyStopping as EarlyStopping
from chainrule.train.callbacks import PlateauScheduler as PlateauScheduler
from chainrule.train.checkpoints import load_newest as load_newest
from chainrule.train.history import EpochRecord as EpochRecord
from chainrule.train.history import History as History
from chainrule.train.stepping import StepTrainer as StepTrainer
from chainrule.train.trainer import Trainer as Trainer
