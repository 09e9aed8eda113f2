"""One algorithm, one file; all on the contract of `Learner`.

Read `learner` (the contract), then `maml` and `fedavg`, of which most others are relatives. `episode_module` is
what a Trainer calls; `episode_checks`, `optimizers` and `head` are what several share.
"""

from fml_lightning.learners.anil import ANIL
from fml_lightning.learners.ditto import Ditto
from fml_lightning.learners.fault_line_rule import FaultLineRule
from fml_lightning.learners.fedavg import FedAvg
from fml_lightning.learners.fedbn import FedBN
from fml_lightning.learners.fedper import FedPer
from fml_lightning.learners.fedprox import FedProx
from fml_lightning.learners.fedrep import FedRep
from fml_lightning.learners.fomaml import FOMAML
from fml_lightning.learners.imaml import IMAML
from fml_lightning.learners.learner import Learner
from fml_lightning.learners.maml import MAML
from fml_lightning.learners.maml_plus_plus import MAMLPlusPlus
from fml_lightning.learners.meta_learner import MetaLearner
from fml_lightning.learners.meta_sgd import MetaSGD
from fml_lightning.learners.normal_distance import NormalDistance
from fml_lightning.learners.per_fedavg import PerFedAvg
from fml_lightning.learners.pfedme import PFedMe
from fml_lightning.learners.prototypical import NearestPrototype, Prototypical
from fml_lightning.learners.reptile import Reptile

__all__ = [
    "ANIL",
    "FOMAML",
    "IMAML",
    "MAML",
    "Ditto",
    "FaultLineRule",
    "FedAvg",
    "FedBN",
    "FedPer",
    "FedProx",
    "FedRep",
    "Learner",
    "MAMLPlusPlus",
    "MetaLearner",
    "MetaSGD",
    "NearestPrototype",
    "NormalDistance",
    "PFedMe",
    "PerFedAvg",
    "Prototypical",
    "Reptile",
]
