"""The contract of support objectives: what an inner loop minimizes where labels say too little.

A machine that has shown no fault has normal windows only. Cross-entropy on one class alone teaches a network to
call everything normal; a support objective learns something else from the same windows. The outer loop judges all
classes as ever.

Frikha et al., Few-Shot One-Class Classification via Meta-Learning, AAAI 2021. https://arxiv.org/abs/2007.04146
(cross-entropy on the one class, meta-learned so that its steps serve the other class too: `MAML` without a support
objective); Bartler et al., MT3: Meta Test-Time Training, AISTATS 2022. https://arxiv.org/abs/2103.16201 (another
inner than outer loss).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError
from fml_lightning.objectives.objective import Objective
from fml_lightning.types import Examples, Params, StackedForward

StackedLoss = Callable[[Tensor, Examples], Tensor]
"""Outputs (T, N, …) and examples → the mean loss of each task, (T,)."""


class SupportObjective(nn.Module, ABC):
    """A loss of what the network says of a support set, for T tasks at once.

    A module, so that its parameters, if it has any, are meta-parameters: trained by the outer loop and averaged
    over sites like the network's. In evaluation mode it gives the same for the same windows.

    Args:
        objective_weight: how much of the learner's own objective, which reads labels, is added; at least 0.
    """

    def __init__(self, objective_weight: float = 0.0) -> None:
        super().__init__()
        if not objective_weight >= 0:
            raise UserError(
                f"{type(self).__name__}: expected objective_weight of at least 0, got {objective_weight}"
            )
        self.objective_weight = objective_weight

    @property
    def is_learned(self) -> bool:
        """Whether it has parameters to train."""
        return any(p.requires_grad for p in self.parameters())

    def views(self, x: Tensor) -> Tensor:
        """What the network sees of support windows: one or several whole sets, (T, S, …) → (T, V · S, …)."""
        return x

    @abstractmethod
    def loss(self, outputs: Tensor, support: Examples) -> Tensor:
        """The loss of each task, (T,).

        Args:
            outputs: of the network on the views, (T, V · S, …).
            support: the support sets as they are, (T, S, …).
        """

    def in_place_of(
        self, objective: Objective, outputs: StackedForward, support: Examples
    ) -> tuple[StackedForward, StackedLoss]:
        """Outputs on the views, drawn once for all steps, and their loss, as an inner loop takes them.

        Args:
            objective: the learner's own.
            outputs: the network, for T stacked tasks.
            support: the support sets.
        """
        seen = self.views(support.x)
        copies = seen.shape[1] // support.x.shape[1]

        def of_views(adapted: Params, _: Tensor) -> Tensor:
            return outputs(adapted, seen)

        def loss(said: Tensor, examples: Examples) -> Tensor:
            own = self.loss(said, examples)
            if not self.objective_weight:
                return own
            every = examples.map(lambda tensor: torch.cat([tensor] * copies, 1))
            return own + self.objective_weight * objective.loss(said, every)

        return of_views, loss

    def drawn(self, draw: Callable[..., Tensor], x: Tensor, seed: int = 0) -> Tensor:
        """Random numbers for support windows: in training anew for each, in evaluation the same for every task.

        So adaptation at a machine is a function of its windows alone, however many tasks are stacked.

        Args:
            draw: `torch.randn` or `torch.rand`.
            x: windows, (T, S, …), whose shape the numbers have.
            seed: of the numbers in evaluation. Two draws of the same seed depend on each other, whatever they
                draw: an objective that draws more than once gives each its own.
        """
        if self.training:
            return draw(x.shape, dtype=x.dtype, device=x.device)
        fixed = draw((1, *x.shape[1:]), dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        return fixed.to(x.device).expand_as(x)


def perceptron(in_features: int, hidden: Sequence[int], out_features: int, bias: bool = True) -> nn.Sequential:
    """Linear layers, the last with or without a bias, and SiLU between them.

    SiLU is smooth, so that a gradient of a gradient says more than signs.
    """
    widths = [in_features, *hidden]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out_features, bias=bias))
