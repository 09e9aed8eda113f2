"""The meta-learner: a learner whose training runs inner loops itself."""

from __future__ import annotations

from typing import Any

from torch import nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.learner import Learner
from fml_lightning.objectives import Objective


class MetaLearner(Learner):
    """Trains on what an inner loop leads to.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop of training.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        **options: as of `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        inner_loop: InnerLoop | None = None,
        adaptation: InnerLoop | None = None,
        **options: Any,
    ) -> None:
        self.inner_loop = inner_loop or InnerLoop()
        super().__init__(net, objective, adaptation or self.inner_loop, **options)
        self.inner_loop.adapting(self.params)

    def tasks_per_training_pass(self) -> int | None:
        """How many tasks are differentiated at once; None for all."""
        return self.tasks_per_pass(self.inner_loop.adapting(self.params))
