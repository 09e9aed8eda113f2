"""The federated loop and its parts.

Read `federation` first; `batch` is what it trains on, `cohort` says who takes part, `outcomes` checks what sites
sent, `aggregators` combine it, and `server_optimizer` steps on the result; `waiting` waits for sites that cannot
answer yet.
"""

from fml_lightning.federation.aggregators import Aggregator, WeightedMean
from fml_lightning.federation.cohort import Cohort
from fml_lightning.federation.federation import Federation
from fml_lightning.federation.machine_result import MachineResult

__all__ = ["Aggregator", "Cohort", "Federation", "MachineResult", "WeightedMean"]
