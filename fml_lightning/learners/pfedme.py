"""pFedMe: personal models as Moreau envelopes around a shared one.

Dinh et al., Personalized Federated Learning with Moreau Envelopes, NeurIPS 2020. https://arxiv.org/abs/2006.08848
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory
from fml_lightning.learners.reptile import Reptile
from fml_lightning.objectives import Objective
from fml_lightning.types import Episode, Params


def sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with step size 0.005."""
    return torch.optim.SGD(params, lr=0.005)


class PFedMe(Reptile):
    """θ̃ ≈ argmin f(θ) + λ/2‖θ − w‖² on a batch; w −= η·λ(w − θ̃), where η is the optimizer's step size.

    It is `Reptile` with a proximal inner loop and the difference times λ. A batch is all windows of an episode's
    task, support and query. A machine's own model is θ̃ on its support set. With β ≠ 1,
    w = (1 − β)·w + β·mean(wᵢ), is the Federation's `server_optimizer: SGD` with `lr: β`.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: how θ̃ is found: K steps, with `proximal` λ > 0.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        optimizer: the local optimizer; SGD with η = 0.005 unless you say otherwise.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: patterns of the network's parameters and buffers that never leave a site.
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
        inner_loop: InnerLoop | None = None,
        adaptation: InnerLoop | None = None,
        optimizer: OptimizerFactory = sgd,
        *,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        inner_loop = inner_loop or InnerLoop(lr=0.05, steps=5, proximal=15.0)
        super().__init__(
            net,
            objective,
            inner_loop,
            adaptation,
            optimizer,
            scheduler=scheduler,
            personal=personal,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
            compile=compile,
        )
        if not inner_loop.proximal > 0:
            raise UserError(f"PFedMe: expected inner_loop.proximal > 0, got {inner_loop.proximal}")

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean loss at θ̃, and λ(w − mean θ̃), the gradient of the Moreau envelope."""
        loss, grads = super().chunk_gradient(episode)
        return loss, {name: self.inner_loop.proximal * grad for name, grad in grads.items()}
