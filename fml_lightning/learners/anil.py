"""ANIL: almost no inner loop; only the head adapts, all of the network is meta-trained.

Raghu et al., Rapid Learning or Feature Reuse?, ICLR 2020. https://arxiv.org/abs/1909.09157
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.head import head_of
from fml_lightning.learners.maml import MAML
from fml_lightning.objectives import Objective


class ANIL(MAML):
    """`MAML` whose inner loop adapts the head alone: cheap, and the body is one for all machines.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop; its `parameters` are replaced by the head's.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        head: shell-style patterns of the head's parameters; the last layer unless you say otherwise.
        **options: as of `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        inner_loop: InnerLoop | None = None,
        adaptation: InnerLoop | None = None,
        head: tuple[str, ...] | None = None,
        **options: Any,
    ) -> None:
        parameters = head or head_of(net)
        inner_loop = replace(inner_loop or InnerLoop(), parameters=parameters)
        adaptation = replace(adaptation or inner_loop, parameters=parameters)
        super().__init__(net, objective, inner_loop, adaptation, **options)
