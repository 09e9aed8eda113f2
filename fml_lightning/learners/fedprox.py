"""FedProx: FedAvg whose sites are held near the server's parameters.

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020. https://arxiv.org/abs/1812.06127
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.supervised import Supervised
from fml_lightning.objectives import Objective


class FedProx(Supervised):
    """`Supervised` with a pull μ/2‖w − w₀‖² back to the parameters received from the server.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine fine-tunes.
        proximal: μ; 0 is FedAvg.
        **options: as of `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        proximal: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(net, objective, adaptation, proximal, **options)
