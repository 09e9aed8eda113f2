"""The meta-learner: a learner whose training runs inner loops itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.learner import Learner
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective, SupportObjective


class MetaLearner(Learner):
    """Trains the initialization by what an inner loop makes of it.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop of training.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        support_objective: what the inner loop minimizes at a support set in place of `objective`, such as
            `Consistency` or `LearnedLoss`, which need normal windows only.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
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
        *,
        support_objective: SupportObjective | None = None,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        self.inner_loop = inner_loop or InnerLoop()
        super().__init__(
            net,
            objective,
            adaptation or self.inner_loop,
            support_objective=support_objective,
            optimizer=optimizer,
            scheduler=scheduler,
            personal=personal,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
            compile=compile,
        )
        self.adapted_names(self.params, self.inner_loop)

    @property
    def training_loop(self) -> InnerLoop:
        """The inner loop of training."""
        return self.inner_loop

    def tasks_per_training_pass(self) -> int | None:
        """How many tasks are differentiated at once; None for all."""
        return self.tasks_per_pass(self.adapted_names(self.params, self.inner_loop))
