"""FedPer: a body shared by all sites, a head of each site's own.

Arivazhagan et al., Federated Learning with Personalization Layers, 2019. https://arxiv.org/abs/1912.00818
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.learners.head import head_of
from fml_lightning.learners.supervised import Supervised
from fml_lightning.objectives import Objective


class FedPer(Supervised):
    """`Supervised` whose head is `personal`: trained with the body, but kept at its site.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine adapts; its `parameters` are replaced by the head's.
        head: shell-style patterns of the head's parameters; the last layer unless you say otherwise.
        **options: as of `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        head: tuple[str, ...] | None = None,
        **options: Any,
    ) -> None:
        self.head = head or head_of(net)
        adaptation = replace(adaptation or InnerLoop(), parameters=self.head)
        super().__init__(net, objective, adaptation, personal=self.head, **options)
