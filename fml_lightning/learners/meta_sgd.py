"""Meta-SGD: MAML that learns a step size for every element of every parameter.

Li et al., Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017. https://arxiv.org/abs/1707.09835
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.maml import MAML
from fml_lightning.objectives import Objective


class MetaSGD(MAML):
    """`MAML` with `learned_rates: element`: θ' = θ − α ⊙ ∇L_S(θ), where α is as large as θ and learned with it.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop; its lr is the first value of every rate, one step is the paper's.
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
        super().__init__(
            net, objective, inner_loop or InnerLoop(steps=1), adaptation, learned_rates="element", **options
        )
