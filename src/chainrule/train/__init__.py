"""Training: the Trainer, callbacks, history and checkpoints."""

from chainrule.train.adversarial import ModeCollapse as ModeCollapse
from chainrule.train.adversarial import ModeCollapseWarning as ModeCollapseWarning
from chainrule.train.adversarial import adversarial_turns as adversarial_turns
from chainrule.train.alternating import AlternatingTrainer as AlternatingTrainer
from chainrule.train.alternating import Turn as Turn
from chainrule.train.callbacks import BatchEvent as BatchEvent
from chainrule.train.callbacks import Callback as Callback
from chainrule.train.callbacks import EarlyStopping as EarlyStopping
from chainrule.train.callbacks import PlateauScheduler as PlateauScheduler
from chainrule.train.checkpoints import load_newest as load_newest
from chainrule.train.history import EpochRecord as EpochRecord
from chainrule.train.history import History as History
from chainrule.train.samples import SampleSheets as SampleSheets
from chainrule.train.samples import image_sheet as image_sheet
from chainrule.train.samples import write_sheet as write_sheet
from chainrule.train.stepping import StepTrainer as StepTrainer
from chainrule.train.trainer import Trainer as Trainer
