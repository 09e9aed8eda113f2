"""What a head learns: the loss of the inner and outer loop, and the metrics a user reads."""

from fml_lightning.objectives.classification import Classification
from fml_lightning.objectives.objective import Loss, Objective
from fml_lightning.objectives.reconstruction import Reconstruction
from fml_lightning.objectives.regression import Regression, RemainingUsefulLife

__all__ = ["Classification", "Loss", "Objective", "Reconstruction", "Regression", "RemainingUsefulLife"]
