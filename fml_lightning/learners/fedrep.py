"""FedRep: a shared representation under personal heads, trained in turns.

Collins et al., Exploiting Shared Representations for Personalized Federated Learning, ICML 2021.
https://arxiv.org/abs/2102.07078
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.gradients import gradients
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.fedper import FedPer
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective
from fml_lightning.types import Episode, Params


class FedRep(FedPer):
    """`FedPer` that trains the head for some steps, then the body for some, and so on.

    In a Federation every round begins with the head; let `local_steps` be `head_steps + body_steps`.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine adapts; its `parameters` are replaced by the head's.
        head: shell-style patterns of the head's parameters; the last layer unless you say otherwise.
        head_steps: steps in which only the head trains, at least 1.
        body_steps: steps in which only the body trains, at least 1.
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
        head_steps: int = 5,
        body_steps: int = 5,
        *,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(
            net,
            objective,
            adaptation,
            head,
            optimizer=optimizer,
            scheduler=scheduler,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
            compile=compile,
        )
        if head_steps < 1 or body_steps < 1:
            raise UserError(
                f"FedRep: expected head_steps and body_steps of at least 1, got {head_steps}, {body_steps}"
            )
        self.head_steps = head_steps
        self.body_steps = body_steps

    @property
    def graph_key(self) -> tuple[object, ...]:
        """Whether it is the head's turn."""
        return (self.global_step % (self.head_steps + self.body_steps) < self.head_steps,)

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The loss, and its gradient in the head or in the body."""
        (head,) = self.graph_key
        turn = {name: p for name, p in self.trained.items() if (name in self.personal) == head}
        if not turn:
            raise UserError("FedRep: expected parameters that require a gradient in head and body; unfreeze some")
        loss = self.meta_loss(episode)
        return loss.detach(), gradients(loss, turn)
