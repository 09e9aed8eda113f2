"""MAML: train an initialization from which a few gradient steps lead to a good model of any task.

Finn et al., Model-Agnostic Meta-Learning, ICML 2017. https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from torch import Tensor, nn

from fml_lightning.inner_loop import InnerLoop, last
from fml_lightning.learners.base import Learner, OptimizerFactory, adam
from fml_lightning.objectives import Objective
from fml_lightning.types import Episode


class MAML(Learner):
    """Minimize the query loss *after* adapting to support: min_θ Σ_tasks L_Q(θ − α∇L_S(θ) …).

    Args:
        net: any `nn.Module` without running statistics.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop that training differentiates through; `first_order: true` is FOMAML.
        adaptation: how a machine adapts the trained network, often with more steps than in training;
            as `inner_loop` unless you say otherwise.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        inner_loop: InnerLoop | None = None,
        adaptation: InnerLoop | None = None,
        optimizer: OptimizerFactory = adam,
    ) -> None:
        inner_loop = inner_loop or InnerLoop()
        super().__init__(net, objective, adaptation or inner_loop, optimizer)
        self.inner_loop = inner_loop

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean query loss of the adapted parameters over the episode's tasks."""
        adapted = last(self.trajectory(self.params, episode.support, self.inner_loop, create_graph=True))
        return self.objective.loss(self.outputs(adapted, episode.query.x), episode.query.y).mean()
