"""FedProx: FedAvg whose sites are held near the server's parameters.

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020. https://arxiv.org/abs/1812.06127
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.fedavg import FedAvg
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective
from fml_lightning.params import clone
from fml_lightning.types import Episode, Params


class FedProx(FedAvg):
    """`FedAvg` with a pull μ/2‖w − w₀‖² back to the parameters received from the server.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine fine-tunes.
        proximal: μ, at least 0; 0 is FedAvg. Under a plain Trainer w₀ are the parameters as training began.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: patterns of the network's parameters and buffers that never leave a site.
        freeze: patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        batch_norm: what BatchNorm layers normalize with: `batch` or `frozen`; see `Learner`.
        tasks_at_once: how many tasks run in one pass; see `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        proximal: float = 0.01,
        *,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
    ) -> None:
        super().__init__(
            net,
            objective,
            adaptation,
            optimizer=optimizer,
            scheduler=scheduler,
            personal=personal,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
        )
        if not proximal >= 0:
            raise UserError(f"FedProx: expected proximal >= 0, got {proximal}")
        self.proximal = proximal
        self.received: Params = {}
        """The shared parameters as training began."""

    def on_train_start(self) -> None:
        """Remember the shared parameters as they were received."""
        self.received = clone(self.shared)

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean loss over all windows of the episode, and the pull."""
        own = self.shared
        pull = [((own[name] - p) ** 2).sum() for name, p in self.received.items()]
        return super().meta_loss(episode) + self.proximal / 2 * sum(pull)
