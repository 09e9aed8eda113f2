"""FedBN: batch normalization of each site's own.

Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021.
https://arxiv.org/abs/2102.07623
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fml_lightning.adaptation.batch_norm import tracking
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.supervised import Supervised
from fml_lightning.objectives import Objective


class FedBN(Supervised):
    """`Supervised` whose BatchNorm layers, scale and shift *and* running statistics, stay at their site.

    A site that never trained has nothing of its own: it starts from the layers as they were initialized.

    Args:
        net: any `nn.Module` with BatchNorm layers that keep running statistics.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine fine-tunes; the statistics are constants then.
        **options: as of `Learner`.
    """

    keeps_statistics = True

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        **options: Any,
    ) -> None:
        layers = [name for name in tracking(net) if name]
        if not layers:
            raise UserError("FedBN: expected a network with BatchNorm layers that keep running statistics")
        if options.get("compile"):
            raise UserError("FedBN: running statistics change in every step, which cannot be compiled")
        kept = tuple(f"{name}.*" for name in layers)
        super().__init__(net, objective, adaptation, personal=kept, **options)
