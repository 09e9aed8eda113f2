"""The federated loop and its parts.

Read `federation` first; `cohort` says who takes part, `outcomes` checks what sites sent, `aggregators` combine it.
"""

from fml_lightning.federation.aggregators import Aggregator, WeightedMean
from fml_lightning.federation.cohort import Cohort
from fml_lightning.federation.federation import Federation
from fml_lightning.federation.machine_result import MachineResult

__all__ = ["Aggregator", "Cohort", "Federation", "MachineResult", "WeightedMean"]
