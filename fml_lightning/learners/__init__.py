"""One algorithm, one file; all on the contract of `Learner`."""

from fml_lightning.learners.base import Learner
from fml_lightning.learners.maml import MAML
from fml_lightning.learners.supervised import Supervised

__all__ = ["MAML", "Learner", "Supervised"]
