"""Federated meta-learning on machines.

Sites learn together, without sharing their data, an initialization that every machine personalizes from a handful
of windows. Three ideas carry it: a `Learner` (network, inner loop, meta-loss), a `SiteData` in a `Fleet`
(`fml_lightning.datamodules`), and a `Federation`, whose training step is one round.
"""

from fml_lightning.errors import UserError
from fml_lightning.executors import Executor, SerialExecutor
from fml_lightning.federation import Aggregator, Cohort, Federation, WeightedMean
from fml_lightning.inner_loop import InnerLoop, adapt, trajectory
from fml_lightning.learners import MAML, Learner, Supervised
from fml_lightning.nets import MLP, Conv1d
from fml_lightning.objectives import Classification, Objective
from fml_lightning.personalize import Personalization, PersonalModel, personalize
from fml_lightning.types import Episode, Examples, MachineResult, Params, Prediction, SiteFailure, SiteUpdate, Work

__version__ = "0.1.0"

__all__ = [
    "MAML",
    "MLP",
    "Aggregator",
    "Classification",
    "Cohort",
    "Conv1d",
    "Episode",
    "Examples",
    "Executor",
    "Federation",
    "InnerLoop",
    "Learner",
    "MachineResult",
    "Objective",
    "Params",
    "PersonalModel",
    "Personalization",
    "Prediction",
    "SerialExecutor",
    "SiteFailure",
    "SiteUpdate",
    "Supervised",
    "UserError",
    "WeightedMean",
    "Work",
    "adapt",
    "personalize",
    "trajectory",
]
