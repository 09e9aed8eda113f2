"""Reptile: move the initialization towards what each task's own training leads to.

Nichol et al., On First-Order Meta-Learning Algorithms, 2018. https://arxiv.org/abs/1803.02999
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop, last, trajectory
from fml_lightning.learners.meta_learner import MetaLearner
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory
from fml_lightning.objectives import Objective, SupportObjective
from fml_lightning.types import Episode, Params


def sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with step size 0.1: a tenth of the way to the tasks' mean."""
    return torch.optim.SGD(params, lr=0.1)


class Reptile(MetaLearner):
    """θ += ε·mean(φ − θ), φ after K steps of plain descent on all windows of a task, support and query alike.

    The optimizer's step size is ε. The paper's inner optimizer is `inner_loop.optimizer: adam`.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop of training; one step would be joint training, so take several.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        support_objective: what a machine's adaptation minimizes at its support set in place of `objective`, such
            as `Consistency`, which needs normal windows only. Training descends on `objective`.
        optimizer: the outer loop's optimizer; SGD with ε = 0.1 unless you say otherwise.
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
        support_objective: SupportObjective | None = None,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        inner_loop = inner_loop or InnerLoop(steps=5)
        super().__init__(
            net,
            objective,
            inner_loop,
            adaptation,
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

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean loss at φ, and θ − mean(φ)."""
        pooled = episode.pooled()
        params = self.params
        names = self.adapted_names(params, self.inner_loop)
        path = trajectory(
            self.outputs,
            self.objective.loss,
            params,
            pooled,
            self.inner_loop,
            adapted_names=names,
            create_graph=False,
        )
        found = last(path)
        with torch.no_grad():
            loss = self.objective.loss(self.outputs(found, pooled.x), pooled).mean()
            # Only what adapts has moved; the rounding of a mean would set off optimizers such as Adam.
            return loss, {f"net.{name}": params[name] - found[name].mean(0) for name in names}
