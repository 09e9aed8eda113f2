"""MAML++: MAML with learned rates per layer and step, a multi-step loss, and a cheap first-order start.

Antoniou et al., How to Train Your MAML, ICLR 2019. https://arxiv.org/abs/1810.09502

Not here: its batch normalization per step. Its cosine schedule of the outer step size is `scheduler`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.maml import MAML
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective, SupportObjective


class MAMLPlusPlus(MAML):
    """`MAML` with `learned_rates: tensor_per_step`, `multi_step_until` and `second_order_from`.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop; its lr is the first value of every rate, 5 steps are the paper's.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        multi_step_until: progress (steps in a plain Trainer, rounds in a Federation) at which only the last
            inner step's query loss counts.
        second_order_from: progress until which training stays first-order.
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
        multi_step_until: int = 5000,
        second_order_from: int = 0,
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
        super().__init__(
            net,
            objective,
            inner_loop or InnerLoop(steps=5),
            adaptation,
            "tensor_per_step",
            multi_step_until,
            second_order_from,
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
