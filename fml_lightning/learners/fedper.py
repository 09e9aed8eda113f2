"""FedPer: a body shared by all sites, a head of each site's own.

Arivazhagan et al., Federated Learning with Personalization Layers, 2019. https://arxiv.org/abs/1912.00818
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.fedavg import FedAvg
from fml_lightning.learners.head import head_of
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective


class FedPer(FedAvg):
    """`FedAvg` whose head is `personal`: trained with the body, but kept at its site.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine adapts; its `parameters` are replaced by the head's.
        head: shell-style patterns of the head's parameters; the last layer unless you say otherwise.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        freeze: patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        batch_norm: what BatchNorm layers normalize with: `batch` or `frozen`; see `Learner`.
        tasks_at_once: how many tasks run in one pass; see `Learner`.
        compile: compile the meta-gradient with `torch.compile`; see `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        head: tuple[str, ...] | None = None,
        *,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        self.head = head or head_of(net)
        adaptation = replace(adaptation or InnerLoop(), parameters=self.head)
        super().__init__(
            net,
            objective,
            adaptation,
            personal=self.head,
            optimizer=optimizer,
            scheduler=scheduler,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
            compile=compile,
        )
