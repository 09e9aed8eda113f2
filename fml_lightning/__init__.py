"""Federated meta-learning on machines.

Sites learn together, without sharing their data, an initialization that every machine personalizes from a handful
of windows. Three ideas carry it: a `Learner` (network, inner loop, meta-loss), a `SiteData` in a `Fleet`
(`fml_lightning.datamodules`), and a `Federation`, whose training step is one round.

Names are imported when first used: recording data (`fml_lightning.connectors`) needs no torch, and starts fast.
"""

from typing import TYPE_CHECKING

from fml_lightning.lazy import attach

if TYPE_CHECKING:
    from fml_lightning.adaptation import InnerLoop, adapt, looped, stacked, trajectory
    from fml_lightning.errors import NotYetError, UserError
    from fml_lightning.executors import (
        Executor,
        NVFlareExecutor,
        SerialExecutor,
        SiteFailure,
        SiteMemory,
        SiteUpdate,
        Work,
    )
    from fml_lightning.federation import Aggregator, Cohort, Federation, MachineResult, WeightedMean
    from fml_lightning.learners import (
        ANIL,
        FOMAML,
        IMAML,
        MAML,
        Ditto,
        FaultLineRule,
        FedAvg,
        FedBN,
        FedPer,
        FedProx,
        FedRep,
        Learner,
        MAMLPlusPlus,
        MetaLearner,
        MetaSGD,
        NearestPrototype,
        NormalDistance,
        PerFedAvg,
        PFedMe,
        Prototypical,
        Reptile,
    )
    from fml_lightning.nets import MLP, Conv1d, Conv4, NextTokenGRU
    from fml_lightning.objectives import (
        Classification,
        Consistency,
        FeatureReconstruction,
        LearnedLoss,
        Loss,
        NextToken,
        Objective,
        Reconstruction,
        Regression,
        RemainingUsefulLife,
        SupportObjective,
    )
    from fml_lightning.personal import Personalization, PersonalModel, personalize
    from fml_lightning.types import Episode, Examples, Params, Prediction

__version__ = "0.1.0"

__all__ = [
    "ANIL",
    "FOMAML",
    "IMAML",
    "MAML",
    "MLP",
    "Aggregator",
    "Classification",
    "Cohort",
    "Consistency",
    "Conv1d",
    "Conv4",
    "Ditto",
    "Episode",
    "Examples",
    "Executor",
    "FaultLineRule",
    "FeatureReconstruction",
    "FedAvg",
    "FedBN",
    "FedPer",
    "FedProx",
    "FedRep",
    "Federation",
    "InnerLoop",
    "LearnedLoss",
    "Learner",
    "Loss",
    "MAMLPlusPlus",
    "MachineResult",
    "MetaLearner",
    "MetaSGD",
    "NVFlareExecutor",
    "NearestPrototype",
    "NextToken",
    "NextTokenGRU",
    "NormalDistance",
    "NotYetError",
    "Objective",
    "PFedMe",
    "Params",
    "PerFedAvg",
    "PersonalModel",
    "Personalization",
    "Prediction",
    "Prototypical",
    "Reconstruction",
    "Regression",
    "RemainingUsefulLife",
    "Reptile",
    "SerialExecutor",
    "SiteFailure",
    "SiteMemory",
    "SiteUpdate",
    "SupportObjective",
    "UserError",
    "WeightedMean",
    "Work",
    "adapt",
    "looped",
    "personalize",
    "stacked",
    "trajectory",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "adaptation": "InnerLoop adapt looped stacked trajectory",
        "errors": "NotYetError UserError",
        "executors": "Executor NVFlareExecutor SerialExecutor SiteFailure SiteMemory SiteUpdate Work",
        "federation": "Aggregator Cohort Federation MachineResult WeightedMean",
        "learners": "ANIL Ditto FOMAML FaultLineRule FedAvg FedBN FedPer FedProx FedRep IMAML Learner MAML"
        " MAMLPlusPlus MetaLearner MetaSGD NearestPrototype NormalDistance PFedMe PerFedAvg Prototypical Reptile",
        "nets": "Conv1d Conv4 MLP NextTokenGRU",
        "objectives": "Classification Consistency FeatureReconstruction LearnedLoss Loss NextToken Objective"
        " Reconstruction Regression RemainingUsefulLife SupportObjective",
        "personal": "PersonalModel Personalization personalize",
        "types": "Episode Examples Params Prediction",
    },
)
