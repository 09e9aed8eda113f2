"""FedBN: batch normalization of each site's own.

Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021.
https://arxiv.org/abs/2102.07623
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fml_lightning.adaptation.batch_norm import tracking
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.fedavg import FedAvg
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective


class FedBN(FedAvg):
    """`FedAvg` whose BatchNorm layers, scale and shift *and* running statistics, stay at their site.

    A site that never trained has nothing of its own: it starts from the layers as they were initialized.

    Args:
        net: any `nn.Module` with BatchNorm layers that keep running statistics.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine fine-tunes; the statistics are constants then.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: patterns of more of the network's parameters and buffers that never leave a site.
        freeze: patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        tasks_at_once: how many tasks run in one pass; see `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        *,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        tasks_at_once: int | None = None,
    ) -> None:
        layers = [name for name in tracking(net) if name]
        if not layers:
            raise UserError("FedBN: expected a network with BatchNorm layers that keep running statistics")
        kept = tuple(f"{name}.*" for name in layers)
        super().__init__(
            net,
            objective,
            adaptation,
            personal=[*kept, *personal],
            optimizer=optimizer,
            scheduler=scheduler,
            freeze=freeze,
            clip=clip,
            tasks_at_once=tasks_at_once,
        )
