"""What a head learns: the loss that both loops minimize, and the metrics that a user reads.

Read `objective` first, the contract that learners call. Then the objectives, one per kind of target:
`classification` (a class per window or token), `next_token` (which character follows), `regression` (a number per
window) and `remaining_useful_life` (a number up to a cap), `reconstruction` (no target: anomalies), and `loss` (a
loss of your own). `support_objective` is what an inner loop may minimize in their place: `consistency`,
`feature_reconstruction`, `learned_loss`. `metrics` last: what adds metrics of torchmetrics to any objective.
"""

from fml_lightning.objectives.classification import Classification
from fml_lightning.objectives.consistency import Consistency
from fml_lightning.objectives.feature_reconstruction import FeatureReconstruction
from fml_lightning.objectives.learned_loss import LearnedLoss
from fml_lightning.objectives.loss import Loss
from fml_lightning.objectives.next_token import NextToken
from fml_lightning.objectives.objective import Objective
from fml_lightning.objectives.reconstruction import Reconstruction
from fml_lightning.objectives.regression import Regression
from fml_lightning.objectives.remaining_useful_life import RemainingUsefulLife
from fml_lightning.objectives.support_objective import SupportObjective

__all__ = [
    "Classification",
    "Consistency",
    "FeatureReconstruction",
    "LearnedLoss",
    "Loss",
    "NextToken",
    "Objective",
    "Reconstruction",
    "Regression",
    "RemainingUsefulLife",
    "SupportObjective",
]
