"""Options of a run: one frozen dataclass for each owner, from whose fields the command line is made."""

from distgnn.nn.models import MODELS
from distgnn.train.options.data import DataOptions
from distgnn.train.options.job import JobOptions
from distgnn.train.options.model import NORMS, ModelOptions
from distgnn.train.options.output import Interval, OutputOptions
from distgnn.train.options.own_graph import OwnGraphOptions
from distgnn.train.options.setting import check_choice, check_settings
from distgnn.train.options.training import MODES, SPARSE_OPTIMIZERS, TrainingOptions

__all__ = [
    "MODELS",
    "MODES",
    "NORMS",
    "SPARSE_OPTIMIZERS",
    "DataOptions",
    "Interval",
    "JobOptions",
    "ModelOptions",
    "OutputOptions",
    "OwnGraphOptions",
    "TrainingOptions",
    "check_choice",
    "check_settings",
]
