"""Consistency: the network should say the same of two noisy copies of a window.

Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017. https://arxiv.org/abs/1610.02242 (the
Π-model)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.objectives.support_objective import SupportObjective
from fml_lightning.types import Examples


class Consistency(SupportObjective):
    """The mean squared difference of the raw outputs on two copies of each support window; needs no label.

    Args:
        noise: deviation of the normal noise added to every feature of a copy, in the features' unit; at least 0.
        drop: share of the features that each copy goes without (they are 0, the normal state where features are
            centred), in [0, 1).
        objective_weight: how much of the learner's own objective is added; at least 0.
    """

    def __init__(self, noise: float = 0.1, drop: float = 0.0, objective_weight: float = 0.0) -> None:
        super().__init__(objective_weight)
        if not noise >= 0 or not 0 <= drop < 1 or not noise + drop > 0:
            raise UserError(
                "Consistency: expected noise of at least 0 and drop in [0, 1), one of them above 0, got"
                f" {noise} and {drop}"
            )
        self.noise = noise
        self.drop = drop

    def views(self, x: Tensor) -> Tensor:
        """Two noisy copies of each window, (T, 2 · S, …)."""
        copies = torch.cat([x, x], 1)
        if self.noise:
            copies = copies + self.noise * self.drawn(torch.randn, copies)
        if self.drop:
            copies = torch.where(self.drawn(torch.rand, copies, seed=1) < self.drop, 0, copies)
        return copies

    def loss(self, outputs: Tensor, support: Examples) -> Tensor:
        """Mean over windows and outputs, (T,)."""
        first, second = outputs.chunk(2, dim=1)
        return support.mean(((first - second) ** 2).flatten(2).mean(2))
