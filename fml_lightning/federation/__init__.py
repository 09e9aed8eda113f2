"""The federated loop and its parts."""

from fml_lightning.federation.aggregators import Aggregator, WeightedMean
from fml_lightning.federation.cohort import Cohort
from fml_lightning.federation.federation import Federation

__all__ = ["Aggregator", "Cohort", "Federation", "WeightedMean"]
