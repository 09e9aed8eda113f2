"""FOMAML: MAML without second derivatives.

Finn et al., Model-Agnostic Meta-Learning, ICML 2017, section 5.2. https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.maml import MAML
from fml_lightning.objectives import Objective


class FOMAML(MAML):
    """`MAML` with `inner_loop.first_order`: the meta-gradient is the query gradient at the adapted parameters.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop of training, always first-order.
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
        inner_loop = replace(inner_loop or InnerLoop(), first_order=True)
        super().__init__(net, objective, inner_loop, adaptation, **options)
